"""What every source of pairs offers, whatever its format."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.core.schema import CATEGORIES, Candidate, Malformed

# What data sets call our categories, in lower case; "relation" is ours.
_CATEGORY_WORDS = {
    "object": "objects obj noun entity existence swap_obj replace_obj add_obj",
    "attribute": "attributes attr color colour material size shape state texture adjective",
    "count": "counts counting number numbers quantity",
    "position": "positions location spatial spatial_relation left_right",
    "relation": "relations rel relationship relationships action verb",
    "other": "others misc unknown none",
}
CATEGORY_WORDS = {
    word: category for category, words in _CATEGORY_WORDS.items() for word in words.split()
}


class Source(ABC):
    """Rows with random access: the same index always yields the same row.

    The section of every source has `kind`, `name` (the column `source` of its rows) and the
    attribute `PATHS`: which of its fields are paths, made absolute by the plan and kept out of the
    published recipe. `_rows` has one entry for each row.
    """

    def __init__(self, section: Any) -> None:
        self._section = section
        self._rows: Sequence[Any] = ()

    def count(self) -> int:
        """Number of rows, good and bad."""
        return len(self._rows)

    def identity(self) -> dict[str, object]:
        """What the rows depend on, wherever they lie: part of the fingerprint of their stage.

        No image is read for it: it would take as long as ingesting them.
        """
        settings = self._section.model_dump(mode="json", exclude=set(self._section.PATHS))
        return {**settings, **self._contents()}

    @abstractmethod
    def _contents(self) -> dict[str, object]:
        """What the rows depend on besides the settings."""

    @abstractmethod
    def row(self, index: int) -> Candidate | Malformed:
        """A candidate, or why the row is none."""

    def read(self, start: int, stop: int) -> Iterator[Candidate | Malformed]:
        """Rows [start, stop), as far as there are so many."""
        return map(self.row, range(start, min(stop, self.count())))


def with_images(
    known: dict[str, Any],
    images: Mapping[str, Any],
    looked_for: Mapping[str, str] | None = None,
    **more: Any,
) -> Candidate | Malformed:
    """The candidate with these images, or the malformed row for the first without bytes.

    Args:
        known: What both kinds of row have.
        images: Bytes, or the reason why there are none, of "image_a" and "image_b".
        looked_for: The names under which they were looked for, for the malformed row.
        more: What only a candidate has.
    """
    reasons = [f"{name}_{data}" for name, data in images.items() if isinstance(data, str)]
    return (
        Malformed(**known, reason=reasons[0], meta=meta_text(looked_for=looked_for))
        if reasons
        else Candidate(**known, **images, **more)
    )


def category_of(text: str, mapping: Mapping[str, str] = {}) -> str:
    """The category that a data set's word names; "" for one that is not known.

    "Color" -> "attribute", whatever its case; `mapping` counts first, as it is written.
    """
    word = text.strip().lower().replace(" ", "_").replace("-", "_")
    named = mapping.get(text) or (word if word in CATEGORIES else CATEGORY_WORDS.get(word, ""))
    return named if named in CATEGORIES else ""


def meta_text(**facts: object) -> str:
    """The facts that are not None as JSON text, long texts cut."""
    stated = {
        name: value if isinstance(value, int | dict) else str(value)[:200]
        for name, value in facts.items()
        if value is not None
    }
    return json.dumps(stated, ensure_ascii=True, sort_keys=True)
