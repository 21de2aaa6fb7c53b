"""From encoded bytes to pixels, safely: sizes are checked before decoding, and each failure has a name."""

import hashlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
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
        ImageError: reason "empty", "not_an_image", "too_many_pixels", "animated" or "truncated".
    """
    if not data:
        raise ImageError("empty", "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit below is the one that counts
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ImageError("not_an_image", f"{len(data)} bytes that no decoder knows") from error
    num_pixels = image.width * image.height
    if num_pixels > max_pixels:
        raise ImageError("too_many_pixels", f"{image.width}x{image.height}, more than {max_pixels} pixels")
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1:
        raise ImageError("animated", f"{image.format} with {num_frames} frames")
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("truncated", str(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to white when it converts; the upper byte is what an 8-bit file would hold.
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
