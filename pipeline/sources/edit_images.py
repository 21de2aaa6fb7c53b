"""Pictures with what is known to be in them, and edits that change both at once. Pure functions.

A view's pixels are [H, W, 3] 8-bit RGB, its boxes [x0, y0, x1, y1] in its own pixels, x1 and y1 exclusive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.sources.edit_colours import Box, Pixels

NEUTRAL = (232, 232, 232)
RING_PX = 3  # goes with a removed box: edges of the thing that the box missed
RIM_PX = 8  # around that, what the filling must fit to
MAX_RIM_MISFIT = 55  # of 255 levels, for 95 % of the rim; looked at on photographs: above, a smear is seen


@dataclass(frozen=True, slots=True)
class Thing:
    """Something in a picture: what it is called, where it is, and its colour where that was measured."""

    label: str
    box: Box
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A picture and the things that are known to be in it."""

    pixels: Pixels
    things: tuple[Thing, ...]


def resized(view: View, width: int, height: int) -> View:
    """The whole view at another size."""
    import cv2

    old_height, old_width = view.pixels.shape[:2]
    if (width, height) == (old_width, old_height):
        return view
    shrinks = width <= old_width and height <= old_height
    pixels = cv2.resize(view.pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    # Outwards, so that a scaled box still holds all of its thing.
    things = tuple(
        replace(
            thing,
            box=(
                thing.box[0] * width // old_width,
                thing.box[1] * height // old_height,
                -(-thing.box[2] * width // old_width),
                -(-thing.box[3] * height // old_height),
            ),
        )
        for thing in view.things
    )
    return View(np.asarray(pixels, np.uint8), things)


def contained(view: View, side_px: int) -> View:
    """The view scaled so that its longer side measures `side_px`."""
    height, width = view.pixels.shape[:2]
    longest = max(height, width)
    return resized(view, max(1, round(width * side_px / longest)), max(1, round(height * side_px / longest)))


def shrunk(view: View, side_px: int) -> View:
    """The view with its longer side at most `side_px`; nothing is ever enlarged."""
    return contained(view, side_px) if max(view.pixels.shape[:2]) > side_px else view


def tile_side(size_px: int, gutter_px: int) -> int:
    """The side of a square tile of which two fit into `size_px` beside each other, with even gutters."""
    return (size_px - 3 * gutter_px) // 2


def grid(views: Sequence[View | None], num_columns: int, tile_px: int, gutter_px: int) -> View:
    """Views in rows of square tiles on a neutral ground, even gutters between and around them; None leaves its place empty.

    Each view is scaled to fit its tile and centred in it; nothing is cropped, so that what a label names stays in sight.
    """
    step = tile_px + gutter_px
    num_rows = -(-len(views) // num_columns)
    canvas = np.empty((num_rows * step + gutter_px, num_columns * step + gutter_px, 3), np.uint8)
    canvas[:] = NEUTRAL
    things: list[Thing] = []
    for place, view in enumerate(views):
        if view is None:
            continue
        tile = contained(view, tile_px)
        height, width = tile.pixels.shape[:2]
        row, column = divmod(place, num_columns)
        top, left = gutter_px + row * step + (tile_px - height) // 2, gutter_px + column * step + (tile_px - width) // 2
        canvas[top : top + height, left : left + width] = tile.pixels
        things += [replace(thing, box=_moved(thing.box, left, top)) for thing in tile.things]
    return View(canvas, tuple(things))


def _moved(box: Box, right: int, down: int) -> Box:
    return box[0] + right, box[1] + down, box[2] + right, box[3] + down


def mirrored(view: View) -> View:
    """The view as in a mirror: left is right. Print in it is mirrored too."""
    width = view.pixels.shape[1]
    things = tuple(replace(t, box=(width - t.box[2], t.box[1], width - t.box[0], t.box[3])) for t in view.things)
    return View(np.ascontiguousarray(view.pixels[:, ::-1]), things)


def apart(one: Box, other: Box) -> bool:
    """Whether the first box lies to the left of the other, with no column in common."""
    return one[2] <= other[0]


def overlaps(one: Box, other: Box) -> bool:
    """Whether two boxes share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def area(box: Box) -> int:
    """Pixels in a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def without(view: View, thing: Thing) -> View | None:
    """The view with one thing's box filled from its surroundings, or None if nothing there can fill it.

    Of all stretches of the same size that hold no thing, the one whose rim is most like the rim of the hole is copied
    in, and its shading fitted to the rim (Perez et al. 2003, in OpenCV). Nothing changes beyond the box and 3 pixels
    around it. Shadows and reflections stay unless the box holds them.
    """
    import cv2

    height, width = view.pixels.shape[:2]
    hole = _clipped(_grown(thing.box, RING_PX), width, height)
    found = _best_stretch(view, hole)
    if found is None:
        return None
    x0, y0, x1, y1 = hole
    patch = view.pixels[found[1] : found[1] + y1 - y0, found[0] : found[0] + x1 - x0]
    # Cloning needs known pixels on all sides, which a hole at the edge of the picture does not have.
    padded = np.pad(view.pixels, ((2, 2), (2, 2), (0, 0)), mode="edge")
    centre = (x0 + 2 + (x1 - x0) // 2, y0 + 2 + (y1 - y0) // 2)
    cloned = cv2.seamlessClone(patch, padded, np.full(patch.shape[:2], 255, np.uint8), centre, cv2.NORMAL_CLONE)[2:-2, 2:-2]
    result = view.pixels.copy()
    result[y0:y1, x0:x1] = cloned[y0:y1, x0:x1]
    return View(result, tuple(other for other in view.things if other is not thing))


def _best_stretch(view: View, hole: Box) -> tuple[int, int] | None:
    """Left and top of the stretch to copy into the hole; None if no stretch is free, or none fits."""
    import cv2

    height, width = view.pixels.shape[:2]
    x0, y0, x1, y1 = _clipped(_grown(hole, RIM_PX), width, height)
    rim = np.ones((y1 - y0, x1 - x0), np.float32)
    rim[hole[1] - y0 : hole[3] - y0, hole[0] - x0 : hole[2] - x0] = 0
    # Blurred, because two stretches of grass fit although no blade does.
    pixels = cv2.blur(view.pixels, (RIM_PX + 1, RIM_PX + 1)).astype(np.float32)
    template = pixels[y0:y1, x0:x1]
    misfit = cv2.matchTemplate(pixels, template, cv2.TM_SQDIFF, mask=np.dstack([rim] * 3))
    for thing in view.things:
        left, top, right, bottom = _clipped(_grown(thing.box, RING_PX), width, height)
        misfit[max(0, top - (y1 - y0) + 1) : bottom, max(0, left - (x1 - x0) + 1) : right] = np.inf
    top, left = divmod(int(misfit.argmin()), misfit.shape[1])
    away = abs(pixels[top : top + y1 - y0, left : left + x1 - x0] - template).mean(-1)[rim > 0]
    if not np.isfinite(misfit[top, left]) or np.percentile(away, 95) > MAX_RIM_MISFIT:
        return None
    return left + hole[0] - x0, top + hole[1] - y0


def _grown(box: Box, by: int) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _clipped(box: Box, width: int, height: int) -> Box:
    return max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
