"""Reads what the embed stage made, by content id, a few chunks in memory at a time."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.core.schema import sha256_hex
from pipeline.core.storage import Stage, read_table
from pipeline.embedding.cache import matrix
from pipeline.embedding.pixels import Floats
from pipeline.storage.image_store import ImageLibrary

_MAX_PARTS = 16


class Vectors:
    """Vectors by encoder name.

    An image's lies in the part of the chunk that owns it, a caption's in its own chunk's.
    """

    def __init__(self, stage: Stage, library: ImageLibrary) -> None:
        self._stage, self._library = stage, library
        self._part = functools.lru_cache(_MAX_PARTS)(self._read_part)

    def of_images(self, keys: Sequence[str]) -> dict[str, Floats]:
        """One [N, D] array per encoder for images by sha256, in the order asked."""
        chunks = [self._library.chunk_of(key) for key in keys]
        vectors: dict[str, Floats] = {}
        for chunk in sorted({chunk for chunk in chunks if chunk is not None}):
            rows, arrays = self._part("images", chunk)
            places = [place for place, owner in enumerate(chunks) if owner == chunk]
            for name, array in arrays.items():
                wide = vectors.setdefault(name, np.empty((len(keys), array.shape[1]), np.float32))
                wide[places] = array[[rows[keys[place]] for place in places]]
        return vectors

    def of_captions(self, chunk: int, captions: Sequence[str]) -> Mapping[str, Floats]:
        """One [N, D] array per encoder that reads text, for captions of one chunk."""
        rows, arrays = self._part("texts", chunk)
        places = [rows[sha256_hex(caption.encode())] for caption in captions] if arrays else []
        return {name: array[places] for name, array in arrays.items()}

    def _read_part(self, kind: str, chunk: int) -> tuple[dict[str, int], dict[str, Floats]]:
        """The row of each key in a part, and its columns of vectors."""
        table = read_table(self._stage.part(kind, chunk))
        rows = {key: row for row, key in enumerate(table["sha256"].to_pylist())}
        return rows, {name: matrix(table[name]) for name in table.column_names if name != "sha256"}
