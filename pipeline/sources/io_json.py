"""What adapters of native JSON files share.

A fault of a whole file ends the job, a fault of one record costs its row.
"""

import json
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar

from pipeline.core.recipe import RecipeError, fingerprint
from pipeline.core.schema import sha256_hex
from pipeline.sources.io import SourceFolder, read_whole
from pipeline.sources.source import Source

# Where a picture may lie; the first that is there counts.
Places = Sequence[tuple[SourceFolder, str]]


def read_json(path: str, what: str) -> tuple[Any, str]:
    """The content of a JSON file, and the sha256 of its bytes.

    NaN and infinities, which are no JSON, become null.

    Raises:
        RecipeError: No such file, or no JSON in it; `what` names the recipe's key.
    """
    data = read_whole(path, what)
    try:
        return json.loads(data, parse_constant=lambda _: None), sha256_hex(data)
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{what}: expected JSON in {path!r}, got something else ({error}); fetch the file again"
        ) from error


def text_fault(record: object, *keys: str) -> str:
    """Why a record's texts under `keys` cannot be used, or "".

    "record_not_an_object", "record_without_pos", "record_pos_not_text", "record_pos_not_unicode"
    """
    if not isinstance(record, dict):
        return "record_not_an_object"
    for key in keys:
        text = record.get(key)
        if text is None:
            return f"record_without_{key}"
        if not isinstance(text, str):
            return f"record_{key}_not_text"
        if text != storable(text):
            return f"record_{key}_not_unicode"
    return ""


def require_key(path: str, records: Collection[tuple[str, object]], key: str) -> None:
    """Checks that some record of a file, given as (name, record), has `key`.

    One may be bad, not all.

    Raises:
        RecipeError: There are no records, or none of them has the key; the message names file,
            record and key.
    """
    if not records:
        raise RecipeError(f"{path!r}: expected records with {key!r}, found none")
    if any(isinstance(record, dict) and record.get(key) is not None for _, record in records):
        return
    name, record = next(iter(records))
    has = (
        f"has the keys {', '.join(map(str, record))}"
        if isinstance(record, dict)
        else f"is a {type(record).__name__}"
    )
    raise RecipeError(
        f"{path!r}: expected records with {key!r}, no record has it; the first, {storable(name)},"
        f" {has}"
    )


def storable(text: str) -> str:
    """The text with "?" for halves of surrogate pairs, which JSON can spell and no file holds."""
    return text.encode("utf-8", "replace").decode("utf-8")


def text_of(value: object) -> str:
    """A text as it can be stored; "" for what is none."""
    return storable(value) if isinstance(value, str) else ""


def chosen(record: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The entries of a native record that are worth keeping, as far as it has them."""
    return {key: record[key] for key in keys if record.get(key) is not None}


def read_sides(sides: tuple[Places, Places]) -> dict[str, bytes | str]:
    """The bytes of each side's first picture that is there, or the reason why there are none."""
    contents = [(root.read(name) for root, name in places) for places in sides]
    return {
        f"image_{side}": next((data for data in files if data != "file_missing"), "file_missing")
        for side, files in zip("ab", contents, strict=True)
    }


def _look_first(places: Places) -> list[list[object]]:
    seen = []
    for root, name in places:
        seen.append(root.look(name))
        if len(seen[-1]) > 1:
            break
    return seen


class NativeSource(Source):
    """What sources of native JSON files share; each fills `_rows` and `_sha256` (by file)."""

    VERSION: ClassVar[int]

    def __init__(self, section: Any) -> None:
        super().__init__(section)
        self._rows: list[Any] = []
        self._sha256: dict[str, str] = {}

    def _contents(self) -> dict[str, object]:
        """The bytes of the JSON files, and size and time of change of each image."""
        sides = dict.fromkeys(tuple(places) for row in self._rows for places in self._places(row))
        # changes when a picture changes, or which file is the first there
        images = fingerprint([_look_first(side) for side in sides])
        return {"version": self.VERSION, "files": self._sha256, "images": images}

    @abstractmethod
    def _places(self, row: Any) -> tuple[Places, Places]:
        """Where the images of the two sides may lie; nowhere if the record does not say."""
