import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.recipe import RecipeError
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.pairs import PairsColumns, PairsSection, PairsSource

GOOD = {
    "image_a": "images/0-0.jpg",
    "image_b": "images/0-1.jpg",
    "caption_a": "a",
    "caption_b": "b",
    "category": "object",
}


def _read(path: Path, **options: object) -> list[Candidate | Malformed]:
    source = PairsSource(PairsSection(kind="pairs", path=str(path), **options))
    return list(source.read(0, source.count()))


def test_a_manifest_is_read_in_order_and_bytes_are_untouched(manifest: Callable[..., Path]) -> None:
    path = manifest(2)
    rows = _read(path)
    assert [row.source_id for row in rows] == [
        "0-0",
        "0-1",
        "0-2",
        "0-3",
        "1-0",
        "1-1",
        "1-2",
        "1-3",
    ]
    first = rows[0]
    assert isinstance(first, Candidate)
    assert first.image_a == (path.parent / "images/0-0.jpg").read_bytes()
    assert (first.category, first.group, first.license, first.operation) == (
        "count",
        "group-0",
        "CC0-1.0",
        "captured",
    )


def test_any_range_gives_the_same_rows(manifest: Callable[..., Path]) -> None:
    source = PairsSource(PairsSection(kind="pairs", path=str(manifest(3))))
    assert list(source.read(0, 12)) == [
        row for start in range(0, 12, 5) for row in source.read(start, start + 5)
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "line_not_json"),
        ("[1, 2]", "line_not_an_object"),
        (json.dumps({**GOOD, "image_a": "images/none.jpg"}), "image_a_file_missing"),
        (json.dumps({**GOOD, "image_b": "../outside.jpg"}), "image_b_outside_root"),
        (json.dumps({**GOOD, "image_a": "/etc/hostname"}), "image_a_outside_root"),
        (json.dumps({**GOOD, "image_a": "images/link.jpg"}), "image_a_outside_root"),
        (json.dumps({**GOOD, "image_a": "images/\u0000.jpg"}), "image_a_file_unreadable"),
        (
            json.dumps({k: v for k, v in GOOD.items() if k != "caption_b"}),
            "caption_b_missing_in_manifest",
        ),
        (json.dumps({**GOOD, "category": "vibes"}), "category_unknown"),
        (json.dumps({**GOOD, "caption_a": "NaN"}), "caption_a_missing_in_manifest"),
        (json.dumps({**GOOD, "question": ["What?"]}), "question_not_text"),
        (json.dumps({**GOOD, "license": {"name": "MIT"}}), "license_not_text"),
        (json.dumps({**GOOD, "caption_a": float("nan")}), "caption_a_missing_in_manifest"),
        (json.dumps({**GOOD, "caption_a": ["a"]}), "caption_a_not_text"),
        (json.dumps({**GOOD, "meta": "not json"}), "meta_not_json"),
        (json.dumps({**GOOD, "meta": {"x": float("nan")}}), "meta_not_json"),
        (json.dumps({**GOOD, "caption_b": "half \ud83d emoji"}), "line_not_unicode"),
        ("[" * 200_000, "line_not_json"),
    ],
)
def test_a_bad_line_costs_its_own_row_and_says_why(
    manifest: Callable[..., Path], line: str, reason: str
) -> None:
    path = manifest(1, [line])
    (path.parent.parent / "outside.jpg").write_bytes(b"x")
    (path.parent / "images/link.jpg").symlink_to(path.parent.parent / "outside.jpg")
    rows = _read(path)
    assert [type(row).__name__ for row in rows] == [
        "Candidate",
        "Candidate",
        "Malformed",
        "Candidate",
        "Candidate",
    ]
    assert rows[2].reason == reason  # type: ignore[union-attr]


def test_a_column_map_and_csv(manifest: Callable[..., Path]) -> None:
    path = manifest(1).parent / "pairs.csv"
    path.write_text('left,right,text_a,text_b\nimages/0-0.jpg,images/0-1.jpg,"one, dot",two dots\n')
    columns = PairsColumns(
        id=None,
        image_a="left",
        image_b="right",
        caption_a="text_a",
        caption_b="text_b",
        category=None,
        group=None,
    )
    (row,) = _read(path, columns=columns, name="mine", license="MIT")
    assert isinstance(row, Candidate)
    assert (row.source, row.source_id, row.caption_a, row.category, row.group, row.license) == (
        "mine",
        "row-0",
        "one, dot",
        "other",
        "images/0-0.jpg",
        "MIT",
    )


def test_a_number_as_id_or_group_and_nan_for_what_is_missing(manifest: Callable[..., Path]) -> None:
    line = json.dumps(
        {
            **GOOD,
            "id": 7,
            "group": 3.0,
            "license": float("nan"),
            "meta": {"b": 1, "a": 2},
            "operation": None,
        }
    )
    row = _read(manifest(1, [line]), license="MIT")[2]
    assert isinstance(row, Candidate)
    assert (row.source_id, row.group, row.license, row.meta, row.operation) == (
        "7",
        "3.0",
        "MIT",
        '{"a": 2, "b": 1}',
        "captured",
    )


