"""Whether answers state what is not in the picture: claims against the exact truth in `meta`.

Knows nothing of models. Truth is what the scene generator writes: objects with a noun, a colour and
a box in pixels.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.claims.claims import Claim, Thing, read_claims
from eval.claims.lexicon import Lexicon


@dataclass(frozen=True, slots=True)
class SeenObject:
    """One object of the truth; the center of its box is in pixels (y grows downwards)."""

    noun: str
    color: str
    center_x_px: float
    center_y_px: float


@dataclass(frozen=True, slots=True)
class Truth:
    """All that is known to be in one image, and the image's size."""

    objects: tuple[SeenObject, ...]
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """One generated answer against the truth: its checkable claims, and the false ones of them."""

    num_claims: int
    num_false: int


def truths_in(meta: str | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """The objects of image a and of image b as `meta` states them; None without an exact truth.

    None too where `meta` is no JSON, or where any object is not a noun, a colour and a box of four
    numbers: other makers of a folder may keep whatever they like in `meta`, and a truth in parts
    would call true claims false.
    """
    try:
        value = json.loads(meta or "{}")
    except json.JSONDecodeError:
        return None
    truth = value.get("truth") if isinstance(value, dict) else None
    if not isinstance(truth, dict) or not all(_is_side(truth.get(side)) for side in ("a", "b")):
        return None
    return truth["a"]["objects"], truth["b"]["objects"]


def _is_side(side: object) -> bool:
    objects = side.get("objects") if isinstance(side, dict) else None
    return isinstance(objects, list) and all(
        isinstance(item, dict) and _is_object(item) for item in objects
    )


def _is_object(item: Mapping[str, Any]) -> bool:
    box = item.get("box")
    named = all(
        isinstance(item.get(key), str) and item[key].strip() for key in ("object", "colour")
    )
    return (
        named
        and isinstance(box, list)
        and len(box) == 4
        and all(_is_number(value) for value in box)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def truth_of(objects: Sequence[Mapping[str, Any]], width_px: int, height_px: int) -> Truth:
    """The truth of one image from its stated objects; `box` is [x0, y0, x1, y1] in pixels."""
    seen = []
    for item in objects:
        x0, y0, x1, y1 = (float(value) for value in item["box"])
        seen.append(
            SeenObject(
                str(item["object"]).lower(),
                str(item["colour"]).lower(),
                (x0 + x1) / 2,
                (y0 + y1) / 2,
            )
        )
    return Truth(tuple(seen), width_px, height_px)


def lexicon_of(stated: Iterable[Sequence[Mapping[str, Any]]]) -> Lexicon:
    """The lexicon of a folder: every object and colour that any of its truths names."""
    items = [item for objects in stated for item in objects]
    return Lexicon.of(
        {str(item["object"]) for item in items}, {str(item["colour"]) for item in items}
    )


def check_answer(answer: str, question: str, truth: Truth, lexicon: Lexicon) -> AnswerCheck:
    """How many checkable claims an answer makes, and how many of them the truth contradicts."""
    claims = read_claims(answer, question, lexicon)
    return AnswerCheck(len(claims), sum(not holds(claim, truth) for claim in claims))


def holds(claim: Claim, truth: Truth) -> bool:
    """Whether the truth bears a claim out.

    "The star" is read as some star: with two stars, a statement that is true of one of them holds,
    and its negation does not. A number without "at least" is exact. A half holds an object whose
    box centre lies in it, unless it lies in the middle ninth of the image: that is the centre, and
    on no side.
    """
    return _affirmed(claim, truth) != claim.negated


def _affirmed(claim: Claim, truth: Truth) -> bool:
    subjects = [seen for seen in truth.objects if _fits(seen, claim.subject, truth)]
    if claim.kind == "exists":
        return bool(subjects)
    if claim.kind == "count":
        return len(subjects) == int(claim.value)
    if claim.kind == "colour":
        return any(seen.color == claim.value for seen in subjects)
    if claim.kind == "position":
        return any(_in_place(seen, claim.value, truth) for seen in subjects)
    assert claim.other is not None, "a relation names what it relates to"
    others = [seen for seen in truth.objects if _fits(seen, claim.other, truth)]
    return any(
        _related(seen, claim.value, other)
        for seen in subjects
        for other in others
        if seen is not other
    )


def _fits(seen: SeenObject, thing: Thing, truth: Truth) -> bool:
    return (
        thing.noun in (None, seen.noun)
        and (not thing.colors or seen.color in thing.colors)
        and (thing.half is None or _in_place(seen, thing.half, truth))
    )


def _in_place(seen: SeenObject, place: str, truth: Truth) -> bool:
    across, down = seen.center_x_px - truth.width_px / 2, seen.center_y_px - truth.height_px / 2
    centered = abs(across) <= truth.width_px / 6 and abs(down) <= truth.height_px / 6
    if place == "centre":
        return centered
    return (
        not centered
        and {"left": across < 0, "right": across > 0, "top": down < 0, "bottom": down > 0}[place]
    )


def _related(seen: SeenObject, relation: str, other: SeenObject) -> bool:
    across, down = seen.center_x_px - other.center_x_px, seen.center_y_px - other.center_y_px
    return {"left": across < 0, "right": across > 0, "above": down < 0, "below": down > 0}[relation]
