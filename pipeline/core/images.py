"""From encoded bytes to pixels, safely: sizes are checked first, and each failure has a name."""

import base64
import contextlib
import hashlib
import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps

MAX_PIXELS = 100_000_000
MAX_ASPECT = 50  # encoders enlarge the short side to a few hundred pixels, and the long one with it
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ENDINGS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}
_SENT_AS_THEY_ARE = ("JPEG", "PNG", "WEBP")


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
    image = _opened(data, max_pixels)
    try:
        image.load()
        return upright_rgb(image)
    # on broken bytes Pillow's readers raise anything: struct.error, IndexError, TypeError ..
    except Exception as error:
        raise ImageError("truncated", f"{type(error).__name__}: {error}") from error


def _opened(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A file of which the header is read and found fit; its pixels may still be broken."""
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
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as a person sees it: EXIF-rotated, 8-bit RGB, transparency on white."""
    with contextlib.suppress(Exception):  # a broken EXIF block around pixels that are fine
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey to white when it converts; the upper byte is what an 8-bit file
        # would hold.
        gray = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(gray)
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def orientation(image: Image.Image) -> int:
    """How the pixels of an opened file lie, as EXIF counts: 1 is upright, 5 to 8 on their side."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block around pixels that are fine
        return 1


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of the picture that `decode_rgb` makes, by the header alone.

    Raises:
        ImageError: As `decode_rgb`, but for pixels that are broken.
    """
    with _opened(data) as image:
        # Pillow states the size of a TIFF upright already.
        is_turned = image.format != "TIFF" and 5 <= orientation(image) <= 8
        return (image.height, image.width) if is_turned else image.size


def pixels_sha256(image: Image.Image) -> str:
    """sha256 over size and RGB pixels: equal for copies in other containers."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def encode_png(image: Image.Image) -> bytes:
    """Lossless bytes of an image; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def media_type_as_it_is(data: bytes) -> str | None:
    """The type of a picture that any server shows as `decode_rgb` does, or None.

    It is so for still JPEG, PNG and WebP files of plain colors that need no turning.
    """
    # Of the header alone; where that is broken Pillow's readers raise anything. Decoding then says
    # why, or leaves a broken EXIF block behind, over which a server might stumble.
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        is_plain = image.mode in ("RGB", "L") and "transparency" not in image.info
        is_still = getattr(image, "n_frames", 1) == 1
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        if image.format in _SENT_AS_THEY_ARE and is_plain and is_still and is_upright:
            return Image.MIME[image.format]
    return None


def data_uri(data: bytes) -> str:
    """An image as a server of any kind can read it, upright: a data URI.

    JPEG, PNG and WebP that are shown as they are stored go as they are, all else as PNG.

    Raises:
        ImageError: The image cannot be used.
    """
    media_type = media_type_as_it_is(data)
    if media_type is None:
        media_type, data = "image/png", encode_png(decode_rgb(data))
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image_ending(data: bytes) -> str:
    """The usual ending of a file with these first bytes ("jpg", "png" ..), or "" for no image."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((ending for start, ending in _ENDINGS.items() if data.startswith(start)), "")
