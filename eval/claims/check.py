"""Whether answers state what is not in the picture: claims against the exact truth in `meta`.

Knows nothing of models. Truth is what the scene generator writes: objects with a noun, a colour and
a box in pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import (
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationError,
)

from eval.claims.claims import Claim, Thing, read_claims
from eval.claims.lexicon import Lexicon

Word = Annotated[str, StringConstraints(pattern=r"\S", to_lower=True)]


class SeenObject(BaseModel):
    """One object of the truth; `box` is [x0, y0, x1, y1] in pixels (y grows downwards)."""

    model_config = ConfigDict(strict=True, frozen=True)
    noun: Word = Field(alias="object")
    color: Word = Field(alias="colour")
    box: list[FiniteFloat] = Field(min_length=4, max_length=4)

    @property
    def center_px(self) -> tuple[float, float]:
        """Across and down."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


class _Meta(BaseModel):
    a: list[SeenObject] = Field(validation_alias=AliasPath("truth", "a", "objects"))
    b: list[SeenObject] = Field(validation_alias=AliasPath("truth", "b", "objects"))


@dataclass(frozen=True, slots=True)
class Truth:
    """All that is known to be in one image, and the image's size."""

    objects: Sequence[SeenObject]
    width_px: int
    height_px: int


def truths_in(meta: str | None) -> tuple[list[SeenObject], list[SeenObject]] | None:
    """The objects of image a and of image b as `meta` states them; None without an exact truth.

    None too where `meta` is no JSON, or where any object is not a noun, a colour and a box of four
    numbers: other makers of a folder may keep whatever they like in `meta`, and a truth in parts
    would call true claims false.
    """
    try:
        stated = _Meta.model_validate_json(meta or "{}")
    except ValidationError:
        return None
    return stated.a, stated.b


def lexicon_of(stated: Iterable[Sequence[SeenObject]]) -> Lexicon:
    """The lexicon of a folder: every object and colour that any of its truths names."""
    items = [item for objects in stated for item in objects]
    return Lexicon.of({item.noun for item in items}, {item.color for item in items})


def check_answer(answer: str, question: str, truth: Truth, lexicon: Lexicon) -> tuple[int, int]:
    """How many checkable claims an answer makes, and how many of them the truth contradicts."""
    claims = read_claims(answer, question, lexicon)
    return len(claims), sum(not holds(claim, truth) for claim in claims)


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
    (x, y), width, height = seen.center_px, truth.width_px, truth.height_px
    across, down = x - width / 2, y - height / 2
    centered = abs(across) <= width / 6 and abs(down) <= height / 6
    return centered if place == "centre" else not centered and _leads(across, down, place)


def _related(seen: SeenObject, relation: str, other: SeenObject) -> bool:
    (x, y), (other_x, other_y) = seen.center_px, other.center_px
    return _leads(x - other_x, y - other_y, relation)


def _leads(across: float, down: float, where: str) -> bool:
    return {
        "left": across < 0,
        "right": across > 0,
        "top": down < 0,
        "above": down < 0,
        "bottom": down > 0,
        "below": down > 0,
    }[where]
