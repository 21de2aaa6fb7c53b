"""Stage `embed`: each unique image, and each caption where an encoder reads text, becomes a vector, chunk by chunk."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from PIL.Image import Image

from pipeline.encoders import Encoder, EncodersSection, open_encoders
from pipeline.images import decode_rgb
from pipeline.library import owned_images
from pipeline.recipe import RecipeError
from pipeline.schema import sha256_hex
from pipeline.store import Stage, StoreError, read_table, write_table

VERSION = 1

# Images held as pixels at a time: at most so many, and no more than one beyond so many pixels (300 MB).
MAX_DECODED, MAX_DECODED_PIXELS = 64, 100_000_000


def embed_chunk(ingest: Stage, stage: Stage, encoders: Sequence[Encoder], index: int) -> dict[str, int]:
    """Embeds the images that chunk `index` owns with every encoder on one decode, and its captions; returns counts."""
    images = owned_images(ingest, index)
    keys = images.column("sha256").to_pylist()
    vectors: dict[str, list[Any]] = {encoder.name: [] for encoder in encoders}
    for pictures in _decoded(images.column("bytes")):
        for encoder in encoders:
            vectors[encoder.name].extend(encoder.encode_images(pictures))
    columns = {"sha256": pa.array(keys, pa.string())}
    columns |= {name: _vector_array(rows) for name, rows in vectors.items()}
    write_table(stage.part("texts", index), _embed_captions(ingest, encoders, index))
    # The images come last: their presence means that the chunk is complete.
    write_table(stage.part("images", index), pa.table(columns))
    return {"images": len(keys)}


def _decoded(encoded: pa.ChunkedArray) -> Iterator[list[Image]]:
    """The pictures in order, a few at a time: two threads decode, and a budget of pixels bounds memory."""
    batch: list[Image] = []
    num_pixels = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for start in range(0, len(encoded), 2):
            for picture in pool.map(decode_rgb, encoded.slice(start, 2).to_pylist()):
                batch.append(picture)
                num_pixels += picture.width * picture.height
                if len(batch) == MAX_DECODED or num_pixels >= MAX_DECODED_PIXELS:
                    yield batch
                    batch, num_pixels = [], 0
    if batch:
        yield batch


def _embed_captions(ingest: Stage, encoders: Sequence[Encoder], index: int) -> pa.Table:
    rows = read_table(ingest.part("rows", index), ["caption_a", "caption_b", "drop_reason"]).to_pylist()
    captions = sorted({row[f"caption_{side}"] for row in rows if not row["drop_reason"] for side in "ab"})
    columns = {"sha256": pa.array([sha256_hex(caption.encode()) for caption in captions], pa.string())}
    for encoder in encoders:
        encode_texts = getattr(encoder, "encode_texts", None)
        if encode_texts is not None and captions:
            columns[encoder.name] = _vector_array(encode_texts(captions))
    return pa.table(columns)


def _vector_array(rows: Sequence[Any]) -> pa.Array:
    # Fixed-size lists of float32, not Ray's tensor type, which other readers do not know.
    width = len(rows[0]) if len(rows) else 1
    flat = np.concatenate([np.asarray(row, np.float32) for row in rows]) if len(rows) else np.zeros(0, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), width)


class EmbedChunks:
    """Embeds one chunk per call with encoders that are loaded once per worker."""

    def __init__(self, ingest: Stage, stage: Stage, section: EncodersSection, num_threads: int) -> None:
        self._ingest, self._stage, self._section, self._num_threads = ingest, stage, section, num_threads
        self._encoders: list[Encoder] = []

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            self._open()
            for index in batch["index"]:
                embed_chunk(self._ingest, self._stage, self._encoders, int(index))
        except (RecipeError, StoreError) as error:
            # Raised here it would reach the user as the death of an actor, with its kind lost on the way.
            return {"index": batch["index"], "error": np.array([str(error)] * len(batch["index"]))}
        return {"index": batch["index"], "error": np.array([""] * len(batch["index"]))}

    def _open(self) -> None:
        if self._encoders:
            return
        if self._section.clip is not None or self._section.dinov2 is not None:
            import torch

            # Ray gives a worker with a fraction of a CPU a single thread unless it asks for more.
            torch.set_num_threads(self._num_threads)
        self._encoders = open_encoders(self._section)


def read_vectors(stage: Stage, kind: str, num_chunks: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """All vectors of one kind ("images" or "texts"): row by content id, and one [rows, D] float32 array per encoder."""
    tables = [read_table(stage.part(kind, index)) for index in range(num_chunks)]
    tables = [table for table in tables if table.num_rows]
    keys = [key for table in tables for key in table.column("sha256").to_pylist()]
    names = [name for name in tables[0].column_names if name != "sha256"] if tables else []
    arrays = {name: np.concatenate([_matrix(table.column(name)) for table in tables]) for name in names}
    return {key: row for row, key in enumerate(keys)}, arrays


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    matrix: np.ndarray = array.values.to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return matrix
