"""Stage `finalise`: decided rows and images become shards for the Hub and `load_dataset`.

Rows are sorted by pair_id and written with fixed settings, so the same rows give the same bytes.
Texts and images are gathered from the chunks' memory-mapped files one row group at a time: memory
does not grow with the data.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.schema import SPLITS, mvc_schema
from pipeline.core.storage import remove_stale, sha256_file, write_atomically
from pipeline.storage.decided_rows import DecidedRows, Ints
from pipeline.storage.image_store import ImageLibrary

VERSION = 2

# The Hub's viewer reads whole row groups and refuses those above about 286 MiB; it pages by 100
# rows.
GROUP_BYTES = 32_000_000
MIN_GROUP_ROWS, MAX_GROUP_ROWS = 25, 100
SHARD_BYTES = 400_000_000
# row groups whose texts are gathered together: rows lie scattered, and each gathering goes through
# every chunk
GATHERED_GROUPS = 32


def group_rows(mean_pair_bytes: float) -> int:
    """Rows per row group: about 32 MB of images, between 25 and 100 rows."""
    return min(max(int(GROUP_BYTES / max(mean_pair_bytes, 1.0)), MIN_GROUP_ROWS), MAX_GROUP_ROWS)


def write_mvc(
    rows: DecidedRows,
    num_bytes: Ints,
    library: ImageLibrary,
    out: Path,
    tick: Callable[[int], None],
) -> dict[str, str]:
    """Writes `data/` and `rejects/`; returns the sha256 of each file by its path below `out`.

    Args:
        rows: Every candidate with `drop_reason` ("" if kept) and `split`.
        num_bytes: Encoded size of both images of each row, which decides how rows are cut into
            shards and row groups.
        tick: Called with the number of rows written.
    """
    order = _order(rows)
    reasons, splits = rows.column("drop_reason"), rows.column("split")
    parts = [
        (f"data/{split}", order[(reasons[order] == "") & (splits[order] == split)], mvc_schema())
        for split in SPLITS
    ]
    parts.append(("rejects/rejects", order[reasons[order] != ""], mvc_schema(rejects=True)))
    hashes: dict[str, str] = {}
    for stem, chosen, schema in parts:
        for name, piece, size in _pieces(stem, chosen, num_bytes):
            groups = _row_groups(rows, piece, size, library, schema)
            write_atomically(
                out / name,
                functools.partial(_write_groups, groups=groups, schema=schema, tick=tick),
            )
            hashes[name] = sha256_file(out / name)
    remove_stale(out, "data/*.parquet", "rejects/*.parquet", keep=hashes)
    return hashes


def _order(rows: DecidedRows) -> Ints:
    """Rows by pair_id, and rows of one pair by source and source_id."""
    ids = rows.column("pair_id", "S32")
    order = np.argsort(ids, kind="stable")
    _, starts, counts = np.unique(ids[order], return_index=True, return_counts=True)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        run = order[start : start + count]
        names = rows.gather(run).select(["source", "source_id"]).to_pylist()
        order[start : start + count] = run[
            sorted(range(count), key=lambda i: (names[i]["source"], names[i]["source_id"]))
        ]
    return order


def _pieces(stem: str, chosen: Ints, num_bytes: Ints) -> Iterator[tuple[str, Ints, int]]:
    """(file name, rows, rows per row group) of each shard of one split."""
    total = int(num_bytes[chosen].sum())
    num_shards = max(1, math.ceil(total / SHARD_BYTES)) if len(chosen) else 0
    for shard in range(num_shards):
        start, stop = (edge * len(chosen) // num_shards for edge in (shard, shard + 1))
        yield (
            f"{stem}-{shard:05d}-of-{num_shards:05d}.parquet",
            chosen[start:stop],
            group_rows(total / len(chosen)),
        )


def _row_groups(
    rows: DecidedRows, chosen: Ints, size: int, library: ImageLibrary, schema: pa.Schema
) -> Iterator[pa.Table]:
    for start in range(0, len(chosen), GATHERED_GROUPS * size):
        texts = rows.gather(chosen[start : start + GATHERED_GROUPS * size])
        for place in range(0, texts.num_rows, size):
            part = texts.slice(place, size)
            images = {name: _image_column(part, name, library) for name in ("image_a", "image_b")}
            yield pa.table(
                {name: images[name] if name in images else part[name] for name in schema.names},
                schema=schema,
            )


def _image_column(rows: pa.Table, name: str, library: ImageLibrary) -> pa.Array:
    """Images as they came in; null where one did not decode or was not there."""
    images = library.read(rows[f"{name}_sha256"].to_pylist())
    return pa.array(
        [None if data is None else {"bytes": data, "path": None} for data in images],
        mvc_schema().field(name).type,
    )


def _write_groups(
    file: BinaryIO, *, groups: Iterator[pa.Table], schema: pa.Schema, tick: Callable[[int], None]
) -> None:
    with pq.ParquetWriter(
        file, schema, compression="zstd", write_page_index=True, store_schema=True
    ) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=table.num_rows)
            tick(table.num_rows)
