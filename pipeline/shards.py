"""Stage `finalise`: decided rows and image bytes become Parquet shards that the Hub shows and `load_dataset` reads.

Rows are sorted by pair_id and written with fixed settings, so the same rows give the same bytes.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ingest import ImageLibrary
from pipeline.schema import SPLITS, mvc_schema
from pipeline.store import sha256_file, write_atomically

VERSION = 1

# The Hub's viewer reads whole row groups and refuses those above about 286 MiB; it pages by 100 rows.
GROUP_BYTES = 32_000_000
MIN_GROUP_ROWS, MAX_GROUP_ROWS = 25, 100
SHARD_BYTES = 400_000_000


def group_rows(mean_pair_bytes: float) -> int:
    """Rows per row group: about 32 MB of images, between 25 and 100 rows."""
    return min(max(int(GROUP_BYTES / max(mean_pair_bytes, 1.0)), MIN_GROUP_ROWS), MAX_GROUP_ROWS)


def write_mvc(rows: pa.Table, library: ImageLibrary, out: Path, tick: Callable[[int], None]) -> dict[str, str]:
    """Writes `data/` and `rejects/` from decided rows; returns the sha256 of each file by its path below `out`.

    Args:
        rows: Every candidate with `drop_reason` ("" if kept) and `split`.
        tick: Called with the number of rows written.
    """
    ordered = rows.sort_by([("pair_id", "ascending"), ("source", "ascending"), ("source_id", "ascending")])
    hashes: dict[str, str] = {}
    for split in SPLITS:
        part = ordered.filter(pc.and_(pc.equal(ordered["split"], split), pc.equal(ordered["drop_reason"], "")))
        hashes |= _write_split(part, library, out, f"data/{split}", mvc_schema(), tick)
    dropped = ordered.filter(pc.not_equal(ordered["drop_reason"], ""))
    hashes |= _write_split(dropped, library, out, "rejects/rejects", mvc_schema(rejects=True), tick)
    for folder in ("data", "rejects"):
        for stale in (out / folder).glob("*.parquet"):
            if f"{folder}/{stale.name}" not in hashes:
                stale.unlink()
    return hashes


def _write_split(
    rows: pa.Table, library: ImageLibrary, out: Path, stem: str, schema: pa.Schema, tick: Callable[[int], None]
) -> dict[str, str]:
    if rows.num_rows == 0:
        return {}
    sample = rows.slice(0, 200)
    mean_bytes = _num_image_bytes(sample, library) / sample.num_rows
    num_shards = max(1, math.ceil(mean_bytes * rows.num_rows / SHARD_BYTES))
    hashes = {}
    for shard in range(num_shards):
        name = f"{stem}-{shard:05d}-of-{num_shards:05d}.parquet"
        start, stop = (edge * rows.num_rows // num_shards for edge in (shard, shard + 1))
        groups = _row_groups(rows.slice(start, stop - start), library, schema, group_rows(mean_bytes))
        write_atomically(out / name, lambda file, groups=groups: _write_groups(file, groups, schema, tick))  # type: ignore[misc]
        hashes[name] = sha256_file(out / name)
    return hashes


def _num_image_bytes(rows: pa.Table, library: ImageLibrary) -> int:
    keys = rows["image_a_sha256"].to_pylist() + rows["image_b_sha256"].to_pylist()
    return sum(len(library[key]) for key in keys if key in library)


def _row_groups(rows: pa.Table, library: ImageLibrary, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, size):
        part = rows.slice(start, size)
        columns = {name: _image_column(part, name, library) if name in ("image_a", "image_b") else part[name] for name in schema.names}
        yield pa.table(columns, schema=schema)


def _image_column(rows: pa.Table, name: str, library: ImageLibrary) -> pa.Array:
    """Bytes as they came in, with a file name by content; null where the image did not decode or was not there."""
    values: list[dict[str, Any] | None] = [
        {"bytes": library[key], "path": None} if key is not None and key in library else None for key in rows[f"{name}_sha256"].to_pylist()
    ]
    return pa.array(values, mvc_schema().field(name).type)


def _write_groups(file: BinaryIO, groups: Iterator[pa.Table], schema: pa.Schema, tick: Callable[[int], None]) -> None:
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_index=True, store_schema=True) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=table.num_rows)
            tick(table.num_rows)
