"""The `edits` source: contrasts made of labelled photographs, true by construction.

The manifest has one photograph per line: {"image", "label", and where known "subject", "license",
"boxes": [{"label", "box": [x0, y0, x1, y1]}]} with boxes in pixels of the upright picture, x1 and
y1 exclusive. What the pairs say is true if the manifest is: a label is a singular, countable noun
for the one thing that the photograph is of; boxes are complete for their labels; and no label of
one photograph fits an unlabelled thing in another.

Folds. A collage holds several photographs, and the build links only whole pictures: it could not
see that a photograph stands in a collage of train and in another of validation. So the subjects are
dealt into disjoint folds, every pair takes its photographs from one fold, and the fold is the
pair's group. The price: photographs of different folds are never combined, and validation is held
out by whole folds. More folds make a finer split of fewer combinations each.
"""

import json
import posixpath
from random import Random
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, model_validator

from pipeline.core.images import encode_png
from pipeline.core.recipe import RecipeError, Section, fingerprint
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.edits.operations import OPERATIONS, Choice, Edit
from pipeline.sources.edits.photos import Album, NotMade, PhotoColumns, read_photos
from pipeline.sources.io import JSON_LINES, MAX_IMAGE_BYTES, SourceFolder, read_rows
from pipeline.sources.source import Source

VERSION = 2


class EditMix(Section):
    """How often each operation runs: weights, not all 0. `inpaint` needs boxes."""

    swap: float = Field(default=1.0, ge=0)
    count: float = Field(default=1.0, ge=0)
    replace: float = Field(default=1.0, ge=0)
    recolour: float = Field(default=1.0, ge=0)
    flip: float = Field(default=1.0, ge=0)
    inpaint: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _has_weight(self) -> "EditMix":
        if not sum(self.model_dump().values()) > 0:
            raise ValueError("expected at least one operation with a weight above 0")
        return self


class EditsSection(Section):
    """Pairs made from the photographs of a manifest (JSON lines), on a disk or behind a URI.

    `root` is the folder that image paths are relative to and must stay inside (default: the
    manifest's own folder). `size_px` is the longer side of what is made; photographs are never
    enlarged except to fill a tile of a collage. `num_folds` null stands for one fold per three
    subjects, at most 20. `alike` lists labels of which one may be said of another's things, as
    "toy" of a stuffed animal: they are never set against each other. `license` applies to lines
    that state none.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path", "root")

    kind: Literal["edits"]
    path: str
    root: str | None = None
    name: str = "edits"
    columns: PhotoColumns = PhotoColumns()
    num_pairs: int = Field(default=1000, gt=0)
    seed: int = 0
    size_px: int = Field(default=384, ge=64, le=2048)
    operations: EditMix = EditMix()
    num_folds: int | None = Field(default=None, gt=0)
    alike: tuple[tuple[str, ...], ...] = ()
    license: str = ""
    max_image_bytes: int = Field(default=MAX_IMAGE_BYTES, gt=0)


class EditsSource(Source):
    """Random access: a pair depends on settings, manifest, photographs and its index alone.

    After the pairs comes one malformed row per line of the manifest that names no usable
    photograph.
    """

    def __init__(self, section: EditsSection) -> None:
        super().__init__(section)
        rows, self._sha256 = read_rows(section, ("image", "label"), JSON_LINES)
        photos, self._faults = read_photos(rows, section.columns, section.license)
        self._root = SourceFolder(section.root or posixpath.dirname(section.path) or ".")
        self._album = Album(
            photos,
            self._root,
            num_folds=section.num_folds,
            alike=section.alike,
            max_image_bytes=section.max_image_bytes,
        )
        self._weights = {
            name: weight for name, weight in section.operations.model_dump().items() if weight > 0
        }
        self._choices = {name: self._all_choices(name) for name in self._weights}

    def _all_choices(self, name: str) -> list[Choice]:
        choices = OPERATIONS[name].choices(self._album)
        if not choices:
            photos, folds = len(self._album.photos), self._album.num_folds
            fewer = f", or fewer folds than {folds} with num_folds=N" if folds > 1 else ""
            raise RecipeError(
                f"sources (edits): the operation {name!r} needs {OPERATIONS[name].needs}, and the"
                f" {photos} usable photographs of {self._section.path!r} offer none; add"
                f" some{fewer}, or leave the operation out with operations.{name}=0"
            )
        return choices

    def count(self) -> int:
        """Number of pairs that the section asks for, and of lines that name no photograph."""
        return self._section.num_pairs + len(self._faults)

    def _contents(self) -> dict[str, object]:
        """Version of the code, the manifest's bytes, size and time of photographs."""
        images = fingerprint([self._root.look(photo.image) for photo in self._album.photos])
        return {"version": VERSION, "manifest": self._sha256, "images": images}

    def row(self, index: int) -> Candidate | Malformed:
        """A pair, or a fault of the manifest."""
        section = self._section
        if index < section.num_pairs:
            return self._pair(index)
        line, reason = self._faults[index - section.num_pairs]
        return Malformed(
            source=section.name,
            source_id=f"line-{line}",
            reason=reason,
            license=section.license,
        )

    def _pair(self, index: int) -> Candidate | Malformed:
        section = self._section
        # The name keeps seed 1, pair 23 apart from seed 12, pair 3.
        rng = Random(f"edits:{section.seed}:{index}")
        name = rng.choices(list(self._weights), list(self._weights.values()))[0]
        operation, choice = OPERATIONS[name], rng.choice(self._choices[name])
        known: dict[str, Any] = {
            "source": section.name,
            "source_id": f"edit-{section.seed}-{index}",
            "operation": operation.name,
        }
        try:
            edit = operation.make(rng, self._album, choice, section.size_px)
        except NotMade as outcome:
            return Malformed(
                **known, category=operation.category, reason=str(outcome), license=section.license
            )
        return Candidate(
            **known,
            category=edit.category,
            group=self._album.group_of(edit.photos[0]),
            image_a=encode_png(Image.fromarray(edit.views[0].pixels)),
            image_b=encode_png(Image.fromarray(edit.views[1].pixels)),
            caption_a=edit.texts.caption_a,
            caption_b=edit.texts.caption_b,
            license=" AND ".join(sorted({photo.license for photo in edit.photos if photo.license})),
            question=edit.texts.question,
            meta=json.dumps(_meta(edit), sort_keys=True, ensure_ascii=False),
        )


def _meta(edit: Edit) -> dict[str, Any]:
    """As in the scenes source, but a colour is there only where it was measured."""
    objects = [
        [
            {"object": thing.label, "box": list(thing.box)}
            | ({"colour": thing.color} if thing.color else {})
            for thing in view.things
        ]
        for view in edit.views
    ]
    return {
        "truth": {side: {"objects": things} for side, things in zip("ab", objects, strict=True)},
        "contrast": {
            "category": edit.category,
            "subject": edit.subject,
            **dict(zip("ab", edit.values, strict=True)),
        },
        "photos": [photo.image for photo in edit.photos],
        "phrasing": edit.texts.phrasing,
    }
