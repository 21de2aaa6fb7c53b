"""64-bit keys: what names a picture, a group or a pair in the columns that decide."""

import numpy as np

# Stands where there is no key: Parquet's null, in arrays that cannot hold one.
NULL_KEY = int(np.iinfo(np.int64).min)


def hash_key(sha256: str) -> int:
    """The first 64 bits of a sha256 in hex, as the signed number that Parquet and numpy hold."""
    return signed(int(sha256[:16], 16))


def signed(bits: int) -> int:
    """64 bits read as a signed number."""
    return bits - (1 << 64) if bits >= 1 << 63 else bits
