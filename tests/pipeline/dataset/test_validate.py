"""`svco validate`: a folder that is in order, and one broken folder for every problem that it
knows.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.schema import MvcError, pair_id, sha256_hex
from pipeline.core.storage import sha256_file
from pipeline.dataset.row_checks import group_problems
from pipeline.dataset.validate import problems

ROOT = Path(__file__).resolve().parents[3]
TRAIN = "data/train-00000-of-00001.parquet"

Splits = dict[str, list[dict[str, Any]]]
Make = Callable[..., Path]


def _found(folder: Path, *, quick: bool = False) -> list[tuple[str, str]]:
    return [(problem.where, problem.kind) for problem in problems(folder, quick=quick)]


def _kinds(folder: Path, *, quick: bool = False) -> list[str]:
    return [kind for _, kind in _found(folder, quick=quick)]


def _edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return folder


def _rewrite_shard(folder: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Writes the training shard anew, and its checksum, so that only the change is wrong."""
    pq.write_table(change(pq.read_table(folder / TRAIN, partitioning=None)), folder / TRAIN)
    return _edit_manifest(
        folder, lambda manifest: manifest["files"].update({TRAIN: sha256_file(folder / TRAIN)})
    )


def test_nothing_is_wrong_with_a_good_folder(published: Make) -> None:
    assert _found(published()) == []
    assert _found(published(), quick=True) == []


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(MvcError, match="expected an MVC folder, found none there"):
        problems(tmp_path / "nowhere", quick=False)


def _set(split: str, **values: object) -> Callable[[Splits], None]:
    """Gives the middle row of a split other values."""
    return lambda splits: splits[split][1].update(values)


def _swap(splits: Splits) -> None:
    rows = splits["train"]
    rows[0], rows[1] = rows[1], rows[0]


def _broken_picture(splits: Splits) -> None:
    row = splits["train"][1]
    data = row["image_a"]["bytes"][:-300]
    row |= {"image_a": {"bytes": data, "path": None}, "image_a_sha256": sha256_hex(data)}
    row["pair_id"] = pair_id(
        row["image_a_sha256"], row["caption_a"], row["image_b_sha256"], row["caption_b"]
    )
    splits["train"].sort(key=lambda row: row["pair_id"])


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (_set("train", question=None), "null"),
        (_set("train", image_b=None), "null"),
        (_set("train", rewrite_status=None), "null"),
        (_set("rejects", source_id=None), "null"),
        (_set("train", answer_a=""), "empty"),
        (_set("rejects", drop_reason=""), "empty"),
        (_set("train", category="colour"), "value"),
        (_set("train", rewrite_status="written"), "value"),
        (_set("train", clip_image_cos=1.25), "score_range"),
        (_set("train", caption_margin_a=-2.5), "score_range"),
        (_set("train", clip_image_cos=float("nan")), "score_range"),
        (_set("train", dinov2_image_cos=0.12345), "score_rounding"),
        (_set("rejects", dinov2_image_cos=0.12345), "score_rounding"),
        (_set("train", caption_a="A red star beside no hut."), "pair_id"),
        (_swap, "unsorted"),
        (lambda splits: splits["train"].insert(0, splits["train"][0]), "pair_repeated"),
        (
            lambda splits: splits["validation"][1].update(group=splits["train"][4]["group"]),
            "group_in_both_splits",
        ),
        (_set("train", image_a={"bytes": b"other", "path": None}), "image_sha256"),
        (_set("train", image_a={"bytes": None, "path": "a.jpg"}), "image_bytes"),
        (_broken_picture, "image_undecodable"),
        (_set("train", question="Is the star red?"), "question_leaks"),
    ],
)
def test_a_row_that_breaks_the_contract_is_named(
    change: Callable[[Splits], object], kind: str, published: Make
) -> None:
    found = _found(published(change))
    assert kind in [found_kind for _, found_kind in found]
    # Other bytes than the column says cannot be decoded either.
    assert {found_kind for _, found_kind in found} <= {
        kind,
        *(["image_undecodable"] if kind == "image_sha256" else []),
    }
    assert all(where.split()[0].endswith(".parquet") and " row " in where for where, _ in found)


