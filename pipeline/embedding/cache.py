"""Vectors that earlier work has left: what is known is taken over, not made again.

A finished part of the embed stage (images, captions) or of the verify stage (answers) says in each
vector column which encoder made it (`encoder_fingerprints`). So it serves every build with the same
work folder, whatever else has changed: another source, another chunk size, another encoder on.
"""

# Shapes: N keys asked for, M vectors known, D dimensions.

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.hashing import hash_keys
from pipeline.core.storage import write_atomically
from pipeline.embedding.pixels import Floats

_MADE_BY = b"encoder"


# Where one encoder's vectors lie: 64-bit keys, and the file and row of each, [M].
_Places = tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]


class KnownVectors:
    """The vectors in all finished parts of one kind ("images" or "texts") below folders.

    Memory holds 16 bytes for each. A part that cannot be read is passed over, as one that is not
    there: its vectors are made again.
    """

    def __init__(self, folders: Sequence[Path], kind: str, fingerprints: Mapping[str, str]) -> None:
        self._paths = [
            path for folder in folders for path in sorted(folder.glob(f"*/{kind}-*.parquet"))
        ]
        places_of: dict[str, list[_Places]] = {name: [] for name in fingerprints}
        for number, path in enumerate(self._paths):
            names = [
                name for name, made_by in _makers(path).items() if fingerprints.get(name) == made_by
            ]
            keys = _read(path, ["sha256"]) if names else None
            if keys is None:
                continue
            key_M = hash_keys(keys["sha256"].to_pylist())
            row_M = np.arange(len(key_M), dtype=np.int32)
            for name in names:
                places_of[name].append((key_M, np.full_like(row_M, number), row_M))
        self._places = {name: _merged(parts) for name, parts in places_of.items() if parts}

    def take(self, name: str, keys: Sequence[str]) -> tuple[NDArray[np.int64], Floats | None]:
        """Which of `keys` (sha256 in hex) encoder `name` has embedded, and their vectors, [N, D].

        They are named by their places in `keys`, ascending. Without any, the vectors are None: how
        wide they would be is not known.
        """
        nothing: NDArray[np.int64] = np.zeros(0, np.int64)
        if name not in self._places or not keys:
            return nothing, None
        (key_M, file_M, row_M), asked_N = self._places[name], hash_keys(keys)
        spot_N = np.minimum(np.searchsorted(key_M, asked_N), len(key_M) - 1)
        hit_N = np.flatnonzero(key_M[spot_N] == asked_N)
        file_N, row_N = file_M[spot_N], row_M[spot_N]
        places, vectors = [nothing], []
        for number in np.unique(file_N[hit_N]).tolist():
            mine = hit_N[file_N[hit_N] == number]
            table = _read(self._paths[number], ["sha256", name], rows=row_N[mine])
            if table is None:
                continue
            # The first 64 bits have led here; the whole sha256 decides, also where the part was
            # replaced meanwhile.
            is_same = np.array(
                [
                    key == keys[place]
                    for key, place in zip(table["sha256"].to_pylist(), mine, strict=True)
                ],
                bool,
            )
            places.append(mine[is_same])
            vectors.append(matrix(table[name])[is_same])
        place_N = np.concatenate(places)
        order = np.argsort(place_N)
        return place_N[order], np.concatenate(vectors)[order] if len(place_N) else None


def _merged(parts: Sequence[_Places]) -> _Places:
    """The places of all parts by ascending key, the first part's where several have one."""
    keys, files, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    unique, first = np.unique(keys, return_index=True)
    return unique, files[first], rows[first]


def _makers(path: Path) -> dict[str, str]:
    """The fingerprint of the encoder behind each vector column; empty if unreadable."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return {}
    return {
        field.name: field.metadata[_MADE_BY].decode()
        for field in schema
        if field.metadata and _MADE_BY in field.metadata
    }


def _read(path: Path, columns: list[str], rows: NDArray[np.int32] | None = None) -> pa.Table | None:
    """Columns of a part, or the given rows of them.

    None where it cannot be read, or not that far, or a checksum is off.
    """
    try:
        table = pq.read_table(
            path,
            columns=columns,
            memory_map=False,
            partitioning=None,
            page_checksum_verification=True,
        )
        return table if rows is None else table.take(rows)
    except (OSError, pa.ArrowException, IndexError):
        return None


def write_vectors(
    path: Path, keys: Sequence[str], vectors: Mapping[str, Floats], fingerprints: Mapping[str, str]
) -> None:
    """Writes one part: content ids, and each encoder's vectors with its fingerprint."""
    # Fixed-size lists of float32, not Ray's tensor type, which other readers do not know.
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.float32()), rows.shape[1])
        for name, rows in vectors.items()
    }
    fields = [
        pa.field(name, array.type, metadata={_MADE_BY: fingerprints[name].encode()})
        for name, array in arrays.items()
    ]
    schema = pa.schema([pa.field("sha256", pa.string()), *fields])
    table = pa.table([pa.array(keys, pa.string()), *arrays.values()], schema=schema)
    write_atomically(
        path, lambda file: pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    )


def matrix(column: pa.ChunkedArray) -> Floats:
    """A column of vectors as one array, [M, D]."""
    width = column.type.list_size
    pieces = [chunk.flatten().to_numpy().reshape(-1, width) for chunk in column.chunks]
    return np.concatenate([np.zeros((0, width), np.float32), *pieces])
