"""The images of a build by content id: which chunk owns which, and random access to bytes.

Encoded bytes lie in Arrow IPC files, memory-mapped: finalise reads them one by one in another
order, which Parquet would answer by decompressing a whole row group per image. Memory holds 16
bytes per image.
"""

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.hashing import hash_keys
from pipeline.core.storage import Stage, open_mapped, read_table, write_mapped, write_table

IMAGES_SCHEMA = pa.schema([("sha256", pa.string()), ("bytes", pa.large_binary())])
_MAX_OPEN = 4096  # mapped files; a process may have 65,530 mappings


def write_images(stage: Stage, index: int, images: dict[str, bytes]) -> None:
    """Writes one chunk's images (bytes by sha256), in order of content id."""
    rows = [{"sha256": key, "bytes": images[key]} for key in sorted(images)]
    write_mapped(
        stage.part("images", index, "arrow"), pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA)
    )


def _images(stage: Stage, index: int) -> pa.Table:
    return open_mapped(stage.part("images", index, "arrow"))


def write_index(stage: Stage, num_chunks: int) -> int:
    """Notes where each image lies; returns how many there are.

    The first chunk that has an image owns it, so that work is done once.
    """
    keys = [hash_keys(_images(stage, index)["sha256"].to_pylist()) for index in range(num_chunks)]
    chunks = np.repeat(np.arange(num_chunks, dtype=np.int32), [len(part) for part in keys])
    rows = np.concatenate([np.arange(len(part), dtype=np.int32) for part in keys])
    unique, first = np.unique(np.concatenate(keys), return_index=True)
    write_table(
        stage.part("index", 0),
        pa.table({"key": unique, "chunk": chunks[first], "row": rows[first]}),
    )
    return len(unique)


def owned_images(stage: Stage, index: int) -> pa.Table:
    """The images (sha256, bytes) that chunk `index` owns, in order of content id."""
    places = read_table(stage.part("index", 0))
    mine = places.filter(pc.equal(places["chunk"], index))["row"].sort()
    images = _images(stage, index)
    return images if len(mine) == images.num_rows else images.take(mine)


class ImageLibrary:
    """Encoded bytes by content id (sha256 in hex), read from the chunks' files one by one."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        places = read_table(stage.part("index", 0))
        self._keys, self._chunks, self._rows = (
            places[name].to_numpy() for name in ("key", "chunk", "row")
        )
        self._columns = functools.lru_cache(_MAX_OPEN)(self._open)

    def _open(self, chunk: int) -> tuple[pa.StringArray, pa.LargeBinaryArray]:
        """Hashes and bytes of a chunk's images."""
        images = _images(self._stage, chunk)
        return images["sha256"].chunk(0), images["bytes"].chunk(0)

    def chunk_of(self, sha256: str) -> int | None:
        """The chunk that owns an image, or None where there is no such image."""
        (place,) = self._places([sha256])
        return None if place < 0 else int(self._chunks[place])

    def __getitem__(self, sha256: str) -> bytes:
        (data,) = self.read([sha256])
        if data is None:
            raise KeyError(sha256)
        return data

    def read(self, keys: Sequence[str | None]) -> list[bytes | None]:
        """The bytes of many images in the order given; None for None and for what is not there."""
        encoded: list[bytes | None] = [None] * len(keys)
        for number, place in enumerate(self._places(keys).tolist()):
            if place >= 0:
                hashes, images = self._columns(int(self._chunks[place]))
                row = int(self._rows[place])
                assert hashes[row].as_py() == keys[number], (
                    "two images share the first 64 bits of their sha256"
                )
                encoded[number] = images[row].as_py()
        return encoded

    def _places(self, keys: Sequence[str | None]) -> NDArray[np.int64]:
        """Where each key stands in the index; -1 for none."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        wanted_N = hash_keys([key or "0" for key in keys])
        place_N = np.searchsorted(self._keys, wanted_N).clip(max=len(self._keys) - 1)
        return np.where(
            (self._keys[place_N] == wanted_N) & np.array([bool(key) for key in keys], bool),
            place_N,
            -1,
        )
