"""The `pairs` source: a manifest (JSON lines or CSV) with two images and two captions per line."""

import json
import math
import posixpath
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.recipe import Section, fingerprint
from pipeline.core.schema import Candidate, Category, Malformed
from pipeline.sources.delimited import Quoting
from pipeline.sources.io import JSON_LINES, MAX_IMAGE_BYTES, SourceFolder, read_rows
from pipeline.sources.source import Source, category_of, meta_text, with_images

REQUIRED = ("image_a", "image_b", "caption_a", "caption_b")
MISSING = ("nan", "null", "none", "<na>", "#n/a")


class PairsColumns(Section):
    """Which key of the manifest holds what; `null` where the manifest has no such key."""

    id: str | None = "id"
    image_a: str = "image_a"
    image_b: str = "image_b"
    caption_a: str = "caption_a"
    caption_b: str = "caption_b"
    category: str | None = "category"
    group: str | None = "group"
    question: str | None = "question"
    operation: str | None = "operation"
    license: str | None = "license"
    meta: str | None = "meta"


class PairsSection(Section):
    """A manifest of pairs, on a disk or behind a URI.

    `root` is the folder that image paths are relative to and must stay inside (default: the
    manifest's own folder). `operation` and `license` apply to lines that do not state their own.
    `quoting` says how a CSV or TSV keeps commas, tabs, quotes and line breaks in a field: "double"
    (in quotes, quotes twice), "backslash" (behind one), "none" (a quote is a letter); "auto" finds
    out, and refuses a file that can be read in two ways. `category_map` translates categories that
    are neither ours nor a usual word for one ("color", "Counting").
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path", "root")

    kind: Literal["pairs"]
    path: str
    root: str | None = None
    name: str = "pairs"
    columns: PairsColumns = PairsColumns()
    operation: str = "captured"
    license: str = ""
    max_image_bytes: int = Field(default=MAX_IMAGE_BYTES, gt=0)
    quoting: Quoting = "auto"
    category_map: dict[str, Category] = Field(default_factory=dict)


class PairsSource(Source):
    """Reads a manifest once; images are read row by row."""

    def __init__(self, section: PairsSection) -> None:
        super().__init__(section)
        self._root = SourceFolder(section.root or posixpath.dirname(section.path) or ".")
        self._rows, self._sha256 = read_rows(section, REQUIRED, (*JSON_LINES, ".csv", ".tsv"))

    def _contents(self) -> dict[str, object]:
        """The manifest's bytes, and size and time of change of each image that it names."""
        columns = (self._section.columns.image_a, self._section.columns.image_b)
        names = sorted(
            {
                str(row[column])
                for row in self._rows
                if isinstance(row, dict)
                for column in columns
                if column in row
            }
        )
        images = fingerprint([self._root.look(name) for name in names])
        return {"manifest": self._sha256, "images": images}

    def row(self, index: int) -> Candidate | Malformed:
        """A candidate, or why the line is none."""
        row, section = self._rows[index], self._section
        if isinstance(row, str):
            return Malformed(
                source=section.name, source_id=f"row-{index}", reason=row, license=section.license
            )
        values = {
            name: _plain(row.get(getattr(section.columns, name) or ""))
            for name in PairsColumns.model_fields
        }
        texts = {name: str(value) for name, value in values.items() if value is not None}
        known: dict[str, Any] = {
            "source": section.name,
            "source_id": texts.get("id") or f"row-{index}",
            "category": category_of(texts.get("category") or "other", section.category_map),
            "operation": texts.get("operation") or section.operation,
            # Without a stated group, pairs that were made from one original stay together.
            "group": texts.get("group") or texts.get("image_a", ""),
            "caption_a": texts.get("caption_a", ""),
            "caption_b": texts.get("caption_b", ""),
            "license": texts.get("license") or section.license,
        }
        name, reason = _fault(values, known["category"])
        if reason:
            return Malformed(
                **{**known, "category": known["category"] or "other"},
                reason=reason,
                meta=meta_text(**{name: values[name]}),
            )
        names = {name: texts[name] for name in ("image_a", "image_b")}
        images = {
            name: self._root.read(file, section.max_image_bytes) for name, file in names.items()
        }
        meta = _json(values["meta"]) or "{}"
        return with_images(known, images, names, question=texts.get("question"), meta=meta)


def _plain(value: object) -> object:
    """A missing value is None, also where a data frame or a database wrote a word for it."""
    if isinstance(value, str):
        return None if value.strip().lower() in MISSING else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fault(values: dict[str, object], category: str) -> tuple[str, str]:
    """Which value of a row keeps it from being a candidate, and why; "" and "" if none does."""
    for name in REQUIRED:
        if values[name] is None:
            return name, f"{name}_missing_in_manifest"
    for name in (*REQUIRED, "category", "question", "operation", "license"):
        if not isinstance(values[name], str | None):
            return name, f"{name}_not_text"
    for name in ("id", "group"):
        if not isinstance(values[name], str | int | float | None):
            return name, f"{name}_not_text"
    if not category:
        return "category", "category_unknown"
    return ("", "") if _json(values["meta"]) is not None else ("meta", "meta_not_json")


def _json(meta: object) -> str | None:
    """A row's meta, an object or a text in JSON, as JSON text; None if it is neither."""
    try:
        value = json.loads(meta or "{}") if isinstance(meta, str) else meta
        return json.dumps(
            value if value is not None else {}, sort_keys=True, ensure_ascii=False, allow_nan=False
        )
    except (ValueError, RecursionError):
        return None
