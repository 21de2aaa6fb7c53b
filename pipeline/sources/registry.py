"""All source formats by name, and what every one of them offers."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from pipeline.core.recipe import Section
from pipeline.sources.countercurate import CountercurateSection, CountercurateSource
from pipeline.sources.edits.source import EditsSection, EditsSource
from pipeline.sources.finecops_ref import FinecopsRefSection, FinecopsRefSource
from pipeline.sources.hub import HubSource
from pipeline.sources.hub_config import HubSection
from pipeline.sources.mvc_json import MvcJsonSection, MvcJsonSource
from pipeline.sources.pairs import PairsSection, PairsSource
from pipeline.sources.scenes.source import ScenesSection, ScenesSource
from pipeline.sources.source import Source

SourceSection = Annotated[
    CountercurateSection
    | EditsSection
    | FinecopsRefSection
    | HubSection
    | MvcJsonSection
    | PairsSection
    | ScenesSection,
    Field(discriminator="kind"),
]


_OPENERS: dict[type[Section], Callable[[Any], Source]] = {
    CountercurateSection: CountercurateSource,
    EditsSection: EditsSource,
    FinecopsRefSection: FinecopsRefSource,
    HubSection: HubSource,
    MvcJsonSection: MvcJsonSource,
    PairsSection: PairsSource,
    ScenesSection: ScenesSource,
}


def open_source(section: Section) -> Source:
    """The source that a recipe's section describes.

    Raises:
        RecipeError: Nothing to read there.
    """
    return _OPENERS[type(section)](section)
