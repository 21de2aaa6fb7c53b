"""The `finecops_ref` source: FineCops-Ref's edited GQA images with their positives."""

import json
import posixpath
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.recipe import RecipeError, Section
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources import io_json
from pipeline.sources.io import SourceFolder
from pipeline.sources.source import with_images

_META = (
    "negative_type",
    "negative_level",
    "level",
    "tuple_type",
    "tuple",
    "spatial",
    "attribute",
    "objects_id",
    "bbox",
)
_SUFFIXES = (".jpg", ".jpeg", ".png")


class FinecopsRefSection(Section):
    """The folder into which GQA's images and FineCops-Ref were unpacked.

    `annotations` are files inside `path`, native or COCO-style, of positives and negatives together
    or apart (default: the JSON files there, those with "test" in their names if there are such, and
    of these those with "coco"). `images` and `neg_images` are folders (default: of those names
    inside `path`). Only the test split has negative images: what is trained on them must not be
    evaluated on FineCops-Ref.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path", "images", "neg_images")

    kind: Literal["finecops_ref"]
    path: str
    images: str | None = None
    neg_images: str | None = None
    annotations: tuple[str, ...] | None = Field(default=None, min_length=1)
    name: str = "finecops_ref"
    license: str = ""
    exclude_types: tuple[str, ...] = ()


class FinecopsRefSource(io_json.NativeSource):
    """Reads the annotations once; images are read row by row.

    Each negative with `negative_cate` "image" is a row. One with "text" is a wrong expression for
    the original image, no pair of images, and no row; nor is a positive without a negative image.
    `_rows` holds (source_id, record) of each negative.
    """

    VERSION = 1

    def __init__(self, section: FinecopsRefSection) -> None:
        super().__init__(section)
        self._images = SourceFolder(section.images or posixpath.join(section.path, "images"))
        self._neg_images = SourceFolder(
            section.neg_images or posixpath.join(section.path, "neg_images")
        )
        self._positives: dict[str, Any] = {}
        self._ambiguous: set[str] = set()
        self._files = section.annotations or _annotation_files(section.path)
        for file in self._files:
            self._sort(file)
        self._check_negatives()

    def _sort(self, file: str) -> None:
        """Takes the positives and the image negatives out of one file."""
        folder = self._section.path
        if not SourceFolder(folder).exists(file):
            present = ", ".join(SourceFolder(folder).names(".json")) or "none"
            raise RecipeError(
                f"sources (finecops_ref): expected annotations {file!r} in {folder!r}, found none;"
                f" JSON files there: {present}; name those of the test split with annotations=[..]"
            )
        path = posixpath.join(folder, file)
        value, self._sha256[file] = io_json.read_json(path, "sources (finecops_ref)")
        records = native_records(path, value)
        named = [
            (io_json.storable(f"{posixpath.splitext(file)[0]}/{_id(record, number)}"), record)
            for number, record in enumerate(records)
        ]
        for key in ("id", "image_id", "expression"):
            io_json.require_key(path, named, key)
        for source_id, record in named:
            is_object = isinstance(record, dict)
            if is_object and not io_json.chosen(record, ("negative_type", "negative_cate")):
                key = str(record.get("id"))
                if self._positives.setdefault(key, record) != record:
                    self._ambiguous.add(key)
            elif not is_object or record.get("negative_cate") != "text":
                self._rows.append((source_id, record))

    def _check_negatives(self) -> None:
        files = ", ".join(self._files)
        if not self._rows:
            raise RecipeError(
                f"sources (finecops_ref): expected records with negative_cate 'image' in {files} of"
                f" {self._section.path!r}, found none; only the test split has them: name its files"
                " with annotations=[..]"
            )
        for key in ("negative_cate", "negative_type", "positive_id"):
            io_json.require_key(f"{self._section.path}: {files}", self._rows, key)

    def row(self, index: int) -> Candidate | Malformed:
        """A candidate, or why the negative is none."""
        source_id, given = self._rows[index]
        record = given if isinstance(given, dict) else {}
        positive = self._positives.get(str(record.get("positive_id")), {})
        known: dict[str, Any] = {
            "source": self._section.name,
            "source_id": source_id,
            "category": category(record, positive),
            "operation": "inpaint",
            "group": (
                io_json.storable(
                    f"gqa/{posixpath.splitext(posixpath.basename(str(positive.get('image_id'))))[0]}"
                )
                if positive
                else ""
            ),
            "caption_a": io_json.text_of(positive.get("expression")),
            "caption_b": io_json.text_of(record.get("expression")),
            "license": self._section.license,
        }
        fault = self._fault(given, positive)
        if fault:
            return Malformed(**known, reason=fault)
        images = io_json.read_sides(self._places(self._rows[index]))
        meta = {
            "id": record.get("id"),
            "positive_id": record["positive_id"],
            **io_json.chosen(record, _META),
        }
        return with_images(known, images, meta=json.dumps(meta, sort_keys=True))

    def _fault(self, record: Any, positive: dict[str, Any]) -> str:
        """Why a negative is no candidate, as far as can be told without its images, or ""."""
        fault = io_json.text_fault(record, "negative_cate", "expression")
        if fault:
            return fault
        kind, positive_id = record.get("negative_type"), record.get("positive_id")
        positive_fault = io_json.text_fault(positive, "expression")
        faults = {
            "negative_cate_unknown": record["negative_cate"] != "image",
            f"negative_type_{kind}_excluded": kind in self._section.exclude_types,
            "record_without_positive_id": positive_id in (None, ""),
            "record_without_image_id": record.get("image_id") in (None, ""),
            "positive_missing": not positive,
            "positive_ambiguous": str(positive_id) in self._ambiguous,
            "positive_record_without_image_id": positive.get("image_id") in (None, ""),
            f"positive_{positive_fault}": positive_fault != "",
        }
        return next((fault for fault, is_there in faults.items() if is_there), "")

    def _places(self, row: Any) -> tuple[io_json.Places, io_json.Places]:
        _, record = row
        if not isinstance(record, dict):
            return [], []
        positive = self._positives.get(str(record.get("positive_id")), {})
        return _places(self._images, positive.get("image_id")), _places(
            self._neg_images, record.get("image_id")
        )


def _annotation_files(folder: str) -> tuple[str, ...]:
    """The annotation files to read where the recipe names none.

    The same negatives come in two forms, and ids of several splits collide: so only one split and
    one form is read.

    Raises:
        RecipeError: There is none.
    """
    names = SourceFolder(folder).names(".json")
    for word in ("test", "coco"):
        names = [name for name in names if word in name] or names
    if not names:
        raise RecipeError(
            f"sources (finecops_ref): expected annotation files (*.json) in {folder!r}, found none;"
            " unpack them there"
        )
    return tuple(names)


def native_records(path: str, value: Any) -> list[Any]:
    """The records of an annotation file by the names of the native form, whichever form it has.

    A COCO-style file has `images` and `annotations`, one annotation per image; `positive_id` is the
    positive's image id there, so that is the record's `id`, and the image's file name is the
    `image_id`.

    Raises:
        RecipeError: Neither form.
    """
    if isinstance(value, list):
        return value
    images, annotations = (
        (value.get("images"), value.get("annotations")) if isinstance(value, dict) else (None, None)
    )
    if not isinstance(images, list) or not isinstance(annotations, list):
        has = (
            f"an object with the keys {', '.join(map(str, value))}"
            if isinstance(value, dict)
            else f"a {type(value).__name__}"
        )
        raise RecipeError(
            f"{path!r}: expected a list of records or an object with the lists 'images' and"
            f" 'annotations', got {has}"
        )
    entries = {str(image.get("id")): image for image in images if isinstance(image, dict)}
    return [_from_coco(annotation, entries) for annotation in annotations]


def _from_coco(annotation: Any, entries: dict[str, Any]) -> Any:
    if not isinstance(annotation, dict):
        return annotation
    image = entries.get(str(annotation.get("image_id")), {})
    return {
        **annotation,
        "id": annotation.get("image_id"),
        "image_id": image.get("file_name"),
        "expression": image.get("caption"),
    }


def category(record: dict[str, Any], positive: dict[str, Any]) -> str:
    """What a negative changes, by its `negative_type`.

    "attribute"  ->  "attribute"
    "relation"   ->  "position", as the paper counts this source's relations;
                     "relation" where `spatial` says false
    "order"      ->  "other"
    """
    kind = str(record.get("negative_type")).lower()
    if "relation" in kind:
        return "relation" if record.get("spatial", positive.get("spatial")) is False else "position"
    return next((name for name in ("attribute", "object") if name in kind), "other")


def _places(root: SourceFolder, image_id: object) -> io_json.Places:
    if image_id in (None, ""):
        return []
    name = str(image_id)
    names = [name] if name.lower().endswith(_SUFFIXES) else [f"{name}.jpg", f"{name}.png"]
    # A file name may be relative to one folder that holds both kinds of images.
    return [(root, each) for each in dict.fromkeys([*names, *map(posixpath.basename, names)])]


def _id(record: Any, number: int) -> object:
    given = record.get("id") if isinstance(record, dict) else None
    return f"row-{number}" if given is None else given
