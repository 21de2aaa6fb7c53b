"""Perceptual hashes: pictures that look alike have 64-bit hashes that differ in few bits.

Pure functions.
"""

# Shapes: N hashes, U unique hashes, E edges.

import itertools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ints = NDArray[np.int64]

NUM_BITS = 64
_SIDE = 32
# A picture without this much contrast (grey levels, standard deviation) has no structure to hash.
MIN_CONTRAST = 2.0


def perceptual_hash(image: Image.Image) -> int | None:
    """64 bits of how a picture looks at low frequencies; None for one that is all but flat.

    Grey, 32 x 32 (bicubic over the area), DCT-II; of the 8 x 8 frequencies (1..8, 1..8) each bit
    says whether the coefficient is above their median. Brightness, contrast, size and recompression
    hardly move it.
    """
    gray = np.asarray(
        image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), dtype=np.float64
    )
    if gray.std() < MIN_CONTRAST:
        return None
    place, frequency = np.arange(_SIDE)[None, :], np.arange(9)[:, None]
    # rows 0..8 of the 32-point DCT-II
    rows = np.cos(np.pi * (2 * place + 1) * frequency / (2 * _SIDE))
    coefficients = (rows @ gray @ rows.T)[1:9, 1:9].ravel()
    return int(np.packbits(coefficients > np.median(coefficients)).view(">u8")[0])


def near_pairs(hashes: NDArray[np.uint64], max_bits: int) -> tuple[Ints, Ints]:
    """All pairs (i < j) of hashes that differ in at most `max_bits` bits, as two index arrays [E].

    Two hashes that differ in at most k bits agree in one of k + 1 bands of bits: each band is
    sorted once, and only neighbours with an equal band are compared.
    """
    num_bands = max_bits + 1
    edges = [NUM_BITS * band // num_bands for band in range(num_bands + 1)]
    pairs = [np.zeros((2, 0), np.int64)]
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        sorted_band, sorted_hashes = band[order], hashes[order]
        for apart in range(1, len(hashes)):
            same = np.flatnonzero(sorted_band[apart:] == sorted_band[:-apart])
            if not same.size:
                break
            differing = np.bitwise_count(sorted_hashes[same] ^ sorted_hashes[same + apart])
            near = same[differing <= max_bits]
            pairs.append(np.stack([order[near], order[near + apart]]))
    heads, tails = np.unique(np.sort(np.concatenate(pairs, axis=1), axis=0), axis=1)
    return heads, tails
