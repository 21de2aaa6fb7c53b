import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.core.images import (
    ImageError,
    data_uri,
    decode_rgb,
    encode_png,
    image_ending,
    pixels_sha256,
    upright_size,
)


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (8, 6), (255, 0, 0))


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (_bytes(RED, "PNG"), (255, 0, 0)),
        (_bytes(RED.convert("P"), "PNG"), (255, 0, 0)),
        (_bytes(Image.new("RGBA", (8, 6), (0, 0, 0, 0)), "PNG"), (255, 255, 255)),
        (_bytes(Image.new("CMYK", (8, 6), (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
        (_bytes(Image.fromarray(np.full((6, 8), 0x8000, np.uint16)), "PNG"), (128, 128, 128)),
        (_bytes(Image.new("L", (8, 6), 7), "PNG"), (7, 7, 7)),
    ],
    ids=["rgb", "palette", "transparent", "cmyk", "16 bit", "grey"],
)
def test_every_kind_of_picture_becomes_8_bit_rgb(data: bytes, colour: tuple[int, int, int]) -> None:
    image = decode_rgb(data)
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (8, 6), colour)


def test_a_picture_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    assert decode_rgb(_bytes(RED, "JPEG", exif=exif)).size == (6, 8)


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_in_the_header_is_that_of_the_decoded_picture(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(RED, kind, exif=exif)
    assert upright_size(data) == decode_rgb(data).size
    assert upright_size(data) == ((6, 8) if 5 <= orientation <= 8 else (8, 6))


def test_a_broken_exif_block_turns_nothing() -> None:
    data = _bytes(RED, "JPEG", exif=b"Exif\0\0 no TIFF header")
    assert upright_size(data) == decode_rgb(data).size == (8, 6)


@pytest.mark.parametrize("data", [b"", b"no picture", _bytes(RED, "PNG")[:20]])
def test_a_header_that_cannot_be_read_is_no_image(data: bytes) -> None:
    with pytest.raises(ImageError, match="not_an_image" if data else "empty"):
        upright_size(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture", "not_an_image"),
        (_bytes(RED.resize((400, 400)), "JPEG")[:-100], "truncated"),
        (_bytes(RED, "GIF", save_all=True, append_images=[RED.rotate(90)]), "animated"),
        (_bytes(Image.new("1", (30_000, 30_000)), "PNG"), "too_many_pixels"),
        (_bytes(Image.new("1", (60_000, 1)), "PNG"), "too_narrow"),
    ],
    ids=["empty", "text", "truncated", "animated", "bomb", "line"],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_rgb(data)
    assert caught.value.reason == reason


def test_equal_pixels_in_other_containers_have_one_hash() -> None:
    assert pixels_sha256(decode_rgb(_bytes(RED, "BMP"))) == pixels_sha256(
        decode_rgb(encode_png(RED))
    )
    assert pixels_sha256(RED) != pixels_sha256(RED.resize((6, 8)))


def test_a_phone_photograph_with_a_second_frame_is_its_first() -> None:
    assert decode_rgb(_bytes(RED, "MPO", save_all=True, append_images=[RED])).size == (8, 6)


def test_broken_exif_around_good_pixels_costs_nothing() -> None:
    broken = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x01"
    assert decode_rgb(_bytes(RED, "JPEG", exif=broken)).size == (8, 6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on broken EXIF
def test_no_broken_bytes_raise_anything_but_an_image_error() -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    originals = [
        _bytes(RED, kind, **({"exif": exif} if kind in ("JPEG", "WEBP") else {}))
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
    ]
    num_refused = 0
    for original in originals:
        for _ in range(400):
            data = bytearray(original)
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            try:
                decode_rgb(bytes(data), max_pixels=1_000_000)
            except ImageError:
                num_refused += 1
    assert num_refused > 100


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_upright_image_is_sent_as_it_is_where_any_server_can_read_it(kind: str) -> None:
    data = _bytes(RED, kind)
    encoded = base64.b64encode(data).decode()
    assert data_uri(data) == f"data:image/{kind.lower()};base64,{encoded}"


def test_any_other_image_is_sent_upright_as_png() -> None:
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    for image, kind, more in (
        (drawn.convert("CMYK"), "TIFF", {}),
        (drawn.convert("P"), "PNG", {}),
        (drawn, "BMP", {}),
        (drawn, "JPEG", {"exif": exif}),
    ):
        uri = data_uri(_bytes(image, kind, **more))
        assert uri.startswith("data:image/png;base64,")
        sent = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert sent.mode == "RGB" and sent.size == ((8, 12) if more else (12, 8))


def test_what_is_no_image_cannot_be_sent() -> None:
    with pytest.raises(ImageError, match="not_an_image"):
        data_uri(b"text")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_ending_is_told_by_the_bytes(name: str) -> None:
    ending = image_ending(_bytes(Image.new("RGB", (4, 4)), name))
    assert Image.registered_extensions()[f".{ending}"] == name


def test_bytes_that_are_no_image_have_no_ending() -> None:
    assert image_ending(b"") == image_ending(b"RIFF....WAVE") == image_ending(b"text") == ""
