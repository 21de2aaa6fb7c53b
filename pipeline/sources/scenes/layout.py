"""Decides what is in a scene pair and where: subject, contrast, other things, backdrop.

Draws and writes nothing. Every choice comes from one seeded `random.Random`, so a pair depends on
its seed and index alone.
"""

import hashlib
from dataclasses import dataclass
from itertools import product
from random import Random

from pipeline.sources.scenes.drawing import (
    BACKGROUNDS,
    BOX,
    BOX_COLOR,
    CLUTTER_TONES,
    COLORS,
    KINDS,
    TONES,
    Backdrop,
    Speck,
    Thing,
)
from pipeline.sources.scenes.phrasing import COUNTS, OPPOSITES, VALUES

# Things stand in the cells of a 3 x 3 grid (column, row), so they never overlap and positions are
# exact.
_CELLS = tuple(product(range(3), range(3)))
_POSITION_CELLS = {
    "upper left": (0, 0),
    "upper right": (2, 0),
    "lower left": (0, 2),
    "lower right": (2, 2),
    "centre": (1, 1),
}
# Of the picture's side, with its outline: 14 to 19 px of 64, which always fits into a cell of 21.
_MIN_THING, _MAX_RELATED, _MAX_THING = 0.22, 0.25, 0.30
_MAX_TRIES = 60

Combination = tuple[str, str]  # (kind, colour)
Sides = tuple[tuple[Thing, ...], tuple[Thing, ...]]


@dataclass(frozen=True, slots=True)
class Contrast:
    """The fact that differs, before anything has a place."""

    subject: str  # a colour for object, else a kind
    values: tuple[str, str]
    sides: tuple[Combination, Combination]


@dataclass(frozen=True, slots=True)
class PairLayout:
    """A pair before it is drawn: one backdrop, each side's things, the fact that differs."""

    contrast: Contrast
    backdrop: Backdrop
    things: Sides


def _fixed_order(names: tuple[str, ...]) -> dict[str, int]:
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"scenes:{name}".encode()).digest())
    return {name: rank for rank, name in enumerate(ranked)}


def held_out_combinations() -> frozenset[Combination]:
    """The third of all (kind, colour) that "seen" scenes never show; the same in any version.

    Kinds and colours are ranked by a fixed hash; a combination is held out where the ranks add up
    to a multiple of 3. So each kind keeps four colours and loses two, and each colour keeps four
    kinds and loses two.
    """
    kinds, colors = _fixed_order(KINDS), _fixed_order(tuple(COLORS))
    return frozenset((k, c) for k, c in product(KINDS, COLORS) if (kinds[k] + colors[c]) % 3 == 0)


def usual_kind(background: str) -> str:
    """The kind that follows a background where `co_occurrence` is above 0."""
    return KINDS[BACKGROUNDS.index(background)]


def lay_out(
    rng: Random, category: str, *, combinations: str, co_occurrence: float, size_px: int
) -> PairLayout:
    """A pair of the given category.

    Args:
        combinations: "all"; "seen": the scene has nothing held out; "held_out": the subject of both
            sides is held out.
        co_occurrence: Probability that the subject's kind (of one side, where the kind is the
            contrast) is its background's usual one; otherwise the kind is drawn from all.
    """
    held_out = held_out_combinations()
    everything = frozenset(product(KINDS, COLORS))
    for_subject = {"all": everything, "seen": everything - held_out, "held_out": held_out}[
        combinations
    ]
    for_others = everything - held_out if combinations == "seen" else everything
    backdrop = _backdrop(rng, size_px)
    kind = usual_kind(backdrop.background) if rng.random() < co_occurrence else rng.choice(KINDS)
    contrast = _choose(rng, category, kind, for_subject)
    places = {"count": _place_counted, "position": _place_positioned, "relation": _place_related}
    place = places.get(category, _place_alike)
    return PairLayout(contrast, backdrop, place(rng, contrast, for_others, size_px))


def _choose(rng: Random, category: str, kind: str, allowed: frozenset[Combination]) -> Contrast:
    color = rng.choice([c for c in COLORS if (kind, c) in allowed])
    if category == "object":
        other = rng.choice([k for k in KINDS if (k, color) in allowed and k != kind])
        a, b = rng.sample((kind, other), 2)
        return Contrast(color, (a, b), ((a, color), (b, color)))
    if category == "attribute":
        a, b = rng.sample([c for c in COLORS if (kind, c) in allowed], 2)
        return Contrast(kind, (a, b), ((kind, a), (kind, b)))
    pool = rng.choice(OPPOSITES) if category == "relation" else VALUES[category]
    a, b = rng.sample(pool, 2)
    return Contrast(kind, (a, b), ((kind, color), (kind, color)))


def _others(
    rng: Random, contrast: Contrast, allowed: frozenset[Combination], number: int
) -> list[Combination]:
    """Combinations for the other things.

    No kind and no colour stands twice in a scene, so every question is clear.
    """
    taken = list(contrast.sides)
    for _ in range(number):
        kinds, colors = (set(names) for names in zip(*taken, strict=True))
        free = [
            (k, c)
            for k, c in product(KINDS, COLORS)
            if (k, c) in allowed and k not in kinds and c not in colors
        ]
        if free:
            taken.append(rng.choice(free))
    return taken[2:]


