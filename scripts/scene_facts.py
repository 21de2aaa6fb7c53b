"""What can be said of a built-in scene: every fact there is, each of its wordings, and whether it
is true of a picture.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.scenes.drawing import BOX, BOX_COLOR, COLORS, KINDS
from pipeline.sources.scenes.phrasing import COUNTS, PHRASINGS, VALUES, write

# Shapes: F facts; G cells on a side of the grid.

# (category, subject, value); that a shape has a colour is one fact, whichever of them is asked for
Fact = tuple[str, str, str]

FACTS: tuple[Fact, ...] = (
    *(("attribute", kind, color) for kind in KINDS for color in COLORS),
    *(
        (category, kind, value)
        for category in ("count", "position", "relation")
        for kind in KINDS
        for value in VALUES[category]
    ),
)
_PLACE = {fact: place for place, fact in enumerate(FACTS)}

# Of the 3 x 3 cells (column, row) that things stand in, those that have a name.
_NAMED_CELLS = {
    (0, 0): "upper left",
    (2, 0): "upper right",
    (0, 2): "lower left",
    (2, 2): "lower right",
    (1, 1): "centre",
}


def wordings(fact: Fact) -> list[str]:
    """Every caption that states a fact and nothing else."""
    category, subject, value = fact
    found = [
        write(category, number, subject, value, value)[1]
        for number in range(len(PHRASINGS[category]))
    ]
    if category == "attribute":
        found += [
            write("object", number, value, subject, subject)[1]
            for number in range(len(PHRASINGS["object"]))
        ]
    return found


def truth_of(
    meta: Mapping[str, Any], side: str, size_px: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which facts hold in one picture of a pair, [F], and of which that is certain, [F].

    Where a kind stands more than once, or off the grid, its place is not certain; nor, beside a
    box, that of what the pair is not about.

    Args:
        meta: A scene's `meta`, parsed.
        side: "a" or "b".
    """
    holds, certain = np.zeros(len(FACTS), bool), np.ones(len(FACTS), bool)
    contrast = meta["contrast"]
    is_related = contrast["category"] == "relation"
    things = [thing for thing in meta["truth"][side]["objects"] if thing["object"] != BOX]
    kinds = [thing["object"] for thing in things]
    for thing, kind in zip(things, kinds, strict=True):
        holds[_PLACE["attribute", kind, thing["colour"]]] = True
        for value, number in COUNTS.items():
            holds[_PLACE["count", kind, value]] = kinds.count(kind) == number
        has_cell = kinds.count(kind) == 1 and not is_related
        name = _NAMED_CELLS.get(_cell(thing["box"], size_px, 3))
        for value in VALUES["position"]:
            place = _PLACE["position", kind, value]
            holds[place], certain[place] = has_cell and value == name, has_cell
        for value in VALUES["relation"]:
            place, is_asked = (
                _PLACE["relation", kind, value],
                is_related and kind == contrast["subject"],
            )
            holds[place], certain[place] = (
                is_asked and value == contrast[side],
                is_asked or not is_related,
            )
    return holds, certain


def _cell(box: Sequence[int], size_px: int, num_cells: int) -> tuple[int, int]:
    """Column and row of the cell that holds a box's centre."""
    column, row = (int((box[axis] + box[axis + 2]) / 2 * num_cells / size_px) for axis in (0, 1))
    return column, row


NUM_COVERS = (len(KINDS) + 2, len(COLORS) + 2, 2)


def covers_of(meta: Mapping[str, Any], side: str, size_px: int, grid: int) -> NDArray[np.int64]:
    """What covers the middle of each cell of a G x G grid: kind, colour, and whether a thing's
    centre lies in it, [3, G, G].

    0 is nothing; the box of relations has the last number of kinds and of colours (`NUM_COVERS`
    numbers in all).
    """
    covers = np.zeros((3, grid, grid), np.int64)
    middle = (np.arange(grid) + 0.5) * size_px / grid
    for thing in meta["truth"][side]["objects"]:
        x0, y0, x1, y1 = thing["box"]
        inside = np.ix_((middle >= y0) & (middle < y1), (middle >= x0) & (middle < x1))
        covers[0][inside] = 1 + (*KINDS, BOX).index(thing["object"])
        covers[1][inside] = 1 + (*COLORS, BOX_COLOR).index(thing["colour"])
        column, row = _cell(thing["box"], size_px, grid)
        covers[2, row, column] = 1
    return covers
