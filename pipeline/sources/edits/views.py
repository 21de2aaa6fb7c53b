"""Pictures with what is known to be in them, and edits that change both at once. Pure functions.

A view's pixels are [H, W, 3] 8-bit RGB, its boxes [x0, y0, x1, y1] in its own pixels, x1 and y1
exclusive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.sources.edits.colours import Box, Pixels

NEUTRAL = (232, 232, 232)
RING_PX = 3  # goes with a removed box: edges of the thing that the box missed
RIM_PX = 12  # around that, what the filling must fit to
_BLUR_PX, _SMOOTHINGS = 4, 20
# of 255 levels, for 95 % of the rim; looked at on photographs: above, a smear is seen
MAX_RIM_MISFIT = 55


@dataclass(frozen=True, slots=True)
class Thing:
    """Something in a picture: its name, its place, and its colour where that was measured."""

    label: str
    box: Box
    color: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A picture and the things that are known to be in it."""

    pixels: Pixels
    things: tuple[Thing, ...]


def resized(view: View, width: int, height: int) -> View:
    """The whole view at another size."""
    old_height, old_width = view.pixels.shape[:2]
    if (width, height) == (old_width, old_height):
        return view
    shrinks = width <= old_width and height <= old_height
    pixels = cv2.resize(
        view.pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
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
    return resized(
        view, max(1, round(width * side_px / longest)), max(1, round(height * side_px / longest))
    )


def shrunk(view: View, side_px: int) -> View:
    """The view with its longer side at most `side_px`; nothing is ever enlarged."""
    return contained(view, side_px) if max(view.pixels.shape[:2]) > side_px else view


def grid(views: Sequence[View | None], num_columns: int, tile_px: int, gutter_px: int) -> View:
    """Views in rows of square tiles on a neutral ground, with even gutters; None stays empty.

    Each view is scaled to fit its tile and centred in it; nothing is cropped, so that what a label
    names stays in sight.
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
        top = gutter_px + row * step + (tile_px - height) // 2
        left = gutter_px + column * step + (tile_px - width) // 2
        canvas[top : top + height, left : left + width] = tile.pixels
        things += [replace(thing, box=_moved(thing.box, left, top)) for thing in tile.things]
    return View(canvas, tuple(things))


def _moved(box: Box, right: int, down: int) -> Box:
    return box[0] + right, box[1] + down, box[2] + right, box[3] + down


def mirrored(view: View) -> View:
    """The view as in a mirror: left is right. Print in it is mirrored too."""
    width = view.pixels.shape[1]
    things = tuple(
        replace(t, box=(width - t.box[2], t.box[1], width - t.box[0], t.box[3]))
        for t in view.things
    )
    return View(np.ascontiguousarray(view.pixels[:, ::-1]), things)


def apart(left: Box, right: Box) -> bool:
    """Whether the first box lies to the left of the other, with no column in common."""
    return left[2] <= right[0]


def overlaps(left: Box, right: Box) -> bool:
    """Whether two boxes share a pixel."""
    shares_column = left[0] < right[2] and right[0] < left[2]
    return shares_column and left[1] < right[3] and right[1] < left[3]


def without(view: View, thing: Thing) -> View | None:
    """The view with one thing's box filled from its surroundings; None if nothing can fill it.

    Of all stretches of the same size that hold no thing, the one whose rim is most like the rim of
    the hole is copied in, plus the smoothest difference that fits it to the rim (Perez et al.
    2003). Nothing changes beyond the box and 3 pixels around it. Shadows and reflections stay
    unless the box holds them.
    """
    height, width = view.pixels.shape[:2]
    hole = _clipped(_grown(thing.box, RING_PX), width, height)
    outer = _clipped(_grown(hole, RIM_PX), width, height)
    corner = _best_stretch(view, hole, outer)
    if corner is None:
        return None
    stretch = (*corner, corner[0] + outer[2] - outer[0], corner[1] + outer[3] - outer[1])
    patch, place = (_cut(view.pixels, box).astype(np.float32) for box in (stretch, outer))
    known = ~_inside(hole, outer)
    result = view.pixels.copy()
    fitted = np.rint(patch + _membrane(place - patch, known)).clip(0, 255)
    _cut(result, outer)[~known] = fitted[~known]
    return View(result, tuple(other for other in view.things if other is not thing))


def _best_stretch(view: View, hole: Box, outer: Box) -> tuple[int, int] | None:
    """Left and top of the stretch to copy onto `outer`; None if none is free, or none fits."""
    height, width = view.pixels.shape[:2]
    # Blurred, because two stretches of grass fit although no blade does; the blur must not reach
    # into the hole.
    pixels = cv2.blur(view.pixels, (2 * _BLUR_PX + 1, 2 * _BLUR_PX + 1)).astype(np.float32)
    template = _cut(pixels, outer)
    rim = ~_inside(_grown(hole, _BLUR_PX), outer)
    misfit = cv2.matchTemplate(
        pixels, template, cv2.TM_SQDIFF, mask=np.dstack([rim] * 3).astype(np.float32)
    )
    rows, columns = template.shape[:2]
    inset = _moved(hole, -outer[0], -outer[1])
    for thing in view.things:  # what is copied must hold none of it; its rim may
        x0, y0, x1, y1 = _clipped(_grown(thing.box, RING_PX), width, height)
        misfit[
            max(0, y0 - inset[3] + 1) : max(0, y1 - inset[1]),
            max(0, x0 - inset[2] + 1) : max(0, x1 - inset[0]),
        ] = np.inf
    top, left = divmod(int(misfit.argmin()), misfit.shape[1])
    away = abs(pixels[top : top + rows, left : left + columns] - template).mean(-1)[rim]
    fits = (
        np.isfinite(misfit[top, left])
        and away.size > 0
        and np.percentile(away, 95) <= MAX_RIM_MISFIT
    )
    return (left, top) if fits else None


def _membrane(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The values where they are known, and the smoothest surface between. [H, W, 3].

    Laplace's equation, solved from coarse to fine.
    """
    height, width = known.shape
    weight = known.astype(np.float32)[..., None]
    if min(height, width) < 4 or known.all():
        guess = np.broadcast_to(
            (values * weight).sum((0, 1)) / max(1.0, float(weight.sum())), values.shape
        )
    else:
        half = ((width + 1) // 2, (height + 1) // 2)
        total, share = (
            cv2.resize(array, half, interpolation=cv2.INTER_AREA)
            for array in (values * weight, weight)
        )
        coarse = _membrane(total / np.maximum(share, 1e-6)[..., None], share > 0)
        guess = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    surface = np.where(known[..., None], values, guess).astype(np.float32)
    for _ in range(_SMOOTHINGS):
        surface = np.where(
            known[..., None], values, cv2.blur(surface, (3, 3), borderType=cv2.BORDER_REPLICATE)
        )
    return surface


def _cut(pixels: NDArray[Any], box: Box) -> NDArray[Any]:
    return pixels[box[1] : box[3], box[0] : box[2]]


def _inside(box: Box, outer: Box) -> NDArray[np.bool_]:
    """Which pixels of `outer` lie in `box`."""
    columns, rows = np.arange(outer[0], outer[2]), np.arange(outer[1], outer[3])
    return ((rows >= box[1]) & (rows < box[3]))[:, None] & (
        (columns >= box[0]) & (columns < box[2])
    )


def _grown(box: Box, by: int) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _clipped(box: Box, width: int, height: int) -> Box:
    return max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
