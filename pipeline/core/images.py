"""From encoded bytes to pixels, safely: sizes are checked before decoding, and each failure has a
name.
"""

import hashlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000
MAX_ASPECT = 50  # encoders enlarge the short side to a few hundred pixels, and the long one with it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(ValueError):
    """An image that cannot be used. `reason` is the fact in snake case, for example "truncated"."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as a person sees it: EXIF-rotated, 8-bit RGB, transparency on white.

    Args:
        max_pixels: Width times height beyond which an image is refused before it is decoded.

    Raises:
        ImageError: reason "empty", "not_an_image", "too_many_pixels", "too_narrow", "animated" or
            "truncated".
    """
    if not data:
        raise ImageError("empty", "0 bytes")
    try:
        with warnings.catch_warnings():
            # our own limit below is the one that counts
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except Exception as error:  # UnidentifiedImageError as a rule; on broken headers anything
        raise ImageError("not_an_image", f"{len(data)} bytes that no decoder knows") from error
    num_pixels = image.width * image.height
    if num_pixels > max_pixels:
        raise ImageError(
            "too_many_pixels", f"{image.width}x{image.height}, more than {max_pixels} pixels"
        )
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(
            "too_narrow", f"{image.width}x{image.height}, sides of more than {MAX_ASPECT} to 1"
        )
    try:
        # MPO is how many phones store a photograph: a JPEG whose first frame is the picture.
        num_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception as error:
        raise ImageError("truncated", f"{type(error).__name__}: {error}") from error
    if num_frames > 1:
        raise ImageError("animated", f"{image.format} with {num_frames} frames")
    try:
        image.load()
        return _to_rgb(_upright(image))
    # on broken bytes Pillow's readers raise anything: struct.error, IndexError, TypeError ..
    except Exception as error:
        raise ImageError("truncated", f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block around pixels that are fine
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to white when it converts; the upper byte is what an 8-bit file
        # would hold.
        grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def pixels_sha256(image: Image.Image) -> str:
    """sha256 over size and RGB pixels: equal for copies in other containers."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def encode_png(image: Image.Image) -> bytes:
    """Lossless bytes of an image; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
