import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.recipe import RecipeError
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.finecops_ref import FinecopsRefSection, FinecopsRefSource, category
from tests.pipeline import native

NATIVE = ("test_expression_pos.json", "test_expression_neg.json")
COCO = ("test_expression_pos_coco_format.json", "test_expression_neg_coco_format.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native.write_finecops_ref(tmp_path_factory.mktemp("finecops_ref"), 3)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "source"))


def _open(folder: Path | str, **options: object) -> FinecopsRefSource:
    return FinecopsRefSource(FinecopsRefSection(kind="finecops_ref", path=str(folder), **options))


def _read(folder: Path | str, **options: object) -> list[Candidate | Malformed]:
    source = _open(folder, **options)
    rows = list(source.read(0, source.count()))
    assert len(rows) == source.count()
    return rows


def _reasons(rows: list[Candidate | Malformed]) -> list[str]:
    return [getattr(row, "reason", "") for row in rows]


def _edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Changes a JSON file by what `change` does to its content."""
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("annotations", [NATIVE, COCO, COCO[::-1]])
def test_image_negatives_are_rows_and_text_negatives_are_not(
    folder: Path, annotations: tuple[str, ...]
) -> None:
    rows = _read(folder, annotations=annotations)
    assert all(isinstance(row, Candidate) for row in rows)
    assert Counter(row.category for row in rows) == {
        "object": 3,
        "attribute": 3,
        "position": 3,
        "other": 3,
    }
    assert {row.operation for row in rows} == {"inpaint"}
    assert not any("green" in row.caption_b for row in rows)


def test_both_forms_give_the_same_pairs(folder: Path) -> None:
    coco, listed = _read(folder), _read(folder, annotations=NATIVE)
    for one, other in zip(coco, listed, strict=True):
        for name in ("category", "group", "caption_a", "caption_b", "image_a", "image_b"):
            assert getattr(one, name) == getattr(other, name)


def test_a_negative_is_joined_with_its_own_positive(folder: Path) -> None:
    row = _read(folder, annotations=NATIVE, license="CC-BY-4.0", name="fc")[5]
    assert isinstance(row, Candidate)
    assert (row.source, row.source_id, row.license) == (
        "fc",
        "test_expression_neg/10006",
        "CC-BY-4.0",
    )
    assert (row.category, row.group) == ("attribute", "gqa/2370011")
    assert (row.caption_a, row.caption_b) == (
        "The bicycle beside the red woman.",
        "The bicycle beside the blue woman.",
    )
    assert row.image_a == (folder / "images/2370011.jpg").read_bytes()
    assert row.image_b == (folder / "neg_images/2370011_10006.jpg").read_bytes()
    meta = json.loads(row.meta)
    assert (meta["positive_id"], meta["negative_type"], meta["level"], meta["objects_id"]) == (
        1,
        "attribute",
        2,
        ["11", "12"],
    )


@pytest.mark.parametrize(
    ("negative_type", "spatial", "expected"),
    [
        ("attribute", None, "attribute"),
        ("object", None, "object"),
        ("replace_object", None, "object"),
        ("relation", None, "position"),
        ("relation", True, "position"),
        ("relation", False, "relation"),
        ("order", True, "other"),
        ("colour of the sky", None, "other"),
        (None, None, "other"),
        (["attribute"], None, "attribute"),
    ],
)
def test_the_negative_type_names_the_category(
    negative_type: object, spatial: object, expected: str
) -> None:
    assert category({"negative_type": negative_type, "spatial": spatial}, {}) == expected


def test_where_the_negative_does_not_say_its_positive_says_whether_it_is_spatial() -> None:
    assert category({"negative_type": "relation"}, {"spatial": False}) == "relation"
    assert (
        category({"negative_type": "relation", "spatial": True}, {"spatial": False}) == "position"
    )


def test_excluded_types_are_counted_rows_with_their_reason(folder: Path) -> None:
    rows = _read(folder, exclude_types=("order",))
    assert _reasons(rows) == ["", "", "", "negative_type_order_excluded"] * 3
    assert (rows[3].caption_a, rows[3].caption_b) == (
        "The dog beside the red man.",
        "The red man beside the dog.",
    )


def test_any_range_gives_the_same_rows(folder: Path) -> None:
    source, again = _open(folder), _open(folder)
    assert list(source.read(0, 12)) == [
        row for start in range(0, 15, 5) for row in again.read(start, start + 5)
    ]


def test_positives_and_negatives_may_stand_in_one_file_and_image_names_in_one_folder(
    folder: Path,
) -> None:
    both = json.loads((folder / COCO[0]).read_text())
    negatives = json.loads((folder / COCO[1]).read_text())
    for image in both["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    for key in ("images", "annotations"):
        both[key] += negatives[key]
    (folder / "test.json").write_text(json.dumps(both))
    rows = _read(folder, annotations=("test.json",))
    assert [(row.image_a, row.group) for row in rows] == [
        (row.image_a, row.group) for row in _read(folder)
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"positive_id": 999}, "positive_missing"),
        ({"positive_id": None}, "record_without_positive_id"),
        ({"image_id": None}, "record_without_image_id"),
        ({"expression": None}, "record_without_expression"),
        ({"expression": 7}, "record_expression_not_text"),
        ({"expression": "half \ud83d emoji"}, "record_expression_not_unicode"),
        ({"negative_cate": None}, "record_without_negative_cate"),
        ({"negative_cate": "sound"}, "negative_cate_unknown"),
        ({"image_id": "none"}, "image_b_file_missing"),
        ({"image_id": "../../secret"}, "image_b_outside_root"),
        ({"image_id": "/etc/hostname"}, "image_b_outside_root"),
    ],
)
def test_a_bad_negative_costs_its_own_row_and_says_why(
    folder: Path, change: dict[str, object], reason: str
) -> None:
    native.save(folder.parent / "secret.jpg", native.photograph(7))
    _edit(folder, NATIVE[1], lambda records: records[1].update(change))
    rows = _read(folder, annotations=NATIVE)
    assert _reasons(rows) == ["", reason, *[""] * 10]
    assert (rows[1].source_id, rows[1].category) == ("test_expression_neg/10001", "attribute")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"expression": None}, "positive_record_without_expression"),
        ({"image_id": ""}, "positive_record_without_image_id"),
        ({"image_id": "none"}, "image_a_file_missing"),
        ({"image_id": "../neg_images/2370000_10000.jpg"}, "image_a_outside_root"),
        ({"id": 2}, "positive_missing"),
    ],
)
def test_a_bad_positive_costs_the_rows_that_are_joined_to_it(
    folder: Path, change: dict[str, object], reason: str
) -> None:
    _edit(folder, NATIVE[0], lambda records: records[0].update(change))
    others = "positive_ambiguous" if change == {"id": 2} else ""
    assert _reasons(_read(folder, annotations=NATIVE)) == [reason] * 4 + [""] * 4 + [others] * 4


def test_a_record_that_is_no_object_and_an_annotation_without_its_image_entry_cost_their_rows(
    folder: Path,
) -> None:
    _edit(folder, NATIVE[1], lambda records: records.insert(1, "text"))
    rows = _read(folder, annotations=NATIVE)
    assert (rows[1].source_id, _reasons(rows)) == (
        "test_expression_neg/row-1",
        ["", "record_not_an_object", *[""] * 11],
    )
    _edit(folder, COCO[1], lambda value: value["images"].pop(0))
    assert _reasons(_read(folder)) == ["record_without_expression", *[""] * 11]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "expected JSON in '.*test_expression_neg.json'"),
        (
            '"text"',
            (
                "test_expression_neg.json'.*a list of records or .*'images' and 'annotations', got"
                " a str"
            ),
        ),
        ('{"images": [], "info": 1}', "got an object with the keys images, info"),
        ("[]", "test_expression_neg.json'.*records with 'id', found none"),
        (
            '[{"id": 1, "image": 2}]',
            (
                "'image_id', no record has it; the first, test_expression_neg/1, has the keys id,"
                " image"
            ),
        ),
        (
            '[{"id": 1, "image_id": 2, "expression": "a", "negative_cate": "text"}]',
            "records with negative_cate 'image'.*only the test split",
        ),
        (
            '[{"id": 1, "image_id": 2, "expression": "a", "negative_type": "order"}]',
            "records with 'negative_cate', no record has it",
        ),
        (
            '[{"id": 1, "image_id": 2, "expression": "a", "negative_cate": "image"}]',
            "records with 'negative_type', no record has it",
        ),
    ],
)
def test_annotations_that_are_wrong_as_a_whole_are_said_at_once(
    folder: Path, content: str, message: str
) -> None:
    (folder / NATIVE[1]).write_text(content)
    with pytest.raises(RecipeError, match=message):
        _open(folder, annotations=NATIVE)


def test_missing_annotations_are_said_with_the_files_that_are_there(folder: Path) -> None:
    with pytest.raises(
        RecipeError, match="'val.json'.*JSON files there: test_expression_neg.json, .*annotations="
    ) as error:
        _open(folder, annotations=("val.json",))
    assert str(error.value).count("\n") == 0
    with pytest.raises(RecipeError, match="found none"):
        _open(folder, annotations=("../val.json",))


def test_image_folders_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    before = _read(folder)
    moved = {
        name: str(shutil.move(folder / name, tmp_path / f"other_{name}"))
        for name in ("images", "neg_images")
    }
    assert _read(folder, **moved) == before


def test_the_identity_follows_annotations_and_images_and_not_the_place(
    folder: Path, tmp_path: Path
) -> None:
    seen = [_open(folder).identity()]
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert _open(moved).identity() == seen[0]
    os.utime(moved / "images/2370000.jpg", ns=(1, 1))
    seen.append(_open(moved).identity())
    (moved / "neg_images/2370011_10005.jpg").unlink()
    seen.append(_open(moved).identity())
    _edit(moved, COCO[0], lambda value: value["images"][0].update(caption="Another expression."))
    seen.append(_open(moved).identity())
    seen.append(_open(moved, exclude_types=("order",)).identity())
    assert all(seen[i] != seen[j] for i in range(5) for j in range(i))
    assert str(moved) not in json.dumps(seen)


def test_a_folder_behind_a_uri_gives_the_same_rows(folder: Path) -> None:
    import fsspec

    remote = fsspec.filesystem("memory")
    remote.put(str(folder), "/finecops", recursive=True)
    try:
        assert _read("memory://finecops") == _read(folder)
    finally:
        remote.rm("/finecops", recursive=True)


def test_without_named_files_those_of_the_test_split_are_found(folder: Path) -> None:
    for name in COCO:
        (folder / name).rename(folder / f"finecops_{name}")
    (folder / "train_expression_coco_format.json").write_text("{}")
    rows = _read(folder)
    assert [row.source_id.split("/")[0] for row in rows] == [
        "finecops_test_expression_neg_coco_format"
    ] * len(rows)
    assert _reasons(rows) == [""] * 12
    for path in folder.glob("*.json"):
        path.unlink()
    with pytest.raises(RecipeError, match="expected annotation files"):
        _open(folder)
