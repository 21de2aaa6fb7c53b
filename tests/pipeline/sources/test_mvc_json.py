import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.recipe import RecipeError
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.mvc_json import MvcJsonSection, MvcJsonSource, default_root

RED, BLUE = b"\xff\xd8\xff red", b"\xff\xd8\xff blue"


def _record(**changes: Any) -> dict[str, Any]:
    record = {
        "chosen_images": ["flickr30k/1.jpg"],
        "rejected_images": ["made/1.jpg"],
        "system_prompt": "",
        "instruction_prompt": "Which colour is the hat?",
        "chosen_response": "The hat is red.",
        "rejected_response": "The hat is blue.",
    }
    return {key: value for key, value in {**record, **changes}.items() if value is not ...}


def _repository(folder: Path, records: Any) -> Path:
    """The official layout: the list in data/, image paths relative to the folder above."""
    for name, data in {"flickr30k/1.jpg": RED, "made/1.jpg": BLUE}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = folder / "data/mvc.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(records))
    return path


def _read(path: Path, **options: Any) -> list[Candidate | Malformed]:
    source = MvcJsonSource(MvcJsonSection(kind="mvc_json", path=str(path), **options))
    return list(source.read(0, source.count()))


def test_a_record_of_the_official_layout_becomes_a_candidate(tmp_path: Path) -> None:
    (row,) = _read(_repository(tmp_path, [_record(system_prompt="Be brief.")]), license="unstated")
    assert row == Candidate(
        source="mvc_json",
        source_id="row-0",
        category="other",
        operation="generate",
        group="flickr30k/1.jpg",
        image_a=RED,
        image_b=BLUE,
        caption_a="The hat is red.",
        caption_b="The hat is blue.",
        license="unstated",
        question="Which colour is the hat?",
        meta='{"system_prompt": "Be brief."}',
    )


def test_what_a_record_states_itself_is_kept(tmp_path: Path) -> None:
    stated = {"category": "attribute", "operation": "render", "group": "scene 7", "license": "MIT"}
    (row,) = _read(_repository(tmp_path, [_record(**stated)]))
    assert {name: getattr(row, name) for name in stated} == stated


def test_any_range_gives_the_same_rows(tmp_path: Path) -> None:
    records = [_record(chosen_response=f"Hat {number}.") for number in range(7)]
    source = MvcJsonSource(
        MvcJsonSection(kind="mvc_json", path=str(_repository(tmp_path, records)))
    )
    assert list(source.read(0, 7)) == [
        row for start in range(0, 7, 3) for row in source.read(start, start + 3)
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([1], "record_not_an_object"),
        (_record(chosen_images=...), "record_without_chosen_images"),
        (_record(chosen_images=[]), "record_chosen_images_not_one_image"),
        (
            _record(rejected_images=["made/1.jpg", "made/1.jpg"]),
            "record_rejected_images_not_one_image",
        ),
        (_record(rejected_images="made/1.jpg"), "record_rejected_images_not_one_image"),
        (_record(rejected_images=[{"path": "x"}]), "record_rejected_images_not_a_path"),
        (_record(chosen_images=["none.jpg"]), "image_a_file_missing"),
        (_record(rejected_images=["../outside.jpg"]), "image_b_outside_root"),
        (_record(chosen_response=...), "record_without_chosen_response"),
        (_record(rejected_response=3), "record_rejected_response_not_text"),
        (_record(instruction_prompt=["q"]), "record_instruction_prompt_not_text"),
        (_record(category="vibes"), "category_unknown"),
        (_record(chosen_response="half \ud83d emoji"), "record_not_unicode"),
    ],
)
def test_a_bad_record_costs_itself_and_says_why(tmp_path: Path, bad: Any, reason: str) -> None:
    (tmp_path / "outside.jpg").write_bytes(RED)
    before, row, after = _read(_repository(tmp_path / "repo", [_record(), bad, _record()]))
    assert isinstance(before, Candidate) and isinstance(after, Candidate)
    assert isinstance(row, Malformed)
    assert (row.reason, row.source_id) == (reason, "row-1")


def test_a_question_may_be_absent(tmp_path: Path) -> None:
    (row,) = _read(_repository(tmp_path, [_record(instruction_prompt=...)]))
    assert isinstance(row, Candidate) and row.question is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "expected JSON"), ('{"a": 1}', "holds dict"), ("[]", "an empty list")],
)
def test_a_file_that_is_no_list_of_records_is_refused(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "mvc.json").write_text(text)
    with pytest.raises(RecipeError, match=complaint):
        _read(tmp_path / "mvc.json")


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/repo/data/mvc.json", "/repo"),
        ("/export/mvc.json", "/export"),
        ("mvc.json", "."),
        ("data/mvc.json", "."),
        ("s3://b/data/m.json", "s3://b"),
    ],
)
def test_image_paths_start_above_a_folder_called_data(path: str, root: str) -> None:
    assert default_root(path) == root


def test_identity_changes_with_the_list_and_with_an_image_but_not_with_the_place(
    tmp_path: Path,
) -> None:
    def identity(path: Path) -> dict[str, object]:
        return MvcJsonSource(MvcJsonSection(kind="mvc_json", path=str(path))).identity()

    path = _repository(tmp_path / "one", [_record()])
    first = identity(path)
    (tmp_path / "one").rename(tmp_path / "two")
    path = tmp_path / "two/data/mvc.json"
    assert identity(path) == first
    (tmp_path / "two/made/1.jpg").write_bytes(BLUE + b"!")
    second = identity(path)
    assert second["images"] != first["images"]
    path.write_text(json.dumps([_record(license="MIT")]))
    assert identity(path)["list"] != second["list"]
