"""Edits of pictures and colours, on drawn pictures whose truth is known."""

import numpy as np
import pytest
from PIL import ImageColor

from pipeline.sources.edits.colours import (
    NAMES,
    color_name,
    find_by_color,
    find_in_box,
    recolor,
    to_lab,
    to_rgb,
)
from pipeline.sources.edits.views import (
    NEUTRAL,
    RING_PX,
    Thing,
    View,
    apart,
    contained,
    grid,
    mirrored,
    overlaps,
    resized,
    shrunk,
    without,
)

CLEAR = {
    "red": "red",
    "firebrick": "red",
    "crimson": "red",
    "darkorange": "orange",
    "orange": "orange",
    "gold": "yellow",
    "yellow": "yellow",
    "green": "green",
    "limegreen": "green",
    "yellowgreen": "green",
    "royalblue": "blue",
    "dodgerblue": "blue",
    "navy": "blue",
    "rebeccapurple": "purple",
    "darkviolet": "purple",
    "purple": "purple",
    "hotpink": "pink",
    "lightpink": "pink",
}
UNCLEAR = (
    "white black gray mediumvioletred maroon salmon coral brown saddlebrown tan olive goldenrod"
    " teal turquoise cyan lavender beige".split()
)


def noise(
    seed: int, height: int = 90, width: int = 120, low: int = 90, high: int = 150
) -> np.ndarray:
    """Grey noise: no colour, and the same texture everywhere."""
    gray = np.random.default_rng(seed).integers(low, high, (height, width, 1), np.uint8)
    return np.repeat(gray, 3, 2)


