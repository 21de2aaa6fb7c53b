"""The edits source: what a pair says is true of its pixels, whatever the photographs; groups never share one."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.images import decode_rgb
from pipeline.recipe import RecipeError
from pipeline.rewrite.contrast import leaked_words
from pipeline.rewrite.template import write as write_conversation
from pipeline.schema import Candidate, Malformed
from pipeline.sources.edit_nouns import NUMBERS
from pipeline.sources.edit_photos import Photo, folds_of
from pipeline.sources.edits import EditsSection, EditsSource

OPERATIONS = ("swap", "count", "replace", "recolour", "flip", "inpaint")
# Each label's photographs have a shade of their own, by which a tile tells what it shows.
SHADES = {"dog": (60, 60, 60), "apple": (90, 130, 130), "toy car": (150, 150, 110), "owl": (200, 200, 200), "cup": (120, 120, 160)}
BALL, SQUARE = (220, 20, 30), (20, 20, 20)


def photo(label: str, number: int) -> Image.Image:
    """Rough ground in the label's shade, and its own size."""
    rng = np.random.default_rng([number, len(label)])
    height, width = 60 + 7 * number, 96
    return Image.fromarray((np.array(SHADES[label]) + rng.integers(-12, 12, (height, width, 1))).astype(np.uint8))


@pytest.fixture
def album(tmp_path: Path) -> Callable[..., Path]:
    """Writes three photographs of each label, of two subjects, and whatever lines are given besides."""

    def write(labels: tuple[str, ...] = tuple(SHADES), extra: tuple[str, ...] = ()) -> Path:
        lines = []
        for label in labels:
            for number in range(3):
                name = f"{label.replace(' ', '-')}-{number}.png"
                photo(label, number).save(tmp_path / name)
                row = {"image": name, "label": label, "subject": f"{label} {number // 2}", "license": f"CC-{label[0]}"}
                lines.append(json.dumps(row))
        path = tmp_path / "photos.jsonl"
        path.write_text("\n".join([*lines[:4], *extra, *lines[4:]]) + "\n")
        return path

    return write


def boxed(folder: Path, name: str, balls: list[tuple[int, int]], squares: list[tuple[int, int]] = ()) -> str:  # type: ignore[assignment]
    """A line for a grey photograph, 200 x 120, with red balls and black squares, 20 px each, at these corners."""
    pixels = np.array(SHADES["owl"]) + np.random.default_rng(len(name)).integers(-12, 12, (120, 200, 1))
    rows, columns = np.mgrid[:120, :200]
    for x, y in balls:
        pixels[(columns - x - 9.5) ** 2 + (rows - y - 9.5) ** 2 <= 95] = BALL
    for x, y in squares:
        pixels[y : y + 20, x : x + 20] = SQUARE
    Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    things = [("ball", corner) for corner in balls] + [("box", corner) for corner in squares]
    boxes = [{"label": label, "box": [x, y, x + 20, y + 20]} for label, (x, y) in things]
    return json.dumps({"image": name, "label": "ball", "boxes": boxes})


def only(*names: str) -> dict[str, float]:
    return {name: float(name in names) for name in OPERATIONS}


def source(path: Path, *names: str, **settings: Any) -> EditsSource:
    return EditsSource(EditsSection(kind="edits", path=str(path), **{"operations": only(*names), "size_px": 128, **settings}))


def made(path: Path, *names: str, num_pairs: int = 30, **settings: Any) -> list[Candidate]:
    rows = list(source(path, *names, num_pairs=num_pairs, **settings).read(0, num_pairs))
    assert len(rows) == num_pairs and all(isinstance(row, Candidate) for row in rows), rows
    return [row for row in rows if isinstance(row, Candidate)]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_rgb(data))


def tiles(data: bytes) -> list[list[str | None]]:
    """What each tile of a collage of 128 px shows, by its shade: rows of labels, None for an empty place."""
    image = pixels(data)
    found = []
    for y in range(2 + 30, image.shape[0], 63):
        centres = (image[y - 9 : y + 9, x - 9 : x + 9].mean((0, 1)) for x in range(2 + 30, image.shape[1], 63))
        found.append([next((label for label, shade in SHADES.items() if abs(centre - shade).max() < 9), None) for centre in centres])
    return found


def contrast(pair: Candidate) -> dict[str, str]:
    found: dict[str, str] = json.loads(pair.meta)["contrast"]
    return found


