"""Stage `ingest`: source rows become checked rows and content-addressed images, chunk by chunk.

A chunk is a fixed range of rows of one source. A row that cannot be used keeps its place with a
`drop_reason`; nothing here raises for the sake of one row. Each chunk leaves three files: `rows`
(texts), `facts` (the narrow columns that decisions are made on) and `images` (encoded bytes by
content id).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipeline.config import NormalizeSection
from pipeline.core.hashing import NULL_KEY, hash_key, signed
from pipeline.core.images import ImageError, decode_rgb, pixels_sha256
from pipeline.core.recipe import Section
from pipeline.core.schema import Candidate, Malformed, malformed_id, pair_id, sha256_hex
from pipeline.core.storage import Stage, read_table, write_table
from pipeline.dedup.phash import perceptual_hash
from pipeline.sources.registry import open_source
from pipeline.sources.source import Source
from pipeline.stages.normalize import normalize_bytes
from pipeline.storage.decided_rows import shared_texts
from pipeline.storage.image_store import write_images
from pipeline.text.captions import caption_facts, text_drop_reason

VERSION = 2

_TEXTS = (
    "source",
    "source_id",
    "category",
    "operation",
    "group",
    "caption_a",
    "caption_b",
    "question",
    "license",
    "meta",
)
ROWS_SCHEMA = pa.schema(
    [("pair_id", pa.string())]
    + [(name, pa.string()) for name in _TEXTS]
    + [
        (f"image_{side}_{what}", pa.string())
        for side in "ab"
        for what in ("sha256", "pixels_sha256")
    ]
    + [("drop_reason", pa.string())]
)
CAPTION_FACTS = tuple(caption_facts("a", "b"))
# Keys are the first 64 bits of a sha256; null where a side could not be read (perceptual hashes:
# also where it is flat). `content_key` is of both sides' pixels and captions: equal for the same
# pair in other containers.
FACTS_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("pair_id", "source", "source_id", "category", "operation", "drop_reason")
    ]
    + [("group_key", pa.int64()), ("content_key", pa.int64())]
    + [
        (f"{what}_{side}", pa.int64())
        for what in ("image_key", "pixels_key", "phash", "num_bytes", "width", "height")
        for side in "ab"
    ]
    + [(name, pa.float64()) for name in CAPTION_FACTS]
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [start, stop) of source number `source`; `index` numbers the chunks over all sources."""

    index: int
    source: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class IngestedImage:
    """What decoding an image showed, or the fault, and the bytes to keep."""

    data: bytes
    pixels_sha256: str | None = None
    phash: int | None = None
    width: int | None = None
    height: int | None = None
    fault: str = ""


def plan_chunks(counts: Sequence[int], chunk_pairs: int) -> list[Chunk]:
    """The chunks of sources with so many rows each; no chunk spans two sources."""
    ranges = [
        (source, start, min(start + chunk_pairs, count))
        for source, count in enumerate(counts)
        for start in range(0, count, chunk_pairs)
    ]
    return [Chunk(index, *bounds) for index, bounds in enumerate(ranges)]


@lru_cache(maxsize=8)
def _opened(section: Section, fingerprint: str) -> Source:  # noqa: ARG001
    """Opened once per worker process and content, as Ray reuses processes."""
    return open_source(section)


def ingest_chunk(
    stage: Stage, section: Section, normalize: NormalizeSection, chunk: Chunk
) -> dict[str, int]:
    """Reads, checks, hashes and writes one chunk; returns its counts."""
    checked: dict[str, IngestedImage] = {}
    items = _opened(section, stage.folder.name).read(chunk.start, chunk.stop)
    rows = [
        _malformed_row(item, position)
        if isinstance(item, Malformed)
        else _candidate_row(item, normalize, checked)
        for position, item in enumerate(items, chunk.start)
    ]
    assert len(rows) == chunk.stop - chunk.start, (
        f"source {chunk.source} yielded {len(rows)} rows for [{chunk.start}, {chunk.stop})"
    )
    images = {sha256_hex(image.data): image.data for image in checked.values() if not image.fault}
    write_images(stage, chunk.index, images)
    # The rows come last: their presence means that the chunk is complete.
    for kind, schema in (("facts", FACTS_SCHEMA), ("rows", ROWS_SCHEMA)):
        write_table(stage.part(kind, chunk.index), pa.Table.from_pylist(rows, schema=schema))
    return {
        "rows": len(rows),
        "images": len(images),
        "dropped": sum(bool(row["drop_reason"]) for row in rows),
    }