def disc(
    pixels: np.ndarray, color: str, center: tuple[int, int] = (60, 45), radius: int = 22
) -> np.ndarray:
    """Where a disc was drawn, in place."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    inside = (columns - center[0]) ** 2 + (rows - center[1]) ** 2 <= radius**2
    pixels[inside] = ImageColor.getrgb(color)
    return inside


def test_a_grid_holds_each_picture_whole_between_even_gutters() -> None:
    wide, high = (
        View(noise(seed, *size), (Thing("x", (0, 0, size[1], size[0])),))
        for seed, size in ((1, (20, 40)), (2, (40, 20)))
    )
    whole = grid([wide, None, None, high], 2, 40, 3)
    assert whole.pixels.shape == (89, 89, 3)
    assert [thing.box for thing in whole.things] == [(3, 13, 43, 33), (56, 46, 76, 86)]
    assert np.array_equal(whole.pixels[13:33, 3:43], wide.pixels)
    assert np.array_equal(whole.pixels[46:86, 56:76], high.pixels)
    rest = np.ones(whole.pixels.shape[:2], bool)
    rest[13:33, 3:43] = rest[46:86, 56:76] = False
    assert (whole.pixels[rest] == NEUTRAL).all()


def test_a_scaled_box_still_holds_its_thing() -> None:
    view = View(noise(1, 100, 50), (Thing("x", (7, 11, 8, 98)),))
    for size in (30, 37, 64, 99, 230):
        scaled = contained(view, size)
        assert max(scaled.pixels.shape) == size
        high, wide = scaled.pixels.shape[0] / 100, scaled.pixels.shape[1] / 50
        x0, y0, x1, y1 = scaled.things[0].box
        assert 7 * wide - 1 < x0 <= 7 * wide and 8 * wide <= x1 < 8 * wide + 1
        assert 11 * high - 1 < y0 <= 11 * high and 98 * high <= y1 < 98 * high + 1
    assert shrunk(view, 100) is view and shrunk(view, 50).pixels.shape == (50, 25, 3)
    assert resized(view, 50, 100) is view


def test_a_mirror_swaps_left_and_right_and_nothing_else() -> None:
    view = View(noise(1), (Thing("x", (5, 10, 25, 30)), Thing("y", (60, 0, 120, 9))))
    seen = mirrored(view)
    assert [thing.box for thing in seen.things] == [(95, 10, 115, 30), (0, 0, 60, 9)]
    for thing, other in zip(view.things, seen.things, strict=True):
        (x0, y0, x1, y1), (u0, v0, u1, v1) = thing.box, other.box
        assert np.array_equal(view.pixels[y0:y1, x0:x1][:, ::-1], seen.pixels[v0:v1, u0:u1])
    assert mirrored(seen).things == view.things and np.array_equal(
        mirrored(seen).pixels, view.pixels
    )


def test_boxes_are_apart_or_overlap_to_the_pixel() -> None:
    assert (
        apart((0, 0, 5, 9), (5, 0, 9, 9))
        and not apart((0, 0, 6, 9), (5, 0, 9, 9))
        and not apart((5, 0, 9, 9), (0, 0, 5, 9))
    )
    assert (
        overlaps((0, 0, 5, 5), (4, 4, 9, 9))
        and not overlaps((0, 0, 5, 5), (5, 4, 9, 9))
        and not overlaps((0, 0, 5, 5), (4, 5, 9, 9))
    )


@pytest.mark.parametrize("center", [(60, 45), (10, 45), (110, 10)])
def test_a_removed_thing_is_gone_and_nothing_changes_around_it(center: tuple[int, int]) -> None:
    pixels = noise(3, 90, 120)
    inside = disc(pixels, "red", center, 9)
    box = (
        max(0, center[0] - 9),
        max(0, center[1] - 9),
        min(120, center[0] + 10),
        min(90, center[1] + 10),
    )
    thing, other = Thing("ball", box), Thing("mark", (0, 80, 9, 89))
    result = without(View(pixels, (thing, other)), thing)
    assert result is not None and result.things == (other,)
    near = np.zeros(inside.shape, bool)
    near[
        max(0, box[1] - RING_PX) : box[3] + RING_PX, max(0, box[0] - RING_PX) : box[2] + RING_PX
    ] = True
    assert np.array_equal(result.pixels[~near], pixels[~near])
    filled = result.pixels[inside].astype(int)
    assert abs(filled - filled.mean(1, keepdims=True)).max() < 30  # no red is left
    assert filled.mean(1).std() > 0.5 * pixels[~near].mean(1).std()  # as rough as its surroundings


def test_what_has_no_fitting_surroundings_is_not_removed() -> None:
    pixels = noise(3)
    disc(pixels, "red", radius=40)
    thing = Thing("ball", (20, 5, 101, 86))
    assert without(View(pixels, (thing,)), thing) is None
    crossed = noise(3, 90, 120)
    crossed[:45] = 250  # an edge that no other stretch has at this height and this slope
    crossed[45:, :60] = 0
    corner = Thing("ball", (50, 35, 70, 55))
    assert without(View(crossed, (corner,)), corner) is None


@pytest.mark.parametrize(("css", "name"), CLEAR.items())
def test_colours_have_the_names_that_people_give_them(css: str, name: str) -> None:
    assert color_name(np.full((9, 3), ImageColor.getrgb(css), np.uint8)) == name


@pytest.mark.parametrize("css", UNCLEAR)
def test_colours_without_an_agreed_name_have_none(css: str) -> None:
    assert color_name(np.full((9, 3), ImageColor.getrgb(css), np.uint8)) == ""


def test_a_name_needs_half_of_the_pixels_and_hardly_any_of_another() -> None:
    red, blue, gray = (
        np.array([ImageColor.getrgb(css)], np.uint8) for css in ("red", "blue", "gray")
    )
    assert color_name(np.concatenate([red] * 50 + [gray] * 50)) == "red"
    assert color_name(np.concatenate([red] * 49 + [gray] * 51)) == ""
    assert color_name(np.concatenate([red] * 85 + [blue] * 15)) == "red"
    assert color_name(np.concatenate([red] * 84 + [blue] * 16)) == ""
    assert color_name(np.zeros((0, 3), np.uint8)) == ""


def test_oklab_agrees_with_its_published_white_and_returns_every_pixel() -> None:
    assert to_lab(np.array([255, 255, 255], np.uint8)) == pytest.approx([1, 0, 0], abs=1e-3)
    pixels = np.random.default_rng(0).integers(0, 256, (500, 3), np.uint8)
    assert np.array_equal(to_rgb(to_lab(pixels)), pixels)


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize(
    ("css", "before"), [("red", "red"), ("gold", "yellow"), ("royalblue", "blue")]
)
def test_a_thing_gets_the_colour_that_is_said_and_keeps_all_else(
    css: str, before: str, boxed: bool
) -> None:
    pixels = noise(4)
    ball = disc(pixels, css)
    band = np.zeros(ball.shape, bool)
    band[43:48, 50:70] = True
    pixels[band] = 255
    found = find_in_box(pixels, (36, 21, 85, 70)) if boxed else find_by_color(pixels)
    assert found is not None and found.color == before
    assert found.thing[ball].mean() > 0.9 and found.thing[~ball].mean() < 0.05
    made = {
        target: result for target in NAMES if (result := recolor(pixels, found, target)) is not None
    }
    assert before not in made and len(made) >= 2
    for target, result in made.items():
        assert color_name(result[ball & ~band]) == target
        assert np.array_equal(result[band], pixels[band])
        far = np.ones(ball.shape, bool)
        far[18:73, 33:88] = False
        assert np.array_equal(result[far], pixels[far])
        lightness = to_lab(result)[..., 0] - to_lab(pixels)[..., 0]
        # what no screen can show is clipped, and only that
        assert abs(lightness[ball]).max() < 0.12


def test_without_a_box_only_one_whole_patch_in_the_middle_counts() -> None:
    def found(*discs: tuple[str, tuple[int, int], int]) -> bool:
        pixels = noise(5)
        for color, center, radius in discs:
            disc(pixels, color, center, radius)
        return find_by_color(pixels) is not None

    assert found(("red", (60, 45), 22))
    assert not found()
    assert not found(("red", (60, 45), 5))  # a detail
    assert not found(("red", (60, 45), 70))  # the background
    assert not found(("red", (22, 45), 20))  # beside the middle
    assert not found(("red", (60, 85), 22))  # cut off by the edge
    assert not found(("red", (40, 45), 16), ("blue", (80, 45), 16))  # which of the two?
    assert not found(("red", (40, 45), 16), ("red", (80, 45), 16))
    assert not found(("teal", (60, 45), 22))  # a colour without a name


def test_a_thing_that_fills_its_picture_or_has_no_clear_colour_is_not_found_in_its_box() -> None:
    pixels = noise(6)
    assert find_in_box(pixels, (0, 0, 120, 90)) is None
    disc(pixels, "teal")
    assert find_in_box(pixels, (36, 21, 85, 70)) is None
    on_red = np.full((90, 120, 3), ImageColor.getrgb("darkred"), np.uint8)
    disc(on_red, "red")
    assert find_by_color(on_red) is None  # the ground has the same hue and would turn as well