def _in_cell(
    rng: Random,
    combination: Combination,
    cell: tuple[int, int],
    size_px: int,
    thing_px: int | None = None,
) -> Thing:
    """A thing somewhere in a cell, of any size that is allowed or of a given one."""
    side = size_px // 3
    size = thing_px or rng.randint(round(_MIN_THING * size_px), round(_MAX_THING * size_px))
    x0, y0 = (step * side + rng.randint(0, side - size) for step in cell)
    return Thing(*combination, x0, y0, size)


def _place_alike(
    rng: Random, contrast: Contrast, allowed: frozenset[Combination], size_px: int
) -> Sides:
    """Object and attribute: the subject keeps place and size, and changes kind or colour."""
    others = _others(rng, contrast, allowed, rng.randint(1, 3))
    first, *cells = rng.sample(_CELLS, len(others) + 1)
    spot = _in_cell(rng, contrast.sides[0], first, size_px)
    a, b = (Thing(*side, spot.x0, spot.y0, spot.size_px) for side in contrast.sides)
    rest = tuple(
        _in_cell(rng, other, cell, size_px) for other, cell in zip(others, cells, strict=True)
    )
    return (a, *rest), (b, *rest)


def _place_counted(
    rng: Random, contrast: Contrast, allowed: frozenset[Combination], size_px: int
) -> Sides:
    """Count: the side with fewer shows a part of the other side's things."""
    numbers = [COUNTS[value] for value in contrast.values]
    others = _others(rng, contrast, allowed, 1)
    cells = rng.sample(_CELLS, max(numbers) + len(others))
    rest = tuple(_in_cell(rng, other, cells.pop(), size_px) for other in others)
    counted = tuple(_in_cell(rng, contrast.sides[0], cell, size_px) for cell in cells)
    return counted[: numbers[0]] + rest, counted[: numbers[1]] + rest


def _place_positioned(
    rng: Random, contrast: Contrast, allowed: frozenset[Combination], size_px: int
) -> Sides:
    """Position: the subject moves to another part of the picture, as large as before."""
    others = _others(rng, contrast, allowed, rng.randint(1, 3))
    own = [_POSITION_CELLS[value] for value in contrast.values]
    a = _in_cell(rng, contrast.sides[0], own[0], size_px)
    b = _in_cell(rng, contrast.sides[1], own[1], size_px, a.size_px)
    cells = rng.sample([cell for cell in _CELLS if cell not in own], len(others))
    rest = tuple(
        _in_cell(rng, other, cell, size_px) for other, cell in zip(others, cells, strict=True)
    )
    return (a, *rest), (b, *rest)


def _place_related(
    rng: Random, contrast: Contrast, allowed: frozenset[Combination], size_px: int
) -> Sides:
    """Relation: the subject and the box change places, so that no place gives it away."""
    # Small and close together, so that both orders fit nearly everywhere.
    size = rng.randint(round(_MIN_THING * size_px), round(_MAX_RELATED * size_px))
    wobble = size_px // 16
    gap = rng.randint(2, size_px // 12)
    along = rng.randint(0, size_px - 2 * size - gap)
    across = rng.randint(0, size_px - size - wobble)
    spots = [(along + step, across + rng.randint(0, wobble)) for step in (0, size + gap)]
    if contrast.values[0] in OPPOSITES[1]:
        spots = [(across_, along_) for along_, across_ in spots]
    # side a has the subject in the second spot
    if contrast.values[0] in (OPPOSITES[0][1], OPPOSITES[1][1]):
        spots.reverse()
    (kind, color), first, second = contrast.sides[0], *spots
    a = (Thing(kind, color, *first, size), Thing(BOX, BOX_COLOR, *second, size))
    b = (Thing(kind, color, *second, size), Thing(BOX, BOX_COLOR, *first, size))
    rest = tuple(_free(rng, other, a, size_px) for other in _others(rng, contrast, allowed, 1))
    placed = tuple(thing for thing in rest if thing is not None)
    return a + placed, b + placed


def _free(
    rng: Random, combination: Combination, taken: tuple[Thing, ...], size_px: int
) -> Thing | None:
    """The thing at a random place with a free pixel around it; None where no place was found."""
    size = round(_MIN_THING * size_px)
    for _ in range(_MAX_TRIES):
        x0, y0 = rng.randint(0, size_px - size), rng.randint(0, size_px - size)
        if all(
            x0 + size < t.x0 or t.box[2] < x0 or y0 + size < t.y0 or t.box[3] < y0 for t in taken
        ):
            return Thing(*combination, x0, y0, size)
    return None


def _backdrop(rng: Random, size_px: int) -> Backdrop:
    specks = []
    for _ in range(rng.randint(6, 12)):
        width, height = rng.randint(2, size_px // 10), rng.randint(1, 3)
        if rng.random() < 0.5:
            width, height = height, width
        spot = rng.randint(0, size_px - width), rng.randint(0, size_px - height)
        specks.append(Speck(*spot, width, height, rng.randrange(len(CLUTTER_TONES))))
    period_px = 2 * rng.randint(size_px // 16, size_px // 9)
    return Backdrop(
        background=rng.choice(BACKGROUNDS),
        tone=rng.randrange(len(TONES)),
        period_px=period_px,
        phase_px=rng.randrange(period_px),
        specks=tuple(specks),
        noise_seed=rng.getrandbits(32),
    )