def sides(pair: Candidate) -> list[tuple[bytes, str, str, list[dict[str, Any]]]]:
    """Per side: image, value of the contrast, caption, objects."""
    meta = json.loads(pair.meta)
    return [
        (pair.image_a, meta["contrast"]["a"], pair.caption_a, meta["truth"]["a"]["objects"]),
        (pair.image_b, meta["contrast"]["b"], pair.caption_b, meta["truth"]["b"]["objects"]),
    ]


def crops(image: bytes, objects: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """Label and pixels of every object, in no order."""
    whole = pixels(image)
    return sorted((o["object"], whole[o["box"][1] : o["box"][3], o["box"][0] : o["box"][2]].tobytes()) for o in objects)


@pytest.mark.parametrize("operation", ["swap", "flip"])
def test_places_are_as_the_captions_say_and_both_sides_show_the_same_photographs(album: Callable[..., Path], operation: str) -> None:
    seen = set()
    for pair in made(album(), operation):
        subject = contrast(pair)["subject"]
        shown = []
        for image, value, caption, objects in sides(pair):
            rows = tiles(image)
            first, second = rows[0] if len(rows) == 1 else [row[0] for row in rows]
            assert first and second and first != second and subject in (first, second)
            expected = ("to the left of", "to the right of") if len(rows) == 1 else ("above", "below")
            assert value == expected[0 if first == subject else 1]
            assert value in caption and caption.index(subject) < caption.index(value)
            assert sorted([first, second]) == sorted(o["object"] for o in objects)
            shown.append((first, second))
            seen.add((value, image == pair.image_a))
        assert shown[0] == shown[1][::-1]
        image_a, image_b = pixels(pair.image_a), pixels(pair.image_b)
        if operation == "flip":
            assert np.array_equal(image_a[:, ::-1], image_b)
        else:
            assert crops(*[sides(pair)[0][n] for n in (0, 3)]) == crops(*[sides(pair)[1][n] for n in (0, 3)])
        assert (pair.category, pair.operation) == ("position", "collage" if operation == "swap" else "flip")
    # Neither relation goes with a side.
    assert {("to the left of", True), ("to the left of", False), ("to the right of", True)} <= seen


def test_as_many_tiles_show_the_thing_as_the_captions_say(album: Callable[..., Path]) -> None:
    numbers = set()
    for pair in made(album(), "count", num_folds=1):
        label = contrast(pair)["subject"]
        shown = []
        for image, value, caption, objects in sides(pair):
            flat = [found for row in tiles(image) for found in row]
            assert len(flat) == 4 and flat.count(label) == NUMBERS.index(value) and value in caption
            assert sorted(filter(None, flat)) == sorted(o["object"] for o in objects)
            shown.append(flat)
            numbers.add(value)
        both = [n for n in range(4) if shown[0][n] == shown[1][n] == label]
        assert len(both) == min(flat.count(label) for flat in shown)
        used = json.loads(pair.meta)["photos"]
        assert len(used) == len(set(used))
        # A place that both sides fill with the same thing holds the very same photograph.
        for n in (n for n in range(4) if shown[0][n] == shown[1][n]):
            y, x = 2 + 63 * (n // 2), 2 + 63 * (n % 2)
            assert np.array_equal(pixels(pair.image_a)[y : y + 61, x : x + 61], pixels(pair.image_b)[y : y + 61, x : x + 61])
        assert (pair.category, pair.operation) == ("count", "collage")
    assert numbers == {"one", "two", "three"}


def test_places_without_a_filler_stay_empty(album: Callable[..., Path]) -> None:
    for pair in made(album(("dog",)), "count", num_folds=1, num_pairs=10):
        for image, value, _, _ in sides(pair):
            flat = [found for row in tiles(image) for found in row]
            assert flat.count("dog") == NUMBERS.index(value) and flat.count(None) == 4 - flat.count("dog")


def test_one_photograph_is_replaced_and_the_other_stays(album: Callable[..., Path]) -> None:
    for pair in made(album(), "replace"):
        where = contrast(pair)["subject"]
        kept = []
        for image, value, caption, _ in sides(pair):
            rows = tiles(image)
            first, second = rows[0] if len(rows) == 1 else [row[0] for row in rows]
            asked, other = (first, second) if where in ("on the left", "at the top") else (second, first)
            assert asked == value and value in caption and where in caption
            assert (len(rows) == 1) == (where in ("on the left", "on the right"))
            kept.append(other)
        assert kept[0] == kept[1] and contrast(pair)["a"] != contrast(pair)["b"]
        changed = (pixels(pair.image_a) != pixels(pair.image_b)).any(-1)
        half = changed.shape[1] // 2 if changed.shape[1] > changed.shape[0] else changed.shape[0] // 2
        halves = (changed[:, :half], changed[:, half:]) if changed.shape[1] > changed.shape[0] else (changed[:half], changed[half:])
        assert [part.any() for part in halves] == [where in ("on the left", "at the top"), where in ("on the right", "at the bottom")]
        assert (pair.category, pair.operation) == ("object", "collage")


def test_a_boxed_photograph_is_mirrored_with_its_boxes(tmp_path: Path, album: Callable[..., Path]) -> None:
    path = album((), (boxed(tmp_path, "one.png", [(30, 40)], [(120, 60)]),))
    for pair in made(path, "flip", num_pairs=8, size_px=256):
        for image, value, _, objects in sides(pair):
            ball, box = (next(o["box"] for o in objects if o["object"] == label) for label in ("ball", "box"))
            whole = pixels(image)
            assert (whole[ball[1] + 10, ball[0] + 10] == BALL).all() and (whole[box[1] : box[3], box[0] : box[2]] == SQUARE).all()
            subject, other = (ball, box) if contrast(pair)["subject"] == "ball" else (box, ball)
            assert value == ("to the left of" if subject[2] <= other[0] else "to the right of")
        assert np.array_equal(pixels(pair.image_a), pixels(pair.image_b)[:, ::-1])


@pytest.mark.parametrize(("num_balls", "values", "category"), [(1, ("one", "no"), "object"), (3, ("three", "two"), "count")])
def test_a_thing_is_taken_away_and_counted(
    tmp_path: Path, album: Callable[..., Path], num_balls: int, values: tuple[str, str], category: str
) -> None:
    path = album((), (boxed(tmp_path, "one.png", [(20 + 60 * n, 70) for n in range(num_balls)]),))
    for pair in made(path, "inpaint", num_pairs=6, size_px=256):
        assert (contrast(pair)["a"], contrast(pair)["b"]) == values and (pair.category, pair.operation) == (category, "inpaint")
        image_a, image_b = pixels(pair.image_a), pixels(pair.image_b)
        reds = [(image[..., 0].astype(int) - image[..., 1] > 60).sum() for image in (image_a, image_b)]
        assert reds[1] == reds[0] * (num_balls - 1) // num_balls
        (gone,) = [o["box"] for o in sides(pair)[0][3] if o not in sides(pair)[1][3]]
        changed = (image_a != image_b).any(-1)
        assert not np.delete(np.delete(changed, slice(gone[1] - 3, gone[3] + 3), 0), [], 1).any()
        assert not changed[:, : gone[0] - 3].any() and not changed[:, gone[2] + 3 :].any()


def test_a_recoloured_thing_has_the_colours_that_are_said(tmp_path: Path, album: Callable[..., Path]) -> None:
    path = album((), (boxed(tmp_path, "one.png", [(80, 40)], [(140, 60)]),))
    hues = set()
    for pair in made(path, "recolour", num_pairs=12, size_px=256):
        assert contrast(pair)["subject"] == "ball" and contrast(pair)["a"] == "red" and "red" in pair.caption_a
        value = contrast(pair)["b"]
        assert value in pair.caption_b and (pair.category, pair.operation) == ("attribute", "recolour")
        red, green, blue = pixels(pair.image_b)[50, 90].astype(int)
        largest = {"green": green > max(red, blue), "blue": blue > max(red, green), "purple": green < min(red, blue), "pink": red > green}
        assert largest[value]
        hues.add(value)
        assert [o.get("colour") for o in sides(pair)[1][3]] == [value, None]
        outside = np.ones((120, 200), bool)
        outside[40:60, 80:100] = False
        assert np.array_equal(pixels(pair.image_a)[outside], pixels(pair.image_b)[outside])
    assert len(hues) >= 2


def test_no_question_leaks_and_every_pair_can_be_asked(album: Callable[..., Path]) -> None:
    pairs = made(album(), "swap", "count", "replace", "flip", num_pairs=80, num_folds=2)
    for pair in pairs:
        assert not leaked_words(pair.question or "", pair.caption_a, pair.caption_b)
        assert write_conversation(pair.caption_a, pair.caption_b, pair.category, pair.question) is not None
    assert sum(pair.question is not None for pair in pairs) > 60


def test_both_sides_are_encoded_alike_and_the_terms_of_all_photographs_are_named(album: Callable[..., Path]) -> None:
    for pair in made(album(), "swap", "count", "replace", "flip", num_folds=2):
        one, other = (Image.open(io.BytesIO(data)) for data in (pair.image_a, pair.image_b))
        assert (
            (one.format, one.mode, one.size, one.info) == (other.format, other.mode, other.size, other.info) == ("PNG", "RGB", one.size, {})
        )
        photos = json.loads(pair.meta)["photos"]
        assert pair.license == " AND ".join(sorted({f"CC-{name[0]}" for name in photos}))


def test_a_row_depends_on_its_index_alone(tmp_path: Path, album: Callable[..., Path]) -> None:
    extra = tuple(boxed(tmp_path, f"{n}.png", [(20 * n, 30)], [(120, 60)]) for n in range(5))
    path = album(tuple(SHADES), (*extra, "no json"))
    names = OPERATIONS
    whole = list(source(path, *names, num_pairs=40).read(0, 99))
    assert len(whole) == 41 and len({row.source_id for row in whole}) == 41
    for start in (3, 17, 38):
        assert list(source(path, *names, num_pairs=40).read(start, start + 3)) == whole[start : start + 3]
    other = list(source(path, *names, num_pairs=40, seed=1).read(0, 40))
    assert sum(one == two for one, two in zip(whole, other, strict=False)) == 0


def test_groups_share_no_photograph_and_seeds_agree_on_them(album: Callable[..., Path]) -> None:
    path = album()
    group_of: dict[str, str] = {}
    for seed in (0, 1):
        for pair in made(path, "swap", "count", "replace", num_pairs=60, seed=seed):
            for name in json.loads(pair.meta)["photos"]:
                subject = name if "0" in name or "1" in name else name
                assert group_of.setdefault(subject, pair.group) == pair.group
    assert len(set(group_of.values())) == 3  # ten subjects, three and more in each
    for label in SHADES:
        assert group_of[f"{label.replace(' ', '-')}-0.png"] == group_of[f"{label.replace(' ', '-')}-1.png"]  # one subject


def test_subjects_are_dealt_evenly_and_each_fold_gets_many_labels() -> None:
    photos = [Photo(f"{label}-{n}", label, f"{label}-{n}", (), "") for label in "abcde" for n in range(40)]
    folds = folds_of(photos, None)
    members = [[subject for subject, fold in folds.items() if fold == number] for number in range(20)]
    assert [len(own) for own in members] == [10] * 20
    assert all({subject[0] for subject in own} == set("abcde") for own in members)
    assert len(set(folds_of(photos[:8], None).values())) == 2 and set(folds_of(photos[:2], None).values()) == {0}
    assert folds_of(photos[::-1], None) == folds
    assert set(folds_of(photos, 7).values()) == set(range(7))


def test_labels_that_may_be_said_of_one_another_are_never_contrasted(album: Callable[..., Path]) -> None:
    path = album(("dog", "owl", "cup"))
    for pair in made(path, "swap", "replace", num_folds=1, alike=(("dog", "owl"),)):
        values = {contrast(pair)["a"], contrast(pair)["b"]}
        assert values != {"dog", "owl"} and not {"dog", "owl"} <= {o["object"] for o in sides(pair)[0][3] if pair.category == "position"}
    with pytest.raises(RecipeError, match="operations.swap=0"):
        source(album(("dog", "owl")), "swap", num_folds=1, alike=(("dog", "owl"),))


FAULTS = [
    ("{}", "photo_image_missing_in_manifest"),
    ('{"image": "dog-0.png"}', "photo_label_missing_in_manifest"),
    ('{"image": "new.png", "label": " _ "}', "photo_label_missing_in_manifest"),
    ('{"image": "./dog-0.png", "label": "dog"}', "photo_named_twice"),
    ('{"image": "new.png", "label": "dog", "boxes": [{"label": "dog", "box": [5, 5, 5, 9]}]}', "photo_boxes_malformed"),
    ('{"image": "new.png", "label": "dog", "boxes": {"dog": [1, 2, 3, 4]}}', "photo_boxes_malformed"),
    ('{"image": "new.png", "label": "dog", "boxes": [{"label": "dog", "box": [0, 0, 9, NaN]}]}', "photo_boxes_malformed"),
    ("{broken", "line_not_json"),
]


@pytest.mark.parametrize(("line", "reason"), FAULTS)
def test_a_bad_line_of_the_manifest_costs_one_row_at_the_end(album: Callable[..., Path], line: str, reason: str) -> None:
    found = source(album(tuple(SHADES), (line,)), "swap", num_pairs=3)
    rows = list(found.read(0, found.count()))
    assert [isinstance(row, Candidate) for row in rows] == [True, True, True, False]
    assert rows[3] == Malformed(source="edits", source_id="line-4", reason=reason)


def test_a_photograph_that_cannot_be_used_costs_the_pairs_that_would_show_it(tmp_path: Path, album: Callable[..., Path]) -> None:
    path = album(("dog", "owl"))
    (tmp_path / "text.png").write_text("no picture")
    photo("cup", 1).save(tmp_path / "small.png")
    names = {"../out.png": "photo_outside_root", "gone.png": "photo_file_missing", "text.png": "photo_not_an_image"}
    lines = [json.dumps({"image": name, "label": "cup"}) for name in names]
    lines.append(json.dumps({"image": "small.png", "label": "cup", "boxes": [{"label": "cup", "box": [0, 0, 97, 5]}]}))
    path.write_text(path.read_text() + "\n".join(lines))
    rows = list(source(path, "swap", num_pairs=60, num_folds=1).read(0, 60))
    assert {row.reason for row in rows if isinstance(row, Malformed)} == {*names.values(), "photo_box_outside_image"}
    assert all((row.category, row.operation) == ("position", "collage") for row in rows)
    assert sum(isinstance(row, Candidate) for row in rows) > 5


def test_where_no_colour_is_clear_and_nothing_can_be_filled_the_row_says_so(tmp_path: Path, album: Callable[..., Path]) -> None:
    grey = list(source(album(), "recolour", num_pairs=2).read(0, 2))
    assert [row.reason for row in grey if isinstance(row, Malformed)] == ["colour_not_clear"] * 2
    photo("cup", 1).save(tmp_path / "full.png")
    line = json.dumps({"image": "full.png", "label": "cup", "boxes": [{"label": "cup", "box": [5, 5, 90, 62]}]})
    full = list(source(album((), (line,)), "inpaint", num_pairs=1).read(0, 1))
    assert [row.reason for row in full if isinstance(row, Malformed)] == ["no_clean_filling"]


def test_a_sideways_photograph_is_turned_upright_before_its_boxes_are_read(tmp_path: Path) -> None:
    line = boxed(tmp_path, "one.png", [(30, 40)], [(120, 60)])
    upright = Image.open(tmp_path / "one.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned right by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "photos.jsonl"
    path.write_text(line.replace("one.png", "turned.png"))
    (pair,) = made(path, "flip", num_pairs=1, size_px=256)
    assert np.array_equal(pixels(pair.image_a), np.asarray(upright))


def test_a_manifest_that_cannot_serve_is_refused_with_the_remedy(tmp_path: Path, album: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match="expected a file at"):
        source(tmp_path / "none.jsonl", "swap")
    with pytest.raises(RecipeError, match="'swap' needs two photographs of different labels in one fold.*operations.swap=0"):
        source(album(("dog",)), "swap", num_folds=1)
    with pytest.raises(RecipeError, match="fewer folds than 10 with num_folds=N"):
        source(album(), "swap", num_folds=10)
    with pytest.raises(RecipeError, match="'inpaint' needs photographs with boxes"):
        source(album(), "inpaint")
    with pytest.raises(
        RecipeError, match="no row of .* has 'name' .for image.; it has image, label, license, subject; map it with columns.image="
    ):
        source(album(), "swap", columns={"image": "name"})
    (tmp_path / "photos.csv").write_text("image,label\n")
    with pytest.raises(RecipeError, match="ends in .jsonl or .ndjson"):
        source(tmp_path / "photos.csv", "swap")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RecipeError, match="has no rows"):
        source(tmp_path / "empty.jsonl", "swap")


def test_the_identity_follows_what_the_pairs_depend_on_and_not_where_it_lies(tmp_path: Path, album: Callable[..., Path]) -> None:
    path = album()
    before = source(path, "swap").identity()
    assert source(path, "swap").identity() == before and str(tmp_path) not in json.dumps(before)
    assert source(path, "swap", seed=1).identity() != before
    photo("dog", 5).save(tmp_path / "dog-0.png")
    assert source(path, "swap").identity() != before
