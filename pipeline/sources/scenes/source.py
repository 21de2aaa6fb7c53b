"""The built-in `scenes` source: endless drawn pairs that differ in exactly one fact.

The truth is in `meta`.
"""

import json
from random import Random
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, model_validator

from pipeline.core.images import encode_png
from pipeline.core.recipe import Section
from pipeline.core.schema import Candidate
from pipeline.sources.scenes.drawing import draw_backdrop, draw_things
from pipeline.sources.scenes.layout import PairLayout, lay_out
from pipeline.sources.scenes.phrasing import phrasing_numbers, write
from pipeline.sources.source import Source

VERSION = 1

Split = Literal["all", "seen", "held_out"]


class SceneMix(Section):
    """How often each category of contrast is drawn: weights, of which at least one is above 0."""

    object: float = Field(default=1.0, ge=0)
    attribute: float = Field(default=1.0, ge=0)
    count: float = Field(default=1.0, ge=0)
    position: float = Field(default=1.0, ge=0)
    relation: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _has_weight(self) -> "SceneMix":
        if not sum(self.model_dump().values()) > 0:
            raise ValueError("expected at least one category with a weight above 0")
        return self


class ScenesSection(Section):
    """Drawn scenes, pair `first`, `first` + 1, ... of the endless sequence that `seed` names.

    `co_occurrence` is a bias that can be set: the probability that the subject's kind is the one
    that goes with its background (0: independent). `combinations` and `phrasings` hold back a fixed
    third of all (kind, colour) combinations and a fixed quarter of all wordings: "seen" never shows
    them, "held_out" asks about nothing else.
    """

    PATHS: ClassVar[tuple[str, ...]] = ()

    kind: Literal["scenes"]
    name: str = "scenes"
    num_pairs: int = Field(default=1000, gt=0)
    seed: int = 0
    first: int = Field(default=0, ge=0)
    size_px: int = Field(default=64, ge=64, le=1024)
    mix: SceneMix = SceneMix()
    co_occurrence: float = Field(default=0.0, ge=0, le=1)
    combinations: Split = "all"
    phrasings: Split = "all"


class ScenesSource(Source):
    """Random access: a row depends on the section's settings, the seed and its index alone."""

    def __init__(self, section: ScenesSection) -> None:
        super().__init__(section)
        self._rows = range(section.first, section.first + section.num_pairs)

    def _contents(self) -> dict[str, object]:
        """The version of the drawing code."""
        return {"version": VERSION}

    def row(self, index: int) -> Candidate:
        """A pair of the section's range."""
        return draw_pair(self._section, self._rows[index])


def draw_pair(section: ScenesSection, index: int) -> Candidate:
    """Pair `index` of the endless sequence: two renders that differ in exactly one fact.

    `meta` holds {"truth": {"a": .., "b": ..}, "contrast": .., "phrasing": ..}; a truth names the
    background and each object with its colour and box [x0, y0, x1, y1] in pixels, x1 and y1
    exclusive. Outside the boxes of what changed, the two images are the same pixel by pixel.
    """
    # Seeding by text is the same in every Python version; the name keeps seed 1, pair 23 apart from
    # seed 12, pair 3.
    rng = Random(f"scenes:{section.seed}:{index}")
    weights = section.mix.model_dump()
    category = rng.choices(list(weights), list(weights.values()))[0]
    phrasing = rng.choice(phrasing_numbers(section.phrasings))
    layout = lay_out(
        rng,
        category,
        combinations=section.combinations,
        co_occurrence=section.co_occurrence,
        size_px=section.size_px,
    )
    backdrop = draw_backdrop(layout.backdrop, section.size_px)
    image_a, image_b = (
        encode_png(Image.fromarray(draw_things(backdrop, things))) for things in layout.things
    )
    question, caption_a, caption_b = write(
        category, phrasing, layout.contrast.subject, *layout.contrast.values
    )
    name = f"scene-{section.seed}-{index}"
    return Candidate(
        source=section.name,
        source_id=name,
        category=category,
        operation="render",
        group=name,
        image_a=image_a,
        image_b=image_b,
        caption_a=caption_a,
        caption_b=caption_b,
        license="Apache-2.0",
        question=question,
        meta=json.dumps(_meta(layout, category, phrasing), sort_keys=True),
    )


def _meta(layout: PairLayout, category: str, phrasing: int) -> dict[str, Any]:
    contrast = layout.contrast
    objects = [
        [{"object": thing.kind, "colour": thing.color, "box": list(thing.box)} for thing in things]
        for things in layout.things
    ]
    return {
        "truth": {
            side: {"background": layout.backdrop.background, "objects": things}
            for side, things in zip("ab", objects, strict=True)
        },
        "contrast": {
            "category": category,
            "subject": contrast.subject,
            **dict(zip("ab", contrast.values, strict=True)),
        },
        "phrasing": phrasing,
    }
