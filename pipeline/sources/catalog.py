"""All source formats by name, and what every one of them offers."""

from collections.abc import Iterator
from typing import Annotated, Protocol

from pydantic import Field

from pipeline.schema import Candidate, Malformed
from pipeline.sources.pairs import PairsSection, PairsSource
from pipeline.sources.scenes import ScenesSection, ScenesSource

SourceSection = Annotated[PairsSection | ScenesSection, Field(discriminator="kind")]


class Source(Protocol):
    """Rows with random access: the same index always yields the same row."""

    def count(self) -> int:
        """Number of rows that `read` yields in all."""
        ...

    def identity(self) -> dict[str, object]:
        """What the rows depend on, wherever they lie; goes into the fingerprint of the stage that reads them."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Candidate | Malformed]:
        """Rows [start, stop), one entry each."""
        ...


def open_source(section: PairsSection | ScenesSection) -> Source:
    """The source that a recipe's section describes.

    Raises:
        RecipeError: Nothing to read there.
    """
    return PairsSource(section) if isinstance(section, PairsSection) else ScenesSource(section)
