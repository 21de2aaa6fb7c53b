"""Images that must not be in the data: those of benchmarks.

They are read from folders, Parquet files or Hub data sets.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.hashing import NULL_KEY, hash_key, signed
from pipeline.core.images import ImageError, decode_rgb, pixels_sha256
from pipeline.core.recipe import RecipeError
from pipeline.dedup.phash import NUM_BITS, Ints, perceptual_hash

_IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def benchmark_keys(place: str) -> tuple[Ints, Ints]:
    """Keys of pixels and perceptual hashes of all images of a benchmark, sorted and unique.

    Raises:
        RecipeError: Nothing there, or no image in it.
    """
    pixels, hashes = [], []
    for data in _encoded_images(place):
        try:
            image = decode_rgb(data)
        except ImageError:
            continue  # what does not decode cannot be equal to an image that does
        pixels.append(hash_key(pixels_sha256(image)))
        seen = perceptual_hash(image)
        if seen is not None:
            hashes.append(signed(seen))
    if not pixels:
        raise RecipeError(
            f"links.benchmarks: {place!r} holds no image that can be read; expected a folder with"
            " images or Parquet files"
        )
    return np.unique(np.array(pixels, np.int64)), np.unique(np.array(hashes, np.int64))


def folder_identity(place: str) -> list[object]:
    """What changes with a benchmark's folder: name, size and time of each file.

    Of a Hub data set it is the name alone.
    """
    files = sorted(path for path in Path(place).rglob("*") if path.is_file())
    return [
        [str(path.relative_to(place)), path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    ] or [place]


def _encoded_images(place: str) -> Iterator[bytes]:
    folder = Path(place)
    if not folder.is_dir():
        yield from _hub_images(place)
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _IMAGE_ENDINGS and path.is_file():
            yield path.read_bytes()
        elif path.suffix == ".parquet" and path.is_file():
            yield from _parquet_images(path)


def _parquet_images(path: Path) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [
            field.name
            for field in file.schema_arrow
            if str(field.type).startswith("struct<bytes: binary")
        ]
        for batch in file.iter_batches(batch_size=64, columns=names):
            for name in names:
                yield from (
                    row["bytes"] for row in batch.column(name).to_pylist() if row and row["bytes"]
                )


def _hub_images(name: str) -> Iterator[bytes]:
    import datasets

    try:
        splits = datasets.load_dataset(name, streaming=True)
    # the library raises many kinds for one fact: this data set cannot be had here
    except Exception as error:
        raise RecipeError(
            f"links.benchmarks: {name!r} is neither a folder nor a data set that can be loaded"
            f" ({error})"
        ) from error
    for split in splits.values():
        columns = [
            column
            for column, feature in (split.features or {}).items()
            if isinstance(feature, datasets.Image)
        ]
        for column in columns:
            split = split.cast_column(column, datasets.Image(decode=False))
        for row in split.select_columns(columns):
            yield from (value["bytes"] for value in row.values() if value and value["bytes"])


def in_benchmark(
    pixels: Ints, hashes: Ints, known: tuple[Ints, Ints], max_bits: int | None
) -> NDArray[np.bool_]:
    """Which images are a benchmark's: equal pixels, or perceptual hashes that are near, [N].

    Args:
        pixels, hashes: Keys of the images, [N]; NULL_KEY where there is none.
        known: What `benchmark_keys` found.
    """
    is_known = np.isin(pixels, known[0]) & (pixels != NULL_KEY)
    if max_bits is None:
        return is_known
    nearest = np.full(len(hashes), NUM_BITS + 1, np.uint8)
    for known_hash in known[1].view(np.uint64):
        np.minimum(nearest, np.bitwise_count(hashes.view(np.uint64) ^ known_hash), out=nearest)
    return is_known | ((hashes != NULL_KEY) & (nearest <= max_bits))