Row = dict[str, str | int | float | None]  # the columns of both tables


def _malformed_row(item: Malformed, position: int) -> Row:
    """A row whose content has no address is named by where it stands."""
    return asdict(item) | {
        "drop_reason": item.reason,
        "pair_id": malformed_id(item.source, position),
        "group_key": _group_key(item.group),
    }


def _candidate_row(
    item: Candidate, normalize: NormalizeSection, checked: dict[str, IngestedImage]
) -> Row:
    row: Row = {name: getattr(item, name) for name in _TEXTS}
    sides: dict[str, IngestedImage] = {}
    for side, data in (("a", item.image_a), ("b", item.image_b)):
        given = sha256_hex(data)
        # The same image in many pairs (an original with several edits) is decoded once per chunk.
        image = sides[side] = checked[given] = checked.get(given) or _check(data, normalize)
        sha256 = sha256_hex(image.data)
        row |= {
            f"image_{side}_sha256": sha256,
            f"image_{side}_pixels_sha256": image.pixels_sha256,
            f"image_key_{side}": None if image.fault else hash_key(sha256),
            f"pixels_key_{side}": hash_key(image.pixels_sha256) if image.pixels_sha256 else None,
            f"phash_{side}": None if image.phash is None else signed(image.phash),
            f"num_bytes_{side}": len(image.data),
            f"width_{side}": image.width,
            f"height_{side}": image.height,
        }
    faults = [f"image_{side}_{sides[side].fault}" for side in "ab" if sides[side].fault]
    if not faults and sides["a"].pixels_sha256 == sides["b"].pixels_sha256:
        faults = ["images_equal"]
    row["pair_id"] = pair_id(
        str(row["image_a_sha256"]), item.caption_a, str(row["image_b_sha256"]), item.caption_b
    )
    row["drop_reason"] = faults[0] if faults else text_drop_reason(item.caption_a, item.caption_b)
    row["group_key"] = _group_key(item.group)
    if not row["drop_reason"]:
        content = pair_id(
            str(sides["a"].pixels_sha256),
            item.caption_a,
            str(sides["b"].pixels_sha256),
            item.caption_b,
        )
        row["content_key"] = hash_key(content)
        row |= caption_facts(item.caption_a, item.caption_b)
    return row


def _group_key(group: str) -> int:
    return hash_key(sha256_hex(group.encode()))


def _check(data: bytes, normalize: NormalizeSection) -> IngestedImage:
    try:
        kept = normalize_bytes(data, normalize)
        image = decode_rgb(kept)
    except ImageError as error:
        return IngestedImage(data, fault=error.reason)
    return IngestedImage(
        kept, pixels_sha256(image), perceptual_hash(image), image.width, image.height
    )


def read_facts(stage: Stage, num_chunks: int, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Narrow columns of all rows, in the sources' order; equal texts are one object.

    `pair_id` comes as bytes (S32); a null number as the smallest int64 or NaN.
    """
    parts = [read_table(stage.part("facts", index), list(columns)) for index in range(num_chunks)]
    return {
        name: np.concatenate([_array(part.column(name), name) for part in parts])
        for name in columns
    }


def _array(column: pa.ChunkedArray, name: str) -> np.ndarray:
    if name == "pair_id":
        return np.array(column.to_pylist(), dtype="S32")
    if pa.types.is_string(column.type):
        return shared_texts(column)
    if pa.types.is_integer(column.type):
        return column.fill_null(NULL_KEY).to_numpy()
    return column.to_numpy()