def test_the_identity_notices_changed_images_and_another_root(
    manifest: Callable[..., Path], tmp_path: Path
) -> None:
    path = manifest(1)

    def identity(**options: object) -> dict[str, object]:
        return PairsSource(PairsSection(kind="pairs", path=str(path), **options)).identity()

    before = identity()
    assert identity() == before
    assert identity(root=str(tmp_path)) != before
    (path.parent / "images/0-1.jpg").write_bytes(b"other")
    assert identity() != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.json", b"[]", "ends in .jsonl, .ndjson, .csv or .tsv"),
        (
            "pairs.csv",
            b"left;right\nx;y\n",
            r"no row of .* has 'image_a' \(for image_a\); it has left, right",
        ),
        (
            "pairs.csv",
            "image_a\nein gr\u00fcner Ball\n".encode("cp1252"),
            "is not text in UTF-8 from line 2 on",
        ),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_as_a_whole(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        PairsSource(PairsSection(kind="pairs", path=str(tmp_path / name)))


def test_nothing_to_read_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected a file at"):
        PairsSource(PairsSection(kind="pairs", path=str(tmp_path / "none.jsonl")))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(RecipeError, match="has no rows"):
        PairsSource(PairsSection(kind="pairs", path=str(tmp_path / "empty.jsonl")))


def test_every_photograph_of_hands_is_read(test_data: Path) -> None:
    source = PairsSource(PairsSection(kind="pairs", path=str(test_data / "hands" / "pairs.jsonl")))
    assert source.count() == 6750
    assert all(isinstance(row, Candidate) for row in source.read(0, 100))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("ending", [".jsonl", ".tsv"])
def test_a_manifest_in_any_unicode_encoding(
    manifest: Callable[..., Path], encoding: str, ending: str
) -> None:
    path = manifest(0).with_name(f"pairs{ending}")
    rows = [{**GOOD, "caption_a": f"ein gr\u00fcner Ball {number}"} for number in range(3)]
    lines = (
        [json.dumps(row, ensure_ascii=False) for row in rows]
        if ending == ".jsonl"
        else ["\t".join(GOOD), *("\t".join(row.values()) for row in rows)]
    )
    path.write_bytes("\r\n".join(lines).encode(encoding))
    assert [row.caption_a for row in _read(path)] == [row["caption_a"] for row in rows]


def test_a_record_with_fields_too_many_or_too_few_costs_itself(
    manifest: Callable[..., Path],
) -> None:
    path = manifest(1).with_name("pairs.csv")
    good = ",".join(GOOD.values())
    path.write_text("\n".join([",".join(GOOD), good, f"{good},more", "images/0-0.jpg", good]))
    reasons = [row.reason if isinstance(row, Malformed) else "" for row in _read(path)]
    assert reasons == ["", "line_with_too_many_fields", "line_with_too_few_fields", ""]


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image_a,image_a\nx,y\n")
    with pytest.raises(RecipeError, match="line 1: expected each column once, got 'image_a' twice"):
        PairsSource(PairsSection(kind="pairs", path=str(tmp_path / "pairs.csv")))


@pytest.mark.parametrize(
    ("word", "category"),
    [("Attribute", "attribute"), ("color", "attribute"), ("Count", "count"), ("counting", "count")],
)
def test_usual_words_for_categories_are_known(
    manifest: Callable[..., Path], word: str, category: str
) -> None:
    row = _read(manifest(1, [json.dumps({**GOOD, "category": word})]))[2]
    assert isinstance(row, Candidate) and row.category == category


def test_a_map_names_other_categories(manifest: Callable[..., Path]) -> None:
    path = manifest(1, [json.dumps({**GOOD, "category": "vibes"})])
    row = _read(path, category_map={"vibes": "other"})[2]
    assert isinstance(row, Candidate) and row.category == "other"


@pytest.mark.parametrize(
    ("changed", "meta"),
    [
        ({"category": "vibes"}, {"category": "vibes"}),
        (
            {"image_b": "images\\cup%201.jpg"},
            {"looked_for": {"image_a": "images/0-0.jpg", "image_b": "images\\cup%201.jpg"}},
        ),
        ({"caption_b": ["x"]}, {"caption_b": "['x']"}),
    ],
)
def test_a_reject_shows_what_its_reason_is_about(
    manifest: Callable[..., Path], changed: dict[str, object], meta: dict[str, object]
) -> None:
    row = _read(manifest(1, [json.dumps({**GOOD, **changed})]))[2]
    assert isinstance(row, Malformed) and json.loads(row.meta) == meta
