"""The `countercurate` source: Flickr30k-Counterfactuals as its authors lay it out.

Left-right flips are made here.
"""

import io
import json
import posixpath
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

from PIL import Image, ImageOps
from pydantic import Field

from pipeline.core.images import FORMATS, ImageError, decode_rgb, orientation
from pipeline.core.recipe import RecipeError, Section
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.io import SourceFolder
from pipeline.sources.io_json import (
    NativeSource,
    Places,
    chosen,
    read_json,
    read_sides,
    require_key,
    storable,
    text_fault,
)
from pipeline.sources.source import with_images

Subset = Literal["left_right", "up_down", "counting", "noun", "adjective", "reverse"]
# Category and operation. GLIGEN draws up_down anew from boxes and paints into the photograph for
# counting; the last three are DALL-E's.
_SUBSETS: dict[Subset, tuple[str, str]] = {
    "left_right": ("position", "flip"),
    "up_down": ("position", "generate"),
    "counting": ("count", "inpaint"),
    "noun": ("object", "generate"),
    "adjective": ("attribute", "generate"),
    "reverse": ("relation", "generate"),
}
_FROM_DALLE = ("noun", "adjective", "reverse")
_DALLE = "dalle_gen_counterfactuals"
_CAPTIONS = "flickr30k_image_captions.json"
_META = ("image_id", "phrases", "coords", "locations", "prompt")

# A JPEG's blocks: 8 px of brightness, 16 px of colour where colour is halved. A width that is no
# multiple of it puts the mirrored image's old blocks at another place than the original's, and
# compression tells the two apart.
BLOCK_PX = 16
JPEG_QUALITY = 95


