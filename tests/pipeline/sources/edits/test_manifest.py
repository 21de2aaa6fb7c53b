"""The edits source and its manifest: rows by index, folds that share nothing, costs of faults."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipeline.core.recipe import RecipeError
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.edits.photos import Album, Photo, PhotoColumns, folds_of, read_photos
from pipeline.sources.io import SourceFolder
from tests.pipeline import drawn_photos as drawn

SHADES, OPERATIONS, photo = drawn.SHADES, drawn.OPERATIONS, drawn.photo
boxed, made, source = drawn.boxed, drawn.made, drawn.source


@pytest.fixture
def album(tmp_path: Path) -> Callable[..., Path]:
    return partial(drawn.write_album, tmp_path)


@pytest.mark.slow
def test_a_row_depends_on_its_index_alone(tmp_path: Path, album: Callable[..., Path]) -> None:
    extra = tuple(boxed(tmp_path, f"{n}.png", [(20 * n, 30)], [(120, 60)]) for n in range(5))
    path = album(tuple(SHADES), (*extra, "no json"))
    names = OPERATIONS
    whole = list(source(path, *names, num_pairs=20).read(0, 99))
    assert len(whole) == 21 and len({row.source_id for row in whole}) == 21
    for start in (3, 9, 18):
        assert (
            list(source(path, *names, num_pairs=20).read(start, start + 3))
            == whole[start : start + 3]
        )
    other = list(source(path, *names, num_pairs=20, seed=1).read(0, 20))
    sides = [
        {(row.image_a, row.image_b) for row in rows if isinstance(row, Candidate)}
        for rows in (whole, other)
    ]
    assert len(sides[0] & sides[1]) < len(sides[0]) / 2


def test_groups_share_no_photograph_and_seeds_agree_on_them(album: Callable[..., Path]) -> None:
    path = album()
    group_of: dict[str, str] = {}
    for seed in (0, 1):
        for pair in made(path, "swap", "count", "replace", num_pairs=25, seed=seed):
            for name in json.loads(pair.meta)["photos"]:
                assert group_of.setdefault(name, pair.group) == pair.group
    assert len(set(group_of.values())) == 3  # ten subjects, three and more in each
    for label in SHADES:
        # one subject
        assert (
            group_of[f"{label.replace(' ', '-')}-0.png"]
            == group_of[f"{label.replace(' ', '-')}-1.png"]
        )


def test_subjects_are_dealt_evenly_and_each_fold_gets_many_labels() -> None:
    photos = [
        Photo(f"{label}-{n}", label, f"{label}-{n}", (), "") for label in "abcde" for n in range(40)
    ]
    folds = folds_of(photos, None)
    members = [
        [subject for subject, fold in folds.items() if fold == number] for number in range(20)
    ]
    assert [len(own) for own in members] == [10] * 20
    assert all({subject[0] for subject in own} == set("abcde") for own in members)
    assert len(set(folds_of(photos[:8], None).values())) == 2 and set(
        folds_of(photos[:2], None).values()
    ) == {0}
    assert folds_of(photos[::-1], None) == folds
    assert set(folds_of(photos, 7).values()) == set(range(7))


def test_labels_that_may_be_said_of_one_another_are_never_contrasted(
    album: Callable[..., Path],
) -> None:
    path = album(("dog", "owl", "cup"))
    for pair in made(path, "swap", "replace", num_folds=1, alike=(("dog", "owl"),)):
        meta = json.loads(pair.meta)
        beside = {thing["object"] for thing in meta["truth"]["a"]["objects"]}
        contrasted = (
            {meta["contrast"][side] for side in "ab"} if pair.category == "object" else beside
        )
        assert not {"dog", "owl"} <= contrasted
    with pytest.raises(RecipeError, match="operations.swap=0"):
        source(album(("dog", "owl")), "swap", num_folds=1, alike=(("dog", "owl"),))


FAULTS = [
    ("{}", "photo_image_missing_in_manifest"),
    ('{"image": "dog-0.png"}', "photo_label_missing_in_manifest"),
    ('{"image": "new.png", "label": " _ "}', "photo_label_missing_in_manifest"),
    ('{"image": "./dog-0.png", "label": "dog"}', "photo_named_twice"),
    (
        '{"image": "new.png", "label": "dog", "boxes": [{"label": "dog", "box": [9, 5, 5, 9]}]}',
        "photo_boxes_malformed",
    ),
    (
        '{"image": "new.png", "label": "dog", "boxes": {"dog": [1, 2, 3, 4]}}',
        "photo_boxes_malformed",
    ),
    (
        '{"image": "new.png", "label": "dog", "boxes": [{"label": "dog", "box": [0, 0, 9, NaN]}]}',
        "photo_boxes_malformed",
    ),
    ("{broken", "line_not_json"),
]


@pytest.mark.parametrize(("line", "reason"), FAULTS)
def test_a_bad_line_of_the_manifest_costs_one_row_at_the_end(
    album: Callable[..., Path], line: str, reason: str
) -> None:
    found = source(album(tuple(SHADES), (line,)), "swap", num_pairs=3)
    rows = list(found.read(0, found.count()))
    assert [isinstance(row, Candidate) for row in rows] == [True, True, True, False]
    assert rows[3] == Malformed(source="edits", source_id="line-4", reason=reason)


def test_a_photograph_that_cannot_be_used_costs_the_pairs_that_would_show_it(
    tmp_path: Path, album: Callable[..., Path]
) -> None:
    path = album(("dog", "owl"))
    (tmp_path / "text.png").write_text("no picture")
    photo("cup", 1).save(tmp_path / "small.png")
    names = {
        "../out.png": "photo_outside_root",
        "gone.png": "photo_file_missing",
        "text.png": "photo_not_an_image",
    }
    lines = [json.dumps({"image": name, "label": "cup"}) for name in names]
    lines.append(
        json.dumps(
            {
                "image": "small.png",
                "label": "cup",
                "boxes": [{"label": "cup", "box": [0, 0, 300, 5]}],
            }
        )
    )
    path.write_text(path.read_text() + "\n".join(lines))
    rows = list(source(path, "swap", num_pairs=30, num_folds=1).read(0, 30))
    assert {row.reason for row in rows if isinstance(row, Malformed)} == {
        *names.values(),
        "photo_box_outside_image",
    }
    assert all((row.category, row.operation) == ("position", "collage") for row in rows)
    assert sum(isinstance(row, Candidate) for row in rows) > 2


def test_boxes_are_cut_to_the_picture_and_one_without_area_is_none(
    tmp_path: Path, album: Callable[..., Path]
) -> None:
    photo("cup", 1).save(tmp_path / "cup.png")
    boxes = [[-0.2, 4, 96.004, 20.5], [10, 30, 20.2, 40], [7, 7, 7, 9]]
    line = {"image": "cup.png", "label": "cup"}
    line |= {"boxes": [{"label": "cup", "box": box} for box in boxes]}
    (kept,), faults = read_photos([line], PhotoColumns(), "")
    album_of_one = Album(
        [kept], SourceFolder(str(tmp_path)), num_folds=1, alike=(), max_image_bytes=10**6
    )
    assert faults == []
    assert [thing.box for thing in album_of_one.look(kept).things] == [
        (0, 4, 96, 21),
        (10, 30, 21, 40),
    ]


def test_where_no_colour_is_clear_and_nothing_can_be_filled_the_row_says_so(
    tmp_path: Path, album: Callable[..., Path]
) -> None:
    gray = list(source(album(), "recolour", num_pairs=2).read(0, 2))
    assert [row.reason for row in gray if isinstance(row, Malformed)] == ["colour_not_clear"] * 2
    photo("cup", 1).save(tmp_path / "full.png")
    line = json.dumps(
        {"image": "full.png", "label": "cup", "boxes": [{"label": "cup", "box": [5, 5, 90, 62]}]}
    )
    full = list(source(album((), (line,)), "inpaint", num_pairs=1).read(0, 1))
    assert [row.reason for row in full if isinstance(row, Malformed)] == ["no_clean_filling"]


def test_a_manifest_that_cannot_serve_is_refused_with_the_remedy(
    tmp_path: Path, album: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError, match="expected a file at"):
        source(tmp_path / "none.jsonl", "swap")
    with pytest.raises(
        RecipeError,
        match="'swap' needs two photographs of different labels in one fold.*operations.swap=0",
    ):
        source(album(("dog",)), "swap", num_folds=1)
    with pytest.raises(RecipeError, match="fewer folds than 10 with num_folds=N"):
        source(album(), "swap", num_folds=10)
    with pytest.raises(RecipeError, match="'inpaint' needs photographs with boxes"):
        source(album(), "inpaint")
    with pytest.raises(
        RecipeError,
        match=(
            "no row of .* has 'name' .for image.; it has image, label, license, subject; map it"
            " with columns.image="
        ),
    ):
        source(album(), "swap", columns={"image": "name"})
    (tmp_path / "photos.csv").write_text("image,label\n")
    with pytest.raises(RecipeError, match="ends in .jsonl or .ndjson"):
        source(tmp_path / "photos.csv", "swap")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RecipeError, match="has no rows"):
        source(tmp_path / "empty.jsonl", "swap")


def test_the_identity_follows_what_the_pairs_depend_on_and_not_where_it_lies(
    tmp_path: Path, album: Callable[..., Path]
) -> None:
    path = album()
    before = source(path, "swap").identity()
    assert source(path, "swap").identity() == before and str(tmp_path) not in json.dumps(before)
    assert source(path, "swap", seed=1).identity() != before
    photo("dog", 5).save(tmp_path / "dog-0.png")
    assert source(path, "swap").identity() != before
