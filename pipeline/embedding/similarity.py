"""Cosines between embeddings: arrays in, arrays out."""

# Shapes: N pairs or vectors, D dimensions.

import numpy as np
from numpy.typing import NDArray

from pipeline.core.schema import DECIMALS

Floats = NDArray[np.floating]


def unit_rows(vectors_ND: Floats) -> NDArray[np.float64]:
    """Each row scaled to length 1, in float64.

    Raises:
        ValueError: A row is zero or not finite; its direction does not exist.
    """
    wide_ND = vectors_ND.astype(np.float64)
    norms_N = np.linalg.norm(wide_ND, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms_N) | (norms_N == 0))
    if bad.size:
        raise ValueError(
            f"embedding {int(bad[0])} of {len(norms_N)}: expected a finite, non-zero vector, got"
            f" norm {norms_N[bad[0]]}"
        )
    return wide_ND / norms_N[:, None]


def cosine(left_ND: Floats, right_ND: Floats) -> NDArray[np.float64]:
    """Cosine of each row pair, [N] in [-1, 1], rounded as it is stored and decided on.

        (1, 0) and (2, 0)  ->  1.0     (1, 0) and (0, 3)  ->  0.0     (1, 0) and (-1, 0)  ->  -1.0

    Raises:
        ValueError: A zero or non-finite vector.
    """
    products_N = np.einsum("nd,nd->n", unit_rows(left_ND), unit_rows(right_ND))
    # Adding 0.0 turns -0.0 into 0.0, so that equal decisions are equal bytes.
    return np.round(np.clip(products_N, -1.0, 1.0), DECIMALS) + 0.0


def caption_margin(
    text_ND: Floats, own_image_ND: Floats, other_image_ND: Floats
) -> NDArray[np.float64]:
    """How much better a caption fits its own image: cos(text, own) - cos(text, other), [N]."""
    text = unit_rows(text_ND)
    own_N = np.einsum("nd,nd->n", text, unit_rows(own_image_ND))
    other_N = np.einsum("nd,nd->n", text, unit_rows(other_image_ND))
    return np.round(own_N - other_N, DECIMALS) + 0.0
