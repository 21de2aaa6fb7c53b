"""The weight-free encoder `pixels`: the low-level look of a picture in 320 numbers.

No torch, no meaning.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

VERSION = 1


class PixelsEncoder:
    """`pixels_descriptor` as an encoder (`pipeline.embedding.encoders.Encoder`)."""

    batch_images = 64

    def prepare(self, image: Image.Image) -> Floats:
        """The descriptor itself: all of the work is done per picture."""
        return pixels_descriptor(image)

    def encode_images(self, prepared: Sequence[Floats]) -> Floats:
        """Descriptors, [N, 320]."""
        return np.stack(prepared)


def pixels_descriptor(image: Image.Image) -> Floats:
    """Low-level look of a picture in 320 numbers: where which colours and edges are.

    No weights, no meaning. The picture is resized to 64 x 64 (box filter). Half of the descriptor
    are the mean R, G, B of an 8 x 8 grid, in [-0.5, 0.5] (192 numbers); the other half are, for
    each cell of a 4 x 4 grid, the gradient magnitude in 8 unsigned orientations (128 numbers). Each
    half is scaled to length 1 (a half that is all zero, as a flat picture's edges, stays zero but
    for a constant first entry), so both weigh the same in a cosine.
    """
    small = image.resize((64, 64), Image.Resampling.BOX)
    rgb = np.asarray(small, dtype=np.float32) / 255.0
    colors = rgb.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).ravel() - 0.5
    dy, dx = np.gradient(rgb.mean(axis=2))
    strength = np.hypot(dx, dy)
    bins = ((np.arctan2(dy, dx) % np.pi) / np.pi * 8).astype(np.int64) % 8
    cells = (np.arange(64) // 16)[:, None] * 4 + (np.arange(64) // 16)[None, :]
    edges = np.bincount((cells * 8 + bins).ravel(), weights=strength.ravel(), minlength=128).astype(
        np.float32
    )
    return np.concatenate([_unit(colors), _unit(edges)])


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    if length < 1e-6:
        return np.eye(1, len(vector), dtype=np.float32)[0]
    return vector / np.float32(length)
