import io

import numpy as np
import pytest
from PIL import Image

from pipeline.config import NormalizeSection
from pipeline.core.images import ImageError, decode_rgb
from pipeline.stages.normalize import normalize_bytes

FORMATS = ("jpeg", "png", "webp")


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reencode(**fields) -> NormalizeSection:
    return NormalizeSection(mode="reencode", **fields)


def test_keep_is_the_default_and_changes_nothing_not_even_what_is_no_image():
    assert normalize_bytes(b"no image", NormalizeSection()) == b"no image"


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"scale": 1.0}, (100, 60)),
        ({"scale": 0.75}, (75, 45)),
        ({"scale": 1.0, "max_px": 50}, (50, 30)),
        ({"scale": 0.25, "max_px": 50}, (25, 15)),
        ({"scale": 1.0, "max_px": 500}, (100, 60)),
    ],
)
def test_the_smaller_of_scale_and_longest_side_decides_and_nothing_is_enlarged(fields, size):
    assert (
        decode_rgb(normalize_bytes(encoded(picture(100, 60), "PNG"), reencode(**fields))).size
        == size
    )


def test_no_side_shrinks_to_nothing():
    assert decode_rgb(
        normalize_bytes(encoded(picture(40, 1), "PNG"), reencode(scale=0.25))
    ).size == (10, 1)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_chosen_format_is_written_the_same_for_the_same_pixels_in_any_container(kind):
    image = picture(50, 40)
    written = {
        normalize_bytes(encoded(image, container), reencode(format=kind))
        for container in ("PNG", "BMP", "TIFF")
    }
    assert len(written) == 1
    assert Image.open(io.BytesIO(written.pop())).format == kind.upper()


def test_png_at_full_scale_loses_nothing():
    image = picture(50, 40)
    kept = decode_rgb(normalize_bytes(encoded(image, "BMP"), reencode(format="png", scale=1.0)))
    assert kept.tobytes() == image.tobytes()


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_a_lower_quality_takes_fewer_bytes(kind):
    sizes = [
        len(
            normalize_bytes(encoded(picture(64, 64), "PNG"), reencode(format=kind, quality=quality))
        )
        for quality in (30, 75, 95)
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_rotated_photo_is_written_upright_and_without_its_metadata(kind):
    exif = Image.Exif()
    exif[274] = 6  # orientation: to be turned by 90 degrees
    exif[271] = "maker"
    data = encoded(picture(80, 40), "JPEG", exif=exif, icc_profile=b"profile", comment=b"comment")
    written = Image.open(io.BytesIO(normalize_bytes(data, reencode(format=kind, scale=1.0))))
    written.load()
    assert written.size == (40, 80)
    assert not written.getexif()
    assert not {"icc_profile", "comment", "exif"} & set(written.info)


def test_transparency_becomes_white_and_does_not_come_back():
    image = Image.new("RGB", (16, 16), (255, 0, 0))
    written = Image.open(
        io.BytesIO(
            normalize_bytes(encoded(image, "PNG", transparency=(255, 0, 0)), reencode(format="png"))
        )
    )
    assert written.mode == "RGB"
    assert "transparency" not in written.info
    assert written.getpixel((0, 0)) == (255, 255, 255)


def test_an_image_that_cannot_be_decoded_is_named_when_it_is_to_be_written_anew():
    with pytest.raises(ImageError, match="not_an_image"):
        normalize_bytes(b"no image", reencode())
