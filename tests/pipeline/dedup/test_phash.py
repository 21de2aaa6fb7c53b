"""Perceptual hashes: what moves them, and near pairs against every pair compared."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.dedup.phash import near_pairs, perceptual_hash


def _scene(seed: int, size: int = 160) -> Image.Image:
    """Low-frequency colours, as photographs have."""
    small = np.random.default_rng(seed).integers(0, 255, (7, 7, 3), np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def _bits_apart(left: Image.Image, right: Image.Image) -> int:
    one, other = perceptual_hash(left), perceptual_hash(right)
    assert one is not None and other is not None
    return (one ^ other).bit_count()


def _saved(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_picture_are_near_and_other_pictures_are_far(seed: int) -> None:
    picture = _scene(seed)
    copies = [
        picture.resize((90, 90)),
        _saved(picture, 60),
        picture.point(lambda value: min(255, int(value * 0.8) + 20)),
    ]
    assert all(_bits_apart(picture, copy) <= 2 for copy in copies)
    assert _bits_apart(picture, _scene(seed + 100)) > 8
    assert _bits_apart(picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 8


def test_a_flat_picture_has_no_hash() -> None:
    assert perceptual_hash(Image.new("RGB", (50, 50), (200, 30, 30))) is None
    assert perceptual_hash(_scene(0)) is not None


@pytest.mark.parametrize("max_bits", [0, 1, 2, 5])
def test_near_pairs_are_those_that_comparing_all_finds(max_bits: int) -> None:
    rng = np.random.default_rng(max_bits)
    centers = rng.integers(0, 2**63, 12, dtype=np.uint64)
    # Flips of 0 to 7 random bits around a few centres: many pairs on either side of the limit.
    hashes = np.unique(
        np.array(
            [
                center
                ^ np.bitwise_or.reduce(
                    np.uint64(1) << rng.integers(0, 64, flips).astype(np.uint64), initial=0
                )
                for center in centers
                for flips in (0, 1, 1, 2, 3, 4, 6, 7)
            ],
            np.uint64,
        )
    )
    every = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if int(hashes[i] ^ hashes[j]).bit_count() <= max_bits
    }
    i, j = near_pairs(hashes, max_bits)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == every
    assert len(i) == len(every)
    assert max_bits == 0 or every


def test_no_hashes_have_no_pairs() -> None:
    assert [edges.size for edges in near_pairs(np.zeros(0, np.uint64), 2)] == [0, 0]
