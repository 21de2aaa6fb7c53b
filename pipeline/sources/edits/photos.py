"""The photographs of a manifest that edits are made from, and the folds that part them."""

import json
import math
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.recipe import Section
from pipeline.core.schema import sha256_hex
from pipeline.sources.edits.views import Thing, View
from pipeline.sources.io import SourceFolder

# Enough to hold 5 % out as whole folds; more would leave fewer photographs to combine within each.
MAX_FOLDS = 20
MIN_SUBJECTS_PER_FOLD = 3


class PhotoColumns(Section):
    """Which key of the manifest holds what; `null` where the manifest has no such key."""

    image: str = "image"
    label: str = "label"
    subject: str | None = "subject"
    boxes: str | None = "boxes"
    license: str | None = "license"


class NotMade(Exception):  # noqa: N818
    """A pair cannot be made from these photographs; its text is the fact in snake case."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph: its label, who or what else may show the same, and boxes of its things."""

    image: str
    label: str
    subject: str
    things: tuple[Thing, ...]
    license: str


def read_photos(
    rows: Iterable[Mapping[str, Any] | str], columns: PhotoColumns, default_license: str
) -> tuple[list[Photo], list[tuple[int, str]]]:
    """The usable photographs of a manifest's rows, and (row, reason) of each row that is none."""
    photos: dict[str, Photo] = {}
    faults: list[tuple[int, str]] = []
    for number, row in enumerate(rows):
        photo = row if isinstance(row, str) else _photo(row, columns, default_license)
        if isinstance(photo, Photo) and photo.image in photos:
            photo = "photo_named_twice"
        if isinstance(photo, str):
            faults.append((number, photo))
        else:
            photos[photo.image] = photo
    return list(photos.values()), faults


def _photo(row: Mapping[str, Any], columns: PhotoColumns, default_license: str) -> Photo | str:
    image, label = row.get(columns.image), row.get(columns.label)
    if not isinstance(image, str) or not image.strip():
        return "photo_image_missing_in_manifest"
    if not isinstance(label, str) or not _clean(label):
        return "photo_label_missing_in_manifest"
    things = _things(row.get(columns.boxes or "") or [])
    if things is None:
        return "photo_boxes_malformed"
    name = posixpath.normpath(image)
    subject = row.get(columns.subject or "")
    return Photo(
        name,
        _clean(label),
        name if subject is None else str(subject),
        things,
        str(row.get(columns.license or "") or default_license),
    )


def _clean(label: str) -> str:
    return " ".join(label.replace("_", " ").split())


def _things(boxes: object) -> tuple[Thing, ...] | None:
    if not isinstance(boxes, list):
        return None
    things = []
    for entry in boxes:
        known = entry if isinstance(entry, dict) else {}
        label, box = known.get("label"), known.get("box")
        if not isinstance(label, str) or not _clean(label):
            return None
        if not isinstance(box, list) or len(box) != 4:
            return None
        if not all(isinstance(edge, int | float) and abs(edge) < 1e6 for edge in box):
            return None
        x0, y0, x1, y1 = box
        if x0 > x1 or y0 > y1:
            return None
        # Outwards, so that a box of fractions still holds its thing; one without area holds none.
        if x0 < x1 and y0 < y1:
            edges = (*map(math.floor, box[:2]), *map(math.ceil, box[2:]))
            things.append(Thing(_clean(label), edges))
    return tuple(things)


def folds_of(photos: Sequence[Photo], num_folds: int | None) -> dict[str, int]:
    """The fold of each subject: dealt in hashed order, so that each fold gets many labels.

    Depends on labels and subjects alone, never on a seed: two sources that edit the same
    photographs agree on who is kept from whom. `num_folds` None stands for one fold per three
    subjects, at most 20.
    """
    # of a subject's labels the first counts
    label_of = {photo.subject: photo.label for photo in reversed(photos)}
    count = num_folds or max(1, min(MAX_FOLDS, len(label_of) // MIN_SUBJECTS_PER_FOLD))
    order = sorted(
        label_of,
        key=lambda subject: (
            sha256_hex(label_of[subject].encode()),
            sha256_hex(subject.encode()),
            subject,
        ),
    )
    return {subject: place % count for place, subject in enumerate(order)}


class Album:
    """Photographs in folds, read one by one.

    Args:
        alike: Groups of labels of which one may be said of another's things ("toy" of a stuffed
            animal).
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        root: SourceFolder,
        *,
        num_folds: int | None,
        alike: Iterable[Iterable[str]],
        max_image_bytes: int,
    ) -> None:
        self._root, self._max_image_bytes = root, max_image_bytes
        self._alike = [{_clean(label) for label in group} for group in alike]
        self._fold_of = folds_of(photos, num_folds)
        self.photos = tuple(photos)
        self.num_folds = max(self._fold_of.values(), default=0) + 1
        self.folds = tuple(
            tuple(p for p in photos if self._fold_of[p.subject] == fold)
            for fold in range(self.num_folds)
        )
        # What was tried and led nowhere, (reason, image, number of the thing): spares a second
        # look, changes no outcome.
        self.dead_ends: set[tuple[str, str, int]] = set()
        # Part of every group's name, so that folds of other photographs are other groups.
        subjects = json.dumps([sorted(self._fold_of), self.num_folds])
        self._name = sha256_hex(subjects.encode())[:8]

    def group_of(self, photo: Photo) -> str:
        """What must not be split: the fold that the photograph's subject is in."""
        return f"photos-{self._name}-fold-{self._fold_of[photo.subject]}-of-{self.num_folds}"

    def may_be(self, label: str, called: str) -> bool:
        """Whether a thing of one label may also be called by the other."""
        return label == called or any({label, called} <= labels for labels in self._alike)

    def number_of(self, photo: Photo, label: str) -> int:
        """How many things a photograph shows that may be called so.

        A photograph of it without such boxes shows one.
        """
        boxed = sum(self.may_be(thing.label, label) for thing in photo.things)
        return boxed or int(self.may_be(photo.label, label))

    def shows(self, photo: Photo, label: str) -> bool:
        """Whether a photograph shows anything that may be called so."""
        return self.number_of(photo, label) > 0

    def differ(self, photo: Photo, other: Photo) -> bool:
        """Whether neither photograph shows what the other is of."""
        return not self.shows(photo, other.label) and not self.shows(other, photo.label)

    def look(self, photo: Photo) -> View:
        """The photograph, upright, with its boxes; without any, with one around all of it.

        Raises:
            NotMade: It cannot be read ("photo_file_missing", "photo_truncated" ..), or a box is not
                in it.
        """
        data = self._root.read(photo.image, self._max_image_bytes)
        if isinstance(data, str):
            raise NotMade(f"photo_{data}")
        try:
            pixels = np.asarray(decode_rgb(data))
        except ImageError as error:
            raise NotMade(f"photo_{error.reason}") from error
        height, width = pixels.shape[:2]
        things = tuple(_inside(thing, width, height) for thing in photo.things)
        return View(pixels, things or (Thing(photo.label, (0, 0, width, height)),))


def _inside(thing: Thing, width: int, height: int) -> Thing:
    """A thing with its box cut to the picture: annotations leave it by rounding.

    Raises:
        NotMade: Less than half of the box is in the picture, so that it belongs to another one.
    """
    x0, y0, x1, y1 = thing.box
    box = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
    if 2 * area < (x1 - x0) * (y1 - y0):
        raise NotMade("photo_box_outside_image")
    return replace(thing, box=box)
