"""The `pairs` source: a manifest (JSON lines or CSV) with two images and two captions per line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.recipe import RecipeError, Section
from pipeline.schema import CATEGORIES, Candidate, Malformed


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
    """A manifest of pairs.

    `root` is the folder that image paths are relative to and must stay inside (default: the manifest's own folder).
    `operation` and `license` apply to lines that do not state their own.
    """

    kind: Literal["pairs"]
    path: str
    root: str | None = None
    name: str = "pairs"
    columns: PairsColumns = PairsColumns()
    operation: str = "captured"
    license: str = ""
    max_image_bytes: int = Field(default=64 * 1024 * 1024, gt=0)


class PairsSource:
    """Reads a manifest once; images are read row by row."""

    def __init__(self, section: PairsSection) -> None:
        self._section = section
        path = Path(section.path)
        if not path.is_file():
            raise RecipeError(f"sources (pairs): expected a manifest at {section.path!r}, found none")
        self._root = Path(section.root).resolve() if section.root else path.resolve().parent
        self._rows = _read_rows(path)
        if not self._rows:
            raise RecipeError(f"sources (pairs): {section.path!r} has no rows")

    def count(self) -> int:
        """Number of rows in the manifest, good and bad."""
        return len(self._rows)

    def read(self, start: int, stop: int) -> Iterator[Candidate | Malformed]:
        """Rows [start, stop) in the manifest's order, each a candidate or the reason why it is none."""
        for index in range(start, min(stop, len(self._rows))):
            yield self._one(index)

    def _one(self, index: int) -> Candidate | Malformed:
        row, section = self._rows[index], self._section
        if isinstance(row, str):
            return Malformed(source=section.name, source_id=f"row-{index}", reason=row, license=section.license)
        columns = section.columns
        texts = {name: _text(row, getattr(columns, name)) for name in PairsColumns.model_fields}
        known: dict[str, Any] = {
            "source": section.name,
            "source_id": texts["id"] or f"row-{index}",
            "category": texts["category"] or "other",
            "operation": texts["operation"] or section.operation,
            "group": texts["group"] or "",
            "caption_a": texts["caption_a"] or "",
            "caption_b": texts["caption_b"] or "",
            "license": texts["license"] or section.license,
        }
        for name in ("image_a", "image_b", "caption_a", "caption_b"):
            if texts[name] is None:
                return Malformed(**{**known, "category": _category(known["category"])}, reason=f"{name}_missing_in_manifest")
        if known["category"] not in CATEGORIES:
            return Malformed(**{**known, "category": "other"}, reason="category_unknown")
        if known["group"] == "":
            # Without a stated group, pairs that were made from one original stay together.
            known["group"] = texts["image_a"] or ""
        image_a, image_b = self._image(texts["image_a"] or ""), self._image(texts["image_b"] or "")
        if isinstance(image_a, str) or isinstance(image_b, str):
            reason = f"image_a_{image_a}" if isinstance(image_a, str) else f"image_b_{image_b!s}"
            return Malformed(**known, reason=reason)
        more: dict[str, Any] = {"question": texts["question"], "meta": texts["meta"] or "{}"}
        return Candidate(image_a=image_a, image_b=image_b, **known, **more)

    def _image(self, name: str) -> bytes | str:
        """The file's bytes, or the reason why there are none. Links are followed before the root is checked."""
        try:
            path = (self._root / name).resolve()
            if not path.is_relative_to(self._root):
                return "outside_root"
            if not path.is_file():
                return "file_missing"
            if path.stat().st_size > self._section.max_image_bytes:
                return "file_too_large"
            return path.read_bytes()
        except (OSError, ValueError):  # unreadable, a loop of links, or a name with a zero byte
            return "file_unreadable"


def _category(value: str) -> str:
    return value if value in CATEGORIES else "other"


def _text(row: dict[str, object], key: str | None) -> str | None:
    """The value under `key` as text; objects (meta) become JSON; null and absent are None."""
    value = row.get(key) if key is not None else None
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _read_rows(path: Path) -> list[dict[str, object] | str]:
    """One entry per line: its object, or the reason why it is none. Blank lines are no rows."""
    if path.suffix.lower() in (".csv", ".tsv"):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            return [{key: value for key, value in row.items() if key is not None} for row in reader]
    rows: list[dict[str, object] | str] = []
    for line in path.read_bytes().splitlines():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:  # bad JSON, or bytes that are no UTF-8
            rows.append("line_not_json")
            continue
        rows.append(value if isinstance(value, dict) else "line_not_an_object")
    return rows
