"""All source formats by name, and what every one of them offers."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Protocol

from pydantic import Field

from pipeline.core.recipe import Section
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.countercurate import CountercurateSection, CountercurateSource
from pipeline.sources.edits.source import EditsSection, EditsSource
from pipeline.sources.finecops_ref import FinecopsRefSection, FinecopsRefSource
from pipeline.sources.hub import HubSource
from pipeline.sources.hub_config import HubSection
from pipeline.sources.mvc_json import MvcJsonSection, MvcJsonSource
from pipeline.sources.pairs import PairsSection, PairsSource
from pipeline.sources.scenes.source import ScenesSection, ScenesSource

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


class Source(Protocol):
    """Rows with random access: the same index always yields the same row.

    The section of every source has `kind`, `name` (the column `source` of its rows) and the
    attribute `PATHS`: which of its fields are paths, made absolute by the plan and kept out of the
    published recipe.
    """

    def count(self) -> int:
        """Number of rows that `read` yields in all."""
        ...

    def identity(self) -> dict[str, object]:
        """What the rows depend on, wherever they lie: part of the fingerprint of their stage."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Candidate | Malformed]:
        """Rows [start, stop), one entry each."""
        ...


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
