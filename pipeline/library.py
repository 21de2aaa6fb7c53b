"""The images of a build by content id: each chunk's files, which chunk owns which image, and random access to bytes.

Encoded bytes lie in Arrow IPC files, memory-mapped: finalise reads them one by one in another order, which Parquet would
answer by decompressing a whole row group per image. Memory holds 16 bytes per image.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import Stage, open_mapped, read_table, write_mapped, write_table

IMAGES_SCHEMA = pa.schema([("sha256", pa.string()), ("bytes", pa.large_binary())])
_MAX_OPEN = 256  # files; a process may hold about a thousand


def write_images(stage: Stage, index: int, images: dict[str, bytes]) -> None:
    """Writes one chunk's images (bytes by sha256), in order of content id."""
    ordered = sorted(images)
    table = pa.table([pa.array(ordered, pa.string()), pa.array([images[key] for key in ordered], pa.large_binary())], schema=IMAGES_SCHEMA)
    write_mapped(stage.part("images", index, "arrow"), table)


def _images(stage: Stage, index: int) -> pa.Table:
    return open_mapped(stage.part("images", index, "arrow"))


def write_index(stage: Stage, num_chunks: int) -> int:
    """Notes where each image lies (the first chunk that has it owns it, so that work is done once); returns their number."""
    keys = [_keys(_images(stage, index).column("sha256")) for index in range(num_chunks)]
    chunks = np.repeat(np.arange(num_chunks, dtype=np.int32), [len(part) for part in keys])
    rows = np.concatenate([np.arange(len(part), dtype=np.int32) for part in keys])
    unique, first = np.unique(np.concatenate(keys), return_index=True)
    write_table(stage.part("index", 0), pa.table({"key": unique, "chunk": chunks[first], "row": rows[first]}))
    return len(unique)


def _keys(column: pa.ChunkedArray) -> np.ndarray:
    """The first 64 bits of each sha256 in hex: at ten million images two share one with probability 3e-6."""
    return np.array([int(sha256[:16], 16) for sha256 in column.to_pylist()], np.uint64)


def owned_images(stage: Stage, index: int) -> pa.Table:
    """The images (sha256, bytes) that chunk `index` owns, in order of content id."""
    places = read_table(stage.part("index", 0))
    mine = places.filter(pc.equal(places["chunk"], index))["row"].sort()
    images = _images(stage, index)
    return images if len(mine) == images.num_rows else images.take(mine)


class ImageLibrary:
    """Encoded bytes by content id (sha256 in hex), read from the chunks' files one image at a time."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        places = read_table(stage.part("index", 0))
        self._keys, self._chunks, self._rows = (places[name].to_numpy() for name in ("key", "chunk", "row"))
        self._open: OrderedDict[int, pa.Table] = OrderedDict()

    def _place(self, sha256: str) -> int | None:
        key = np.uint64(int(sha256[:16], 16))
        place = int(np.searchsorted(self._keys, key))
        return place if place < len(self._keys) and self._keys[place] == key else None

    def chunk_of(self, sha256: str) -> int | None:
        """The chunk that owns an image, or None where there is no such image."""
        place = self._place(sha256)
        return None if place is None else int(self._chunks[place])

    def __getitem__(self, sha256: str) -> bytes:
        place = self._place(sha256)
        if place is None:
            raise KeyError(sha256)
        images, row = self._opened(int(self._chunks[place])), int(self._rows[place])
        assert images["sha256"][row].as_py() == sha256, "two images share the first 64 bits of their sha256"
        data: bytes = images["bytes"][row].as_py()
        return data

    def read(self, keys: Sequence[str | None]) -> pa.LargeBinaryArray:
        """The bytes of many images in the given order, each file opened once; null for None and where there is no such image."""
        if not len(self._keys):
            return pa.nulls(len(keys), pa.large_binary())
        wanted_N = np.array([int(key[:16], 16) if key else 0 for key in keys], np.uint64)
        place_N = np.searchsorted(self._keys, wanted_N).clip(max=len(self._keys) - 1)
        there_N = (self._keys[place_N] == wanted_N) & np.array([bool(key) for key in keys], bool)
        order = np.flatnonzero(there_N)[np.argsort(self._chunks[place_N[there_N]], kind="stable")]
        chunks = self._chunks[place_N[order]]
        parts = [IMAGES_SCHEMA.empty_table()]
        for chunk in np.unique(chunks):
            parts.append(self._opened(int(chunk)).take(pa.array(self._rows[place_N[order[chunks == chunk]]])))
        images = pa.concat_tables(parts).combine_chunks()
        assert images["sha256"].to_pylist() == [keys[n] for n in order], "two images share the first 64 bits of their sha256"
        back_N = np.zeros(len(keys), np.int64)
        back_N[order] = np.arange(len(order))
        return pc.take(images["bytes"].combine_chunks(), pa.array(back_N, mask=~there_N))

    def _opened(self, chunk: int) -> pa.Table:
        if chunk in self._open:
            self._open.move_to_end(chunk)
        else:
            self._open[chunk] = _images(self._stage, chunk)
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return self._open[chunk]

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and self._place(sha256) is not None
