"""The `mvc_json` source: the JSON list that the authors of S-VCO train on, one record per pair."""

import json
import posixpath
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.recipe import RecipeError, Section, fingerprint
from pipeline.core.schema import Candidate, Category, Malformed
from pipeline.sources.io import MAX_IMAGE_BYTES, SourceFolder, is_unicode
from pipeline.sources.io_json import read_json, text_fault, text_of
from pipeline.sources.source import Source, category_of, meta_text, with_images

IMAGES = {"a": "chosen_images", "b": "rejected_images"}
RESPONSES = {"a": "chosen_response", "b": "rejected_response"}
QUESTION, SYSTEM = "instruction_prompt", "system_prompt"
# The official file says nothing of these; `svco export` writes them, so that a round trip keeps
# them.
STATED = ("category", "operation", "group", "license")


class MvcJsonSection(Section):
    """The official file, or one that `svco export --to mvc_json` wrote.

    `root` is the folder that image paths are relative to and must stay inside; by default the
    folder above the file's where that one is called `data` (as in the official repository), else
    the file's own. `category`, `operation` and `license` apply to records that do not state their
    own; most rejected images of the official file are generated.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path", "root")

    kind: Literal["mvc_json"]
    path: str
    root: str | None = None
    name: str = "mvc_json"
    category: Category = "other"
    operation: str = "generate"
    license: str = ""
    max_image_bytes: int = Field(default=MAX_IMAGE_BYTES, gt=0)


def default_root(path: str) -> str:
    """The folder that image paths in the JSON file `path` are relative to, unless told otherwise.

    repo/data/mvc.json  ->  repo        export/mvc.json  ->  export
    """
    folder = posixpath.dirname(path)
    return (posixpath.dirname(folder) if posixpath.basename(folder) == "data" else folder) or "."


class MvcJsonSource(Source):
    """Reads the list once; images are read record by record."""

    def __init__(self, section: MvcJsonSection) -> None:
        super().__init__(section)
        self._root = SourceFolder(section.root or default_root(section.path))
        self._rows, self._sha256 = read_json(section.path, "sources (mvc_json)")
        if not isinstance(self._rows, list) or not self._rows:
            content = "an empty list" if self._rows == [] else type(self._rows).__name__
            raise RecipeError(
                f"sources (mvc_json): {section.path!r} holds {content}; expected a JSON list of"
                f" records with {IMAGES['a']!r}"
            )

    def _contents(self) -> dict[str, object]:
        """The list's bytes, and size and time of each image that it names."""
        paths = {
            _path(record, key)[0]
            for record in self._rows
            if isinstance(record, dict)
            for key in IMAGES.values()
        }
        looks = [self._root.look(path) for path in sorted(paths) if path]
        return {"list": self._sha256, "images": fingerprint(looks)}

    def row(self, index: int) -> Candidate | Malformed:
        """A candidate, or why the record is none."""
        record, section = self._rows[index], self._section
        known: dict[str, Any] = {
            "source": section.name,
            "source_id": f"row-{index}",
            "category": section.category,
            "operation": section.operation,
            "license": section.license,
        }
        if not isinstance(record, dict):
            return Malformed(**known, reason="record_not_an_object")
        if not is_unicode(record):
            return Malformed(**known, reason="record_not_unicode")
        # Pairs that were made from one original stay together.
        known["group"] = _path(record, IMAGES["a"])[0]
        known |= {
            key: record[key] for key in STATED if isinstance(record.get(key), str) and record[key]
        }
        known |= {f"caption_{side}": text_of(record.get(key)) for side, key in RESPONSES.items()}
        stated, known["category"] = known["category"], category_of(known["category"])
        if not known["category"]:
            return Malformed(
                **{**known, "category": "other"},
                reason="category_unknown",
                meta=meta_text(category=stated),
            )
        if reason := _fault(record):
            return Malformed(**known, reason=reason)
        names = {f"image_{side}": _path(record, key)[0] for side, key in IMAGES.items()}
        images = {
            side: self._root.read(name, section.max_image_bytes) for side, name in names.items()
        }
        meta = json.dumps({SYSTEM: text_of(record.get(SYSTEM))}, ensure_ascii=False)
        return with_images(known, images, names, question=record.get(QUESTION), meta=meta)


def _path(record: dict[str, object], key: str) -> tuple[str, str]:
    """The one path in an image list and "", or "" and why there is none."""
    paths = record.get(key)
    if paths is None:
        return "", f"record_without_{key}"
    if not isinstance(paths, list) or len(paths) != 1:
        return "", f"record_{key}_not_one_image"
    is_path = isinstance(paths[0], str) and paths[0]
    return (paths[0], "") if is_path else ("", f"record_{key}_not_a_path")


def _fault(record: dict[str, object]) -> str:
    """Which key of a record is missing or of another kind, or ""."""
    for key in IMAGES.values():
        if reason := _path(record, key)[1]:
            return reason
    question_fault = text_fault(record, QUESTION) if record.get(QUESTION) is not None else ""
    return text_fault(record, *RESPONSES.values()) or question_fault
