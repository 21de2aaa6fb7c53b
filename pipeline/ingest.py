"""Stage `ingest`: source rows become checked rows (Parquet) and content-addressed images (Arrow files), chunk by chunk.

A chunk is a fixed range of rows of one source. A row that cannot be used keeps its place with a `drop_reason`; nothing
here raises for the sake of one row.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.images import ImageError, decode_rgb, pixels_sha256
from pipeline.schema import Candidate, Malformed, malformed_id, pair_id, sha256_hex
from pipeline.selection import text_drop_reason
from pipeline.sources.catalog import Source, SourceSection, open_source
from pipeline.store import Stage, read_table, write_atomically, write_table

VERSION = 1

_TEXTS = ("source", "source_id", "category", "operation", "group", "caption_a", "caption_b", "question", "license", "meta")
ROWS_SCHEMA = pa.schema(
    [("pair_id", pa.string())]
    + [(name, pa.string()) for name in _TEXTS]
    + [(f"image_{side}_{what}", pa.string()) for side in "ab" for what in ("sha256", "pixels_sha256")]
    + [("drop_reason", pa.string())]
)
IMAGES_SCHEMA = pa.schema([("sha256", pa.string()), ("bytes", pa.large_binary())])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows [start, stop) of source number `source`; `index` numbers the chunks over all sources."""

    index: int
    source: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What decoding an image showed: the hash of its pixels, or the fault."""

    pixels_sha256: str | None
    fault: str


def plan_chunks(counts: Sequence[int], chunk_pairs: int) -> list[Chunk]:
    """The chunks of sources with so many rows each; no chunk spans two sources."""
    ranges = [
        (source, start, min(start + chunk_pairs, count)) for source, count in enumerate(counts) for start in range(0, count, chunk_pairs)
    ]
    return [Chunk(index, *bounds) for index, bounds in enumerate(ranges)]


@lru_cache(maxsize=8)
def _opened(section: SourceSection, fingerprint: str) -> Source:  # noqa: ARG001 - a changed manifest is another key
    """Opened once per worker process and content: Ray reuses processes for as long as its session lives."""
    return open_source(section)


def ingest_chunk(stage: Stage, section: SourceSection, chunk: Chunk) -> dict[str, int]:
    """Reads, checks, hashes and writes one chunk; returns its counts."""
    rows: list[dict[str, str | None]] = []
    images: dict[str, bytes] = {}
    checked: dict[str, Checked] = {}
    for position, item in enumerate(_opened(section, stage.folder.name).read(chunk.start, chunk.stop), chunk.start):
        row = _malformed_row(item) if isinstance(item, Malformed) else _candidate_row(item, images, checked)
        # A row whose content has no address is named by where it stands.
        rows.append(row if row.get("pair_id") else row | {"pair_id": malformed_id(item.source, position)})
    expected = chunk.stop - chunk.start
    if len(rows) != expected:
        raise AssertionError(f"source {chunk.source} yielded {len(rows)} rows for [{chunk.start}, {chunk.stop})")
    ordered = sorted(images)
    table = pa.table([pa.array(ordered, pa.string()), pa.array([images[key] for key in ordered], pa.large_binary())], schema=IMAGES_SCHEMA)
    write_atomically(stage.part("images", chunk.index, "arrow"), lambda file: _write_arrow(file, table))
    # The rows come last: their presence means that the chunk is complete.
    write_table(stage.part("rows", chunk.index), pa.Table.from_pylist(rows, schema=ROWS_SCHEMA))
    return {"rows": len(rows), "images": len(ordered), "dropped": sum(bool(row["drop_reason"]) for row in rows)}


def _write_arrow(file: object, table: pa.Table) -> None:
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _malformed_row(row: Malformed) -> dict[str, str | None]:
    fields: dict[str, str | None] = {key: value for key, value in asdict(row).items() if key != "reason"}
    return fields | {"drop_reason": row.reason, "meta": "{}"}


def _candidate_row(row: Candidate, images: dict[str, bytes], checked: dict[str, Checked]) -> dict[str, str | None]:
    fields: dict[str, str | None] = {name: getattr(row, name) for name in _TEXTS}
    sides: dict[str, Checked] = {}
    for side, data in (("a", row.image_a), ("b", row.image_b)):
        key = sha256_hex(data)
        # The same image in many pairs (an original with several edits) is decoded once per chunk.
        sides[side] = checked[key] = checked.get(key) or _check(data)
        if not sides[side].fault:
            images[key] = data
        fields[f"image_{side}_sha256"] = key
        fields[f"image_{side}_pixels_sha256"] = sides[side].pixels_sha256
    faults = [f"image_{side}_{sides[side].fault}" for side in "ab" if sides[side].fault]
    if not faults and sides["a"].pixels_sha256 == sides["b"].pixels_sha256:
        faults = ["images_equal"]
    identity = pair_id(str(fields["image_a_sha256"]), row.caption_a, str(fields["image_b_sha256"]), row.caption_b)
    reason = faults[0] if faults else text_drop_reason(row.caption_a, row.caption_b)
    return fields | {"pair_id": identity, "drop_reason": reason}


def _check(data: bytes) -> Checked:
    try:
        return Checked(pixels_sha256(decode_rgb(data)), "")
    except ImageError as error:
        return Checked(None, error.reason)


def finish_ingest(stage: Stage, num_chunks: int) -> dict[str, int]:
    """Notes which chunk owns each image (the first that has it), so that later stages work on each image once."""
    seen: set[str] = set()
    num_rows = 0
    for index in range(num_chunks):
        num_rows += read_table(stage.part("rows", index), ["pair_id"]).num_rows
        mine = [key for key in read_image_keys(stage.part("images", index, "arrow")) if key not in seen]
        seen.update(mine)
        write_table(stage.part("owned", index), pa.table({"sha256": pa.array(mine, pa.string())}))
    return {"num_chunks": num_chunks, "num_rows": num_rows, "num_images": len(seen)}


def read_rows(stage: Stage, num_chunks: int) -> pa.Table:
    """All ingested rows, without pixels, in the sources' order."""
    return pa.concat_tables([read_table(stage.part("rows", index)) for index in range(num_chunks)])