def test_a_pair_in_both_splits_takes_its_group_and_pictures_there(published: Make) -> None:
    def copy(splits: Splits) -> None:
        splits["validation"] = sorted(
            [*splits["validation"], dict(splits["train"][2])], key=lambda row: row["pair_id"]
        )

    assert _kinds(published(copy)) == [
        "pair_repeated",
        "group_in_both_splits",
        "image_in_both_splits",
        "image_in_both_splits",
    ]


def test_a_rejected_pair_may_repeat_a_kept_one_and_lack_a_picture(published: Make) -> None:
    def repeat(splits: Splits) -> None:
        row = splits["train"][0] | {
            "drop_reason": "duplicate_pair",
            "image_b": None,
            "answer_a": None,
        }
        splits["rejects"] = sorted([*splits["rejects"], row], key=lambda row: row["pair_id"])

    assert _found(published(repeat)) == []


def test_a_leak_is_a_warning_that_quotes_the_question(published: Make) -> None:
    (problem,) = problems(published(_set("train", question="Is\nthe star red?")), quick=True)
    assert problem.is_warning
    assert problem.line().startswith(f"warning: {TRAIN} row 1 (pair_id ")
    assert problem.line().endswith("): the question 'Is\\nthe star red?' gives away red")


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda table: table.drop_columns(["license"]), ["column_missing"]),
        (lambda table: table.append_column("mine", pa.array([1] * len(table))), ["column_extra"]),
        (
            lambda table: table.set_column(13, "clip_image_cos", pa.array(["1"] * len(table))),
            ["column_type"],
        ),
        (lambda table: table.select([*table.column_names[1:], "pair_id"]), ["column_order"]),
        (lambda table: table.replace_schema_metadata(None), ["features"]),
    ],
)
def test_columns_are_those_of_the_contract(
    change: Callable[[pa.Table], pa.Table], kinds: list[str], published: Make
) -> None:
    assert _kinds(_rewrite_shard(published(), change)) == kinds


def test_rows_are_checked_although_a_column_is_one_too_many(published: Make) -> None:
    folder = _rewrite_shard(
        published(_set("train", answer_a="")),
        lambda table: table.append_column("mine", pa.array([1] * len(table))),
    )
    assert sorted(_kinds(folder)) == ["column_extra", "empty"]


def test_a_row_group_that_the_viewer_cannot_read_is_named() -> None:
    (problem,) = group_problems(TRAIN, [300_000_000, 300_000_001])
    assert (
        problem.message
        == "row group 1 has 300 MB, more than the 300 MB that the Hub's viewer reads"
    )


def test_a_missing_manifest_does_not_hide_what_is_wrong_with_the_rows(published: Make) -> None:
    folder = published(_set("train", question=None))
    (folder / "manifest.json").unlink()
    assert _kinds(folder) == ["manifest", "null"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda manifest: manifest.update(schema_version=99), [("manifest.json", "manifest")]),
        (lambda manifest: manifest.pop("files"), [("manifest.json", "manifest")]),
        (lambda manifest: manifest.pop("rows"), [("manifest.json", "manifest")]),
        (lambda manifest: manifest["files"].pop(TRAIN), [(TRAIN, "shard_extra")]),
        (
            lambda manifest: manifest["files"].update({"data/gone.parquet": "0"}),
            [("data/gone.parquet", "shard_missing")],
        ),
        (lambda manifest: manifest["files"].update({TRAIN: "0"}), [(TRAIN, "sha256")]),
        (lambda manifest: manifest["rows"].update(kept=11), [("manifest.json", "count")]),
        (
            lambda manifest: manifest["rows"]["by_split"].update(train=7, validation=3),
            [("manifest.json", "count")] * 2,
        ),
        (
            lambda manifest: manifest["rows"]["dropped_by_reason"].update(other=1),
            [("manifest.json", "count")],
        ),
        (
            lambda manifest: manifest["rows"]["kept_by_source"].update({"source-0": 0}),
            [("manifest.json", "count")],
        ),
    ],
)
def test_the_manifest_is_held_against_the_files(
    change: Callable[[dict[str, Any]], object], found: list[tuple[str, str]], published: Make
) -> None:
    assert _found(_edit_manifest(published(), change)) == found


