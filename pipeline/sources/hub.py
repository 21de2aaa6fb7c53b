"""The `hub` source: any Hugging Face data set, on the Hub or on a disk, whose columns a map names.

It knows `datasets` and no single data set.
"""

import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

from pipeline.core.recipe import RecipeError, fingerprint
from pipeline.core.schema import Candidate, Malformed, sha256_hex
from pipeline.sources.hub_config import HubColumns, HubSection
from pipeline.sources.io import SourceFolder
from pipeline.sources.io_json import text_of
from pipeline.sources.source import Source, category_of, meta_text, with_images

SIDES = ("image_a", "image_b", "caption_a", "caption_b")
SHORT_TEXTS = ("id", "category", "group", "question", "operation", "license", "original")
# A single data file, by its ending: the name of the reader in `datasets`.
READERS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


class HubSource(Source):
    """Random access to a data set in the Arrow cache of `datasets`, which is mapped, not read."""

    def __init__(self, section: HubSection) -> None:
        super().__init__(section)
        path = Path(section.path).expanduser()
        self._folder = (path if path.is_dir() else path.parent) if section.is_local else None
        self._builder, data = _open(section, path)
        _check_columns(section, data.column_names)
        self._data, self._labels = _untouched(data, section.columns)
        self._images = _Images(section, self._folder)
        self._rows = self._join() if section.columns.original else range(len(self._data))
        if not self._rows:
            raise RecipeError(
                f"sources (hub): {section.path!r}, split {section.split!r}, has no pairs"
            )

    def _contents(self) -> dict[str, object]:
        """The commit on the Hub, or size and time of local files."""
        if self._folder is None:
            return {"commit": self._builder.hash}
        root, columns = SourceFolder(str(self._folder)), self._section.columns
        names = {
            os.path.relpath(str(file), self._folder)
            for files in (self._builder.config.data_files or {}).values()
            for file in files
        }
        for column in {columns.image_a, columns.image_b}:
            if getattr(self._data.features[column], "dtype", "") in ("string", "large_string"):
                texts = self._data.select_columns([column])[:][column]
                names |= {self._images.file_name(text) for text in texts if text}
        return {"files": fingerprint([root.look(name) for name in sorted(names)])}

    def _join(self) -> list[tuple[int | None, int]]:
        """(row of side a or None, row of side b) for each row that names an original."""
        columns = self._section.columns
        ids, originals = (
            self._data.select_columns([name])[:][name] for name in (columns.id, columns.original)
        )
        # Of equal ids the first counts, whatever follows.
        rows = {_text(key): row for row, key in reversed(list(enumerate(ids)))}
        return [
            (rows.get(_text(original)), row)
            for row, original in enumerate(originals)
            if _text(original)
        ]

    def row(self, index: int) -> Candidate | Malformed:
        """A candidate, or why the pair is none."""
        section, columns = self._section, self._section.columns
        original, row = self._rows[index] if columns.original else (index, index)
        record_b = self._data[row]
        record_a = (
            record_b if original == row else self._data[original] if original is not None else {}
        )
        values = {name: record_a.get(getattr(columns, name)) for name in ("image_a", "caption_a")}
        values |= {name: record_b.get(getattr(columns, name)) for name in ("image_b", "caption_b")}
        texts = {name: self._label(record_b, getattr(columns, name)) for name in SHORT_TEXTS}
        known: dict[str, Any] = {
            "source": section.name,
            "source_id": texts["id"] or f"row-{row}",
            "category": (
                section.category
                if not texts["category"]
                else category_of(texts["category"], section.category_map)
            ),
            "operation": texts["operation"] or section.operation,
            "group": texts["group"] or texts["original"],
            "caption_a": text_of(values["caption_a"]),
            "caption_b": text_of(values["caption_b"]),
            "license": texts["license"] or section.license,
        }
        if not known["category"]:
            return Malformed(
                **{**known, "category": "other"},
                reason="category_unknown",
                meta=meta_text(category=texts["category"]),
            )
        if original is None:
            return Malformed(**known, reason="original_missing")
        for name in ("caption_a", "caption_b"):
            if not isinstance(values[name], str):
                return Malformed(
                    **known,
                    reason=f"{name}_missing" if values[name] is None else f"{name}_not_text",
                )
        images = {name: self._images.read(values[name]) for name in ("image_a", "image_b")}
        if isinstance(images["image_a"], bytes) and isinstance(images["image_b"], bytes):
            # Pairs that were made from one original stay together.
            known["group"] = known["group"] or sha256_hex(images["image_a"])
        meta = json.dumps(
            {name: value for name in columns.meta if _is_plain(value := record_b.get(name))},
            ensure_ascii=False,
        )
        return with_images(known, images, question=texts["question"] or None, meta=meta)

    def _label(self, record: dict[str, Any], column: str | None) -> str:
        """A short text in a column; a class label is a number there and a word here."""
        value, labels = record.get(column or ""), self._labels.get(column or "")
        if labels is None:
            return _text(value)
        return labels[value] if isinstance(value, int) and 0 <= value < len(labels) else ""


