"""64-bit keys: what names a picture, a group or a pair in the columns that decide."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Stands where there is no key: Parquet's null, in arrays that cannot hold one.
NULL_KEY = int(np.iinfo(np.int64).min)


def hash_key(sha256: str) -> int:
    """The first 64 bits of a sha256 in hex, as the signed number that Parquet and numpy hold."""
    return signed(int(sha256[:16], 16))


def signed(bits: int) -> int:
    """64 bits read as a signed number."""
    return bits - (1 << 64) if bits >= 1 << 63 else bits


def hash_keys(sha256s: Sequence[str]) -> NDArray[np.uint64]:
    """The first 64 bits of each sha256 in hex, [N].

    At ten million images two share one with probability 3e-6.
    """
    return np.array([int(sha256[:16], 16) for sha256 in sha256s], np.uint64)