def test_a_wrong_count_is_told_with_both_numbers(published: Make) -> None:
    folder = _edit_manifest(
        published(), lambda manifest: manifest["rows"]["kept_by_category"].update(attribute=50)
    )
    assert [problem.line() for problem in problems(folder, quick=True)] == [
        "manifest.json: rows.kept_by_category.attribute: says 50, there are 5"
    ]


def test_names_of_files_are_those_that_readers_look_for(published: Make) -> None:
    folder = published()
    (folder / TRAIN).rename(folder / "data/train-00001-of-00003.parquet")
    (folder / "data/validation-00000-of-00001.parquet").rename(folder / "data/Validation.parquet")
    (folder / "rejects/notes.txt").write_text("x")
    names = [(where, kind) for where, kind in _found(folder) if kind.startswith("file_")]
    assert names == [
        ("data/Validation.parquet", "file_name"),
        ("rejects/notes.txt", "file_name"),
        ("data/train", "file_numbers"),
    ]


def test_shards_of_two_writings_are_seen(published: Make) -> None:
    folder = published()
    (folder / "data/train-00000-of-00002.parquet").write_bytes((folder / TRAIN).read_bytes())
    lines = [
        problem.line() for problem in problems(folder, quick=True) if problem.kind == "file_numbers"
    ]
    assert lines == [
        "data/train: of 2 files numbered from 0, these are missing or too many: [1]",
        "data/train: files of several writings are mixed: -of- 1 and 2",
    ]


def test_a_shard_that_is_no_parquet_is_one_problem_and_the_others_are_read(published: Make) -> None:
    folder = published(_set("validation", answer_b=""))
    (folder / TRAIN).write_bytes(b"PAR1 or not")
    assert _found(folder, quick=True)[0] == (TRAIN, "unreadable")
    assert _kinds(folder) == ["sha256", "unreadable", "empty"]


def test_quick_leaves_out_what_needs_bytes(published: Make) -> None:
    def break_bytes(splits: Splits) -> None:
        splits["train"][1]["image_a"] = {"bytes": b"other", "path": None}

    folder = _edit_manifest(
        published(break_bytes), lambda manifest: manifest["files"].update({TRAIN: "0"})
    )
    assert _kinds(folder) == ["sha256", "image_sha256", "image_undecodable"]
    assert _kinds(folder, quick=True) == []


def test_a_missing_card_is_a_warning(published: Make) -> None:
    folder = published()
    (folder / "README.md").unlink()
    (problem,) = problems(folder, quick=True)
    assert (problem.kind, problem.is_warning) == ("card_missing", True)


@pytest.mark.slow
def test_the_command_says_fine_or_lists_what_is_wrong_and_ends_accordingly(
    lean_command: Callable[..., Any], published: Make, tmp_path: Path
) -> None:
    def spoil(splits: Splits) -> None:
        for row in splits["train"]:
            row["answer_a"] = ""
        splits["train"][0]["question"] = "Is the star blue?"

    good, bad = published(), published(spoil)
    fine = lean_command("validate", good)
    faulty = lean_command("validate", bad, "--quick", "--show", 2, code=1)
    nowhere = lean_command("validate", tmp_path / "nowhere", code=2)
    runs = (fine, faulty, nowhere)
    lines = [line for run in runs for line in run.stdout.splitlines()]
    said = [line for run in runs for line in run.stderr.splitlines()]
    assert lines[0] == f"{good}: fine; 8 train, 2 validation, 3 rejects"
    assert [line.split("): ")[-1] for line in lines[1:4]] == [
        "answer_a is empty",
        "the question 'Is the star blue?' gives away blue",
        "answer_a is empty",
    ]
    assert lines[4] == "... and 6 more problems of the kind 'empty' (--show 0 shows all)"
    assert lines[5:] == [f"{bad}: 8 problems; 8 train, 2 validation, 3 rejects; 1 warning"]
    assert said == [
        f"error: {tmp_path}/nowhere: expected an MVC folder, found none there; make one with svco"
        " build"
    ]