class _Images:
    """An image column's value -> the encoded bytes, as they are, or why there are none."""

    def __init__(self, section: HubSection, folder: Path | None) -> None:
        import datasets
        from huggingface_hub import constants

        self._image_name, self._max_bytes = section.image_name, section.max_image_bytes
        self._root = SourceFolder(str(folder)) if folder is not None else None
        # What `datasets` downloaded or unpacked lies in its caches.
        self._library_roots = [
            *([self._root] if self._root else []),
            SourceFolder(str(datasets.config.HF_DATASETS_CACHE)),
            SourceFolder(str(constants.HF_HUB_CACHE)),
        ]
        self._archives: dict[str, zipfile.ZipFile] = {}

    def file_name(self, text: str) -> str:
        """The path below the folder that a column's text stands for."""
        return self._image_name.replace("{}", text)

    def read(self, value: object) -> bytes | str:
        """The bytes of an image column's value, or the reason why there are none.

        A value is bytes, {"bytes", "path"} or a text; a reason "missing", "outside_root" ..
        """
        if isinstance(value, dict):
            value = value.get("bytes") or self._read_library(value.get("path"))
        elif isinstance(value, str):
            if self._root is None:
                return "path_without_folder"
            value = self._root.read(self.file_name(value), self._max_bytes)
        if isinstance(value, bytes):
            return value if len(value) <= self._max_bytes else "file_too_large"
        if isinstance(value, str):
            return value
        return "missing" if value is None else "not_an_image_column"

    def _read_library(self, path: object) -> bytes | str | None:
        """The file, perhaps in an archive, that `datasets` names for an image it did not read."""
        if not isinstance(path, str) or not path:
            return None
        if path.startswith("zip://"):
            inner, _, archive = path.removeprefix("zip://").partition("::")
            is_inside = any(root.exists(archive) for root in self._library_roots)
            return self._read_zipped(inner, archive) if is_inside else "outside_root"
        contents = (root.read(path, self._max_bytes) for root in self._library_roots)
        return next((data for data in contents if data != "outside_root"), "outside_root")

    def _read_zipped(self, inner: str, archive: str) -> bytes | str:
        try:
            if archive not in self._archives:
                self._archives[archive] = zipfile.ZipFile(archive)
            opened = self._archives[archive]
            num_bytes = opened.getinfo(inner).file_size
            return opened.read(inner) if num_bytes <= self._max_bytes else "file_too_large"
        except KeyError:
            return "file_missing"
        # the last two: a cipher, an unknown method
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
            return "file_unreadable"


def _open(section: HubSection, path: Path) -> tuple[Any, Any]:
    """The builder and the split.

    Raises:
        RecipeError: Nothing there, no access, no network, a script, a split or configuration of
            another name, ..
    """
    import datasets

    remedy = (
        "give a Hub id (ORG/NAME), or a local folder or file as an absolute path or with ./"
        " before it"
    )
    if section.is_local and not path.exists():
        raise RecipeError(f"sources (hub): {section.path!r} is not there; {remedy}")
    if path.is_file() and path.suffix.lower() not in READERS:
        raise RecipeError(
            f"sources (hub): expected a file that ends in {', '.join(READERS)}, got {path.name!r}"
        )
    try:
        is_file = section.is_local and path.is_file()
        local = READERS[path.suffix.lower()] if is_file else str(path)
        builder = datasets.load_dataset_builder(
            local if section.is_local else section.path,
            section.config,
            data_files=str(path) if is_file else None,
            revision=None if section.is_local else section.revision,
        )
        builder.download_and_prepare()
        return builder, builder.as_dataset(split=section.split)
    except Exception as error:  # ten kinds by now, from network to Arrow, and no common ancestor
        is_wrapped = isinstance(error, datasets.exceptions.DatasetGenerationError)
        cause = (error.__cause__ if is_wrapped else None) or error
        fact = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        hint = "" if section.is_local else f"; {remedy}; a gated one needs `hf auth login`"
        raise RecipeError(
            f"sources (hub): {section.path!r}, split {section.split!r}, cannot be read"
            f" ({fact}){hint}"
        ) from error


def _check_columns(section: HubSection, have: list[str]) -> None:
    for name, column in section.columns.mapped():
        # A column with our own name may be absent, unless a pair is nothing without it.
        if column not in have and (name in SIDES or column != name):
            raise RecipeError(
                f"sources (hub): {section.path!r} has no column {column!r} (for {name}); it has"
                f" {', '.join(have)}; map it with columns.{name}=NAME"
            )
    if section.columns.original and section.columns.id not in have:
        raise RecipeError(
            f"sources (hub): columns.original names rows by their id, but {section.path!r} has no"
            f" column {section.columns.id!r}"
        )


def _untouched(data: Any, columns: HubColumns) -> tuple[Any, dict[str, list[str]]]:
    """The mapped columns with images as stored bytes, and the words of class labels."""
    import datasets

    data = data.select_columns(
        sorted({column for _, column in columns.mapped() if column in data.column_names})
    )
    for name, kind in data.features.items():
        if isinstance(kind, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    return data, {
        name: kind.names
        for name, kind in data.features.items()
        if isinstance(kind, datasets.ClassLabel)
    }


def _text(value: object) -> str:
    """A text or a number as text; "" for what is missing or neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    # a data frame turns numbers into floats where some are missing
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) else ""


def _is_plain(value: object) -> bool:
    """Whether a value can stand in `meta`: texts, numbers, and lists and maps of them."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return value is not None
