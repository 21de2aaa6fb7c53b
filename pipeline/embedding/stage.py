"""Stage `embed`: unique images, and captions where an encoder reads text, become vectors."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.core.images import decode_rgb
from pipeline.core.schema import sha256_hex
from pipeline.core.storage import Stage, read_table
from pipeline.embedding.cache import KnownVectors, write_vectors
from pipeline.embedding.encoders import Encoder, Encoders, EncodersSection, TextEncoder
from pipeline.embedding.pixels import Floats
from pipeline.storage.image_store import owned_images

VERSION = 2

TEXT_ENCODERS = ("clip",)
# the stages that embed; a text is embedded once, whether as a caption or as an answer
MAKERS_OF_VECTORS = ("embed", "verify")

T = TypeVar("T")
U = TypeVar("U")


def embed_chunk(
    ingest: Stage, stage: Stage, encoders: Encoders, index: int, num_threads: int = 2
) -> None:
    """Writes the vectors of the images that a chunk owns and of its captions.

    Those that an earlier part holds are not made again.

    Args:
        num_threads: How many pictures are decoded and prepared at a time, beside the model.
    """
    rows = read_table(
        ingest.part("rows", index), ["caption_a", "caption_b", "drop_reason"]
    ).to_pylist()
    captions = {row[f"caption_{side}"] for row in rows if not row["drop_reason"] for side in "ab"}
    embed_texts(stage, index, captions, encoders)
    images = owned_images(ingest, index)

    def images_by(missing: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
        opened = {name: encoders.open(name) for name in missing}
        return embed_images(images["bytes"], opened, missing, num_threads)

    # The images come last: their presence means that the chunk is complete.
    write_part(
        stage, "images", index, images["sha256"].to_pylist(), encoders.fingerprints, images_by
    )


def embed_texts(stage: Stage, index: int, texts: Set[str], encoders: Encoders) -> None:
    """Writes the vectors of texts, in ascending order, by the encoders that read them."""
    ordered = sorted(texts)

    def texts_by(missing: Mapping[str, Sequence[int]]) -> dict[str, Floats]:
        vectors = {}
        for name, places in missing.items():
            encoder = encoders.open(name)
            assert isinstance(encoder, TextEncoder)
            vectors[name] = encoder.encode_texts([ordered[place] for place in places])
        return vectors

    read_text = {
        name: made_by for name, made_by in encoders.fingerprints.items() if name in TEXT_ENCODERS
    }
    keys = [sha256_hex(text.encode()) for text in ordered]
    write_part(stage, "texts", index, keys, read_text, texts_by)


def write_part(
    stage: Stage,
    kind: str,
    index: int,
    keys: Sequence[str],
    fingerprints: Mapping[str, str],
    make: Callable[[Mapping[str, Sequence[int]]], dict[str, Floats]],
) -> None:
    """Writes one part of vectors from what is known and what `make` makes of the rest.

    Args:
        kind: "images" or "texts"; known are those in every part of that kind, also of other stages,
            below the work folder.
        fingerprints: By encoder name.
        make: Given places in `keys` by encoder, makes their vectors.
    """
    known = _known_vectors(stage.folder, kind, tuple(sorted(fingerprints.items())))
    taken = {name: known.take(name, keys) for name in fingerprints}
    missing = {
        name: np.setdiff1d(np.arange(len(keys)), places).tolist()
        for name, (places, _) in taken.items()
    }
    made = make({name: places for name, places in missing.items() if places})
    vectors: dict[str, Floats] = {}
    for name, (places, old) in taken.items():
        parts = [rows for rows in (old, made.get(name)) if rows is not None]
        if parts:  # without a single vector its width is not known, and the column stays out
            order = np.argsort(np.concatenate([places, missing[name]]))
            vectors[name] = np.concatenate(parts)[order]
    write_vectors(stage.part(kind, index), keys, vectors, fingerprints)


@lru_cache(maxsize=2)
def _known_vectors(
    folder: Path, kind: str, fingerprints: tuple[tuple[str, str], ...]
) -> KnownVectors:
    """Listed once per worker process: all stages of this work folder lie side by side."""
    return KnownVectors(
        [folder.parents[1] / name for name in MAKERS_OF_VECTORS], kind, dict(fingerprints)
    )


def embed_images(
    encoded: pa.ChunkedArray,
    encoders: Mapping[str, Encoder],
    wanted: Mapping[str, Sequence[int]],
    num_threads: int,
) -> dict[str, Floats]:
    """Each encoder's vectors of its wanted images, [N, D], one decode for all.

    While a model works on one batch, threads decode and prepare the next: memory holds that many
    prepared pictures, and one decoded picture per thread.

    Args:
        encoded: Bytes of images that are known to decode.
        wanted: Places in `encoded` by encoder, ascending.
    """
    wanted_by = {name: set(places) for name, places in wanted.items()}
    waiting: dict[str, list[Any]] = {name: [] for name in wanted}
    vectors: dict[str, list[Floats]] = {name: [] for name in wanted}

    def prepare(place: int) -> dict[str, Any]:
        picture = decode_rgb(encoded[place].as_py())
        return {
            name: encoders[name].prepare(picture) for name in wanted if place in wanted_by[name]
        }

    num_ahead = max((encoders[name].batch_images for name in wanted), default=0)
    places = sorted(set[int]().union(*wanted.values()))
    for prepared in _ahead(prepare, places, num_threads, num_ahead):
        for name, picture in prepared.items():
            waiting[name].append(picture)
            if len(waiting[name]) == encoders[name].batch_images:
                vectors[name].append(encoders[name].encode_images(waiting[name]))
                waiting[name] = []
    for name, rest in waiting.items():
        if rest:
            vectors[name].append(encoders[name].encode_images(rest))
    return {name: np.concatenate(batches) for name, batches in vectors.items() if batches}


def _ahead(
    work: Callable[[T], U], items: Iterable[T], num_threads: int, num_ahead: int
) -> Iterator[U]:
    """`work` over items in order, done by threads at most `num_ahead` items early."""
    with ThreadPoolExecutor(num_threads) as pool:
        running: deque[Future[U]] = deque()
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) > num_ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


class EmbedChunks:
    """Embeds one chunk per call with encoders that are loaded once per worker."""

    kind = "images"  # the parts whose presence means that a chunk is complete

    def __init__(
        self, upstream: Stage, stage: Stage, section: EncodersSection, num_threads: int
    ) -> None:
        self._upstream, self._stage, self._num_threads = upstream, stage, num_threads
        self._encoders = Encoders(section)

    def __call__(self, index: int) -> None:
        # A worker that dies between writing a part and saying so is asked for it again.
        if not self._stage.part(self.kind, index).is_file():
            self._embed(index)

    def _embed(self, index: int) -> None:
        embed_chunk(self._upstream, self._stage, self._encoders, index, self._num_threads)