def read_image_keys(path: Path) -> list[str]:
    """The content ids in one images file, in order."""
    with pa.memory_map(str(path)) as file:
        keys: list[str] = pa.ipc.open_file(file).read_all().column("sha256").to_pylist()
        return keys


def owned_images(stage: Stage, index: int) -> pa.Table:
    """The images (sha256, bytes) that chunk `index` owns, in order of content id; the bytes stay on disk until read."""
    mine = read_table(stage.part("owned", index)).column("sha256")
    images = pa.ipc.open_file(pa.memory_map(str(stage.part("images", index, "arrow")))).read_all()
    return images.filter(pc.is_in(images.column("sha256"), value_set=mine.combine_chunks()))


class ImageLibrary:
    """Encoded bytes by content id, read from the chunks' memory-mapped files one image at a time."""

    def __init__(self, stage: Stage, num_chunks: int) -> None:
        self._stage = stage
        owned = {index: read_table(stage.part("owned", index)).column("sha256").to_pylist() for index in range(num_chunks)}
        self._chunk_of = {key: index for index, keys in owned.items() for key in keys}
        self._open: dict[int, tuple[dict[str, int], pa.ChunkedArray]] = {}

    def __getitem__(self, sha256: str) -> bytes:
        chunk = self._chunk_of[sha256]
        if chunk not in self._open:
            table = pa.ipc.open_file(pa.memory_map(str(self._stage.part("images", chunk, "arrow")))).read_all()
            keys = table.column("sha256").to_pylist()
            self._open[chunk] = ({key: row for row, key in enumerate(keys)}, table.column("bytes"))
        rows, values = self._open[chunk]
        data: bytes = values[rows[sha256]].as_py()
        return data

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._chunk_of