class CountercurateSection(Section):
    """The folder into which Flickr30k and Flickr30k-Counterfactuals were unpacked.

    `train_data` is a folder inside `path`; `images` holds Flickr30k's `<index>.jpg` (default:
    inside `path`). `reverse` (subject and object exchanged) is left out by default: the paper's
    categories have no place for it.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path", "images")

    kind: Literal["countercurate"]
    path: str
    images: str | None = None
    train_data: str = "Flickr30k-Counterfactuals/train_data"
    name: str = "countercurate"
    license: str = ""
    subsets: tuple[Subset, ...] = Field(
        default=("left_right", "up_down", "counting", "noun", "adjective"), min_length=1
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """One native record; `place` is where it stands in its photograph's list.

    DALL-E's photographs have one record each.
    """

    subset: Subset
    index: str
    record: Any
    place: int | None = None

    @property
    def source_id(self) -> str:
        return storable(
            "/".join(
                str(part) for part in (self.subset, self.index, self.place) if part is not None
            )
        )

    @property
    def text_keys(self) -> tuple[str, str]:
        return ("original_caption", self.subset) if self.subset in _FROM_DALLE else ("pos", "neg")


class CountercurateSource(NativeSource):
    """Reads the JSON files once; photographs are read, and flips made, row by row.

    A null in DALL-E's file says that no such counterfactual was made: that is no row. A record
    whose negative image does not exist is one, and malformed.
    """

    VERSION = 1

    def __init__(self, section: CountercurateSection) -> None:
        super().__init__(section)
        self._folder = posixpath.join(section.path, section.train_data)
        self._train_data = SourceFolder(self._folder)
        self._images = SourceFolder(
            section.images or posixpath.join(section.path, "flickr30k/flickr30k-images")
        )
        for subset in _SUBSETS:
            if subset in section.subsets:
                self._rows += (
                    self._list_from_dalle(subset) if subset in _FROM_DALLE else self._list(subset)
                )

    def _list(self, subset: Subset) -> list[_Row]:
        rows = [
            _Row(subset, index, record, place)
            for index, records in self._read_object(f"{subset}.json").items()
            for place, record in enumerate(records if isinstance(records, list) else [records])
        ]
        for key in ("pos", "neg"):
            require_key(
                self._path(f"{subset}.json"), [(row.source_id, row.record) for row in rows], key
            )
        return rows

    def _list_from_dalle(self, subset: Subset) -> list[_Row]:
        changes, originals = self._read_object(f"{_DALLE}.json"), self._read_object(_CAPTIONS)
        require_key(self._path(f"{_DALLE}.json"), changes.items(), subset)
        rows = []
        for index, record in changes.items():
            if not isinstance(record, dict):
                rows.append(_Row(subset, index, record))
            elif record.get(subset) is not None:
                captions = originals.get(index)
                first = captions[0] if isinstance(captions, list) and captions else None
                rows.append(
                    _Row(subset, index, {"original_caption": first, subset: record[subset]})
                )
        if all(index not in originals for index in changes):
            raise RecipeError(
                f"{self._path(_CAPTIONS)!r}: expected the captions of {next(iter(changes))!r} and"
                " others, found none of them"
            )
        return rows

    def _path(self, file: str) -> str:
        return posixpath.join(self._folder, file)

    def _read_object(self, file: str) -> dict[str, Any]:
        value, self._sha256[file] = read_json(self._path(file), "sources (countercurate)")
        if not isinstance(value, dict):
            raise RecipeError(
                f"{self._path(file)!r}: expected an object with Flickr30k indices as keys, got a"
                f" {type(value).__name__}"
            )
        return value

    def row(self, index: int) -> Candidate | Malformed:
        """A candidate, or why the record is none."""
        row: _Row = self._rows[index]
        category, operation = _SUBSETS[row.subset]
        known: dict[str, Any] = {
            "source": self._section.name,
            "source_id": row.source_id,
            "category": category,
            "operation": operation,
            "group": storable(f"flickr30k/{row.index}"),
            "license": self._section.license,
        }
        fault = text_fault(row.record, *row.text_keys)
        if fault:
            return Malformed(**known, reason=fault)
        known["caption_a"], known["caption_b"] = (row.record[key] for key in row.text_keys)
        images = read_sides(self._places(row))
        if operation == "flip" and isinstance(images["image_a"], bytes):
            try:
                images["image_a"], images["image_b"] = mirrored_pair(images["image_a"])
            except ImageError as error:
                images["image_a"] = error.reason
        meta = {"subset": row.subset, "index": row.index, **chosen(row.record, _META)}
        return with_images(known, images, meta=json.dumps(meta, sort_keys=True))

    def _places(self, row: _Row) -> tuple[Places, Places]:
        """Where the original and the negative may lie.

        A flip has no negative file: the authors' compress it again.
        """
        original = (self._images, f"{row.index}.jpg")
        if row.subset in _FROM_DALLE:
            return [original], [(self._train_data, f"{_DALLE}/{row.index}_{row.subset}.jpg")]
        # Their scripts copy the photographs there; a byte copy is as good.
        originals = [original, (self._train_data, f"{row.subset}/pos/{row.index}.jpg")]
        if row.subset == "left_right":
            return originals, []
        given = row.record.get("image_id") if isinstance(row.record, dict) else None
        # The scripts that paint number the records of a photograph in order, also where the JSON
        # does not say so.
        number = row.place if given is None else given
        stems = (f"{row.index}_{number}.png", f"{row.index}_{number}.jpg", f"{row.index}.jpg")
        return originals, [(self._train_data, f"{row.subset}/neg/{stem}") for stem in stems]


@lru_cache(maxsize=1)  # the records of one photograph follow one another
def mirrored_pair(data: bytes) -> tuple[bytes, bytes]:
    """A photograph and its mirror image, upright and encoded alike.

    JPEG quality 95, colour at full resolution. Up to 15 px are cut off on the side where the
    photograph's own blocks end, so that its old blocks lie at the same place on both sides; what
    remains of the difference is content.

    Raises:
        ImageError: The photograph cannot be decoded.
    """
    image = decode_rgb(data)
    spare = image.width % BLOCK_PX if image.width > BLOCK_PX else 0
    left = spare if _is_turned(data) else 0
    image = image.crop((left, 0, left + image.width - spare, image.height))
    return _jpeg(image), _jpeg(ImageOps.mirror(image))


def _is_turned(data: bytes) -> bool:
    """Whether EXIF puts the corner at which the file's blocks begin to the right."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return orientation(image) in (2, 3, 6, 7)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Halved colour (subsampling 4:2:0) is not symmetrical: mirroring would show.
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return buffer.getvalue()
