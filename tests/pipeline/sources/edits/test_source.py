"""The edits source: what a pair says is true of its pixels, whatever the photographs."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.images import decode_rgb
from pipeline.core.schema import Candidate
from pipeline.rewrite.template import write as write_conversation
from pipeline.sources.edits.nouns import NUMBERS
from pipeline.text.contrast import leaked_words
from tests.pipeline import drawn_photos as drawn

SHADES, BALL, SQUARE = drawn.SHADES, drawn.BALL, drawn.SQUARE
boxed, made = drawn.boxed, drawn.made


@pytest.fixture
def album(tmp_path: Path) -> Callable[..., Path]:
    return partial(drawn.write_album, tmp_path)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_rgb(data))


def tiles(data: bytes) -> list[list[str | None]]:
    """What each tile of a collage of 128 px shows, by its shade: rows of labels, None for an empty
    place.
    """
    image = pixels(data)
    found = []
    for y in range(2 + 30, image.shape[0], 63):
        centers = (
            image[y - 9 : y + 9, x - 9 : x + 9].mean((0, 1))
            for x in range(2 + 30, image.shape[1], 63)
        )
        found.append(
            [
                next(
                    (label for label, shade in SHADES.items() if abs(center - shade).max() < 9),
                    None,
                )
                for center in centers
            ]
        )
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
    return sorted(
        (o["object"], whole[o["box"][1] : o["box"][3], o["box"][0] : o["box"][2]].tobytes())
        for o in objects
    )


@pytest.mark.parametrize("operation", ["swap", "flip"])
def test_places_are_as_the_captions_say_and_both_sides_show_the_same_photographs(
    album: Callable[..., Path], operation: str
) -> None:
    seen = set()
    for pair in made(album(), operation):
        subject = contrast(pair)["subject"]
        shown = []
        for image, value, caption, objects in sides(pair):
            rows = tiles(image)
            first, second = rows[0] if len(rows) == 1 else [row[0] for row in rows]
            assert first and second and first != second and subject in (first, second)
            expected = (
                ("to the left of", "to the right of") if len(rows) == 1 else ("above", "below")
            )
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
            assert crops(*[sides(pair)[0][n] for n in (0, 3)]) == crops(
                *[sides(pair)[1][n] for n in (0, 3)]
            )
        assert (pair.category, pair.operation) == (
            "position",
            "collage" if operation == "swap" else "flip",
        )
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
            assert np.array_equal(
                pixels(pair.image_a)[y : y + 61, x : x + 61],
                pixels(pair.image_b)[y : y + 61, x : x + 61],
            )
        assert (pair.category, pair.operation) == ("count", "collage")
    assert numbers == {"one", "two", "three"}


def test_places_without_a_filler_stay_empty(album: Callable[..., Path]) -> None:
    for pair in made(album(("dog",)), "count", num_folds=1, num_pairs=10):
        for image, value, _, _ in sides(pair):
            flat = [found for row in tiles(image) for found in row]
            assert flat.count("dog") == NUMBERS.index(value) and flat.count(None) == 4 - flat.count(
                "dog"
            )


def test_one_photograph_is_replaced_and_the_other_stays(album: Callable[..., Path]) -> None:
    for pair in made(album(), "replace"):
        where = contrast(pair)["subject"]
        kept = []
        for image, value, caption, _ in sides(pair):
            rows = tiles(image)
            first, second = rows[0] if len(rows) == 1 else [row[0] for row in rows]
            asked, other = (
                (first, second) if where in ("on the left", "at the top") else (second, first)
            )
            assert asked == value and value in caption and where in caption
            assert (len(rows) == 1) == (where in ("on the left", "on the right"))
            kept.append(other)
        assert kept[0] == kept[1] and contrast(pair)["a"] != contrast(pair)["b"]
        changed = (pixels(pair.image_a) != pixels(pair.image_b)).any(-1)
        half = (
            changed.shape[1] // 2 if changed.shape[1] > changed.shape[0] else changed.shape[0] // 2
        )
        halves = (
            (changed[:, :half], changed[:, half:])
            if changed.shape[1] > changed.shape[0]
            else (changed[:half], changed[half:])
        )
        assert [part.any() for part in halves] == [
            where in ("on the left", "at the top"),
            where in ("on the right", "at the bottom"),
        ]
        assert (pair.category, pair.operation) == ("object", "collage")


def test_a_boxed_photograph_is_mirrored_with_its_boxes(
    tmp_path: Path, album: Callable[..., Path]
) -> None:
    path = album((), (boxed(tmp_path, "one.png", [(30, 40)], [(120, 60)]),))
    for pair in made(path, "flip", num_pairs=8, size_px=256):
        for image, value, _, objects in sides(pair):
            ball, box = (
                next(o["box"] for o in objects if o["object"] == label) for label in ("ball", "box")
            )
            whole = pixels(image)
            assert (whole[ball[1] + 10, ball[0] + 10] == BALL).all() and (
                whole[box[1] : box[3], box[0] : box[2]] == SQUARE
            ).all()
            subject, other = (ball, box) if contrast(pair)["subject"] == "ball" else (box, ball)
            assert value == ("to the left of" if subject[2] <= other[0] else "to the right of")
        assert np.array_equal(pixels(pair.image_a), pixels(pair.image_b)[:, ::-1])


@pytest.mark.parametrize(
    ("num_balls", "values", "category"),
    [(1, ("one", "no"), "object"), (3, ("three", "two"), "count")],
)
def test_a_thing_is_taken_away_and_counted(
    tmp_path: Path,
    album: Callable[..., Path],
    num_balls: int,
    values: tuple[str, str],
    category: str,
) -> None:
    path = album((), (boxed(tmp_path, "one.png", [(20 + 60 * n, 70) for n in range(num_balls)]),))
    for pair in made(path, "inpaint", num_pairs=6, size_px=256):
        assert (contrast(pair)["a"], contrast(pair)["b"]) == values and (
            pair.category,
            pair.operation,
        ) == (category, "inpaint")
        image_a, image_b = pixels(pair.image_a), pixels(pair.image_b)
        reds = [
            (image[..., 0].astype(int) - image[..., 1] > 60).sum() for image in (image_a, image_b)
        ]
        assert reds[1] == reds[0] * (num_balls - 1) // num_balls
        (gone,) = [o["box"] for o in sides(pair)[0][3] if o not in sides(pair)[1][3]]
        changed = (image_a != image_b).any(-1)
        assert not np.delete(np.delete(changed, slice(gone[1] - 3, gone[3] + 3), 0), [], 1).any()
        assert not changed[:, : gone[0] - 3].any() and not changed[:, gone[2] + 3 :].any()


@pytest.mark.slow
def test_a_recoloured_thing_has_the_colours_that_are_said(
    tmp_path: Path, album: Callable[..., Path]
) -> None:
    path = album((), (boxed(tmp_path, "one.png", [(80, 40)], [(140, 60)]),))
    hues = set()
    for pair in made(path, "recolour", num_pairs=8, size_px=256):
        assert (
            contrast(pair)["subject"] == "ball"
            and contrast(pair)["a"] == "red"
            and "red" in pair.caption_a
        )
        value = contrast(pair)["b"]
        assert value in pair.caption_b and (pair.category, pair.operation) == (
            "attribute",
            "recolour",
        )
        red, green, blue = pixels(pair.image_b)[50, 90].astype(int)
        largest = {
            "green": green > max(red, blue),
            "blue": blue > max(red, green),
            "purple": green < min(red, blue),
            "pink": red > green,
        }
        assert largest[value]
        hues.add(value)
        assert [o.get("colour") for o in sides(pair)[1][3]] == [value, None]
        outside = np.ones((120, 200), bool)
        outside[40:60, 80:100] = False
        assert np.array_equal(pixels(pair.image_a)[outside], pixels(pair.image_b)[outside])
    assert len(hues) >= 2


def test_no_question_leaks_and_every_pair_can_be_asked(album: Callable[..., Path]) -> None:
    pairs = made(album(), "swap", "count", "replace", "flip", num_pairs=40, num_folds=2)
    for pair in pairs:
        assert not leaked_words(pair.question or "", pair.caption_a, pair.caption_b)
        assert (
            write_conversation(pair.caption_a, pair.caption_b, pair.category, pair.question)
            is not None
        )
    assert sum(pair.question is not None for pair in pairs) > 30


def test_both_sides_are_encoded_alike_and_the_terms_of_all_photographs_are_named(
    album: Callable[..., Path],
) -> None:
    for pair in made(album(), "swap", "count", "replace", "flip", num_folds=2):
        one, other = (Image.open(io.BytesIO(data)) for data in (pair.image_a, pair.image_b))
        assert (
            (one.format, one.mode, one.size, one.info)
            == (other.format, other.mode, other.size, other.info)
            == ("PNG", "RGB", one.size, {})
        )
        photos = json.loads(pair.meta)["photos"]
        assert pair.license == " AND ".join(sorted({f"CC-{name[0]}" for name in photos}))


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
