"""What a server is asked, and how many tokens a picture counts for."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from eval.config import EvalSection
from eval.generation.endpoint import messages_of
from eval.generation.generator import Request, decoding
from eval.generation.image_conditions import NO_IMAGE, ImageInput
from pipeline.core.images import decode_rgb
from pipeline.core.recipe import UserError
from pipeline.llm.protocol import ASSUMED_IMAGE_TOKENS, message_tokens


def request(image_input: ImageInput) -> Request:
    return Request("k", "", "set: item 1 (image)", "What is it?", image_input, 8)


def test_the_image_comes_before_the_question_with_its_own_type() -> None:
    for kind, media_type in (("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, kind)
        image, question = messages_of(request(ImageInput(buffer.getvalue(), "s")))[0]["content"]
        head, _, data = image["image_url"]["url"].partition(",")
        assert head == f"data:{media_type};base64"
        assert base64.b64decode(data) == buffer.getvalue()
        assert question == {"type": "text", "text": "What is it?"}


def test_without_an_image_the_question_is_a_plain_text() -> None:
    assert messages_of(request(NO_IMAGE)) == [{"role": "user", "content": "What is it?"}]


def test_a_blank_image_is_drawn_for_the_server() -> None:
    url = messages_of(request(ImageInput(blank_px=(5, 3))))[0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (5, 3)


def test_a_photograph_taken_with_the_camera_on_its_side_is_sent_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8)).save(buffer, "JPEG", exif=exif)
    shown = ImageInput(buffer.getvalue(), "s")
    url = messages_of(request(shown))[0]["content"][0]["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (8, 12)


def files() -> dict[str, bytes]:
    """The same drawing in many containers."""
    drawn = Image.linear_gradient("L").resize((12, 8))
    colors = Image.merge("RGB", (drawn, drawn.rotate(180), Image.new("L", (12, 8), 90)))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = colors.copy()
    clear.putalpha(drawn)
    kept = {
        "TIFF": (colors, {}),
        "BMP": (colors, {}),
        "GIF": (colors.quantize(8), {}),
        "PNG palette": (colors.quantize(8), {}),
        "PNG clear palette": (colors.quantize(8), {"transparency": 0}),
        "PNG clear color": (colors, {"transparency": colors.getpixel((3, 3))}),
        "PNG alpha": (clear, {}),
        "PNG gray": (drawn, {}),
        "PNG clear gray": (drawn, {"transparency": drawn.getpixel((3, 3))}),
        "PNG 16 bits": (Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600), {}),
        "JPEG CMYK": (colors.convert("CMYK"), {}),
        "WEBP alpha": (clear, {"lossless": True}),
        "WEBP": (colors, {}),
        **{f"{kind} turned": (colors, {"exif": exif}) for kind in ("JPEG", "PNG", "WEBP", "TIFF")},
    }
    written = {}
    for name, (image, options) in kept.items():
        buffer = io.BytesIO()
        image.save(buffer, name.split()[0], **options)
        written[name] = buffer.getvalue()
    return written


@pytest.mark.parametrize("name", files())
def test_a_server_is_shown_the_pixels_that_a_local_model_sees(name: str) -> None:
    data = files()[name]
    url = messages_of(request(ImageInput(data, "s")))[0]["content"][0]["image_url"]["url"]
    head, _, sent = url.partition(",")
    assert head in (f"data:image/{kind};base64" for kind in ("png", "jpeg", "webp"))
    with Image.open(io.BytesIO(base64.b64decode(sent))) as shown:
        assert shown.mode in ("RGB", "L") and "transparency" not in shown.info
        assert shown.getexif().get(0x0112, 1) == 1
        assert shown.convert("RGB").tobytes() == decode_rgb(data).tobytes()


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_a_film_is_refused_as_it_is_for_a_local_model(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(
        buffer, kind, save_all=True, append_images=[Image.new("RGB", (4, 4), "red")]
    )
    with pytest.raises(UserError, match="animated"):
        messages_of(request(ImageInput(buffer.getvalue(), "s")))


def test_an_answer_to_a_picture_that_lay_on_its_side_is_not_used_again() -> None:
    recipe = EvalSection.model_validate(
        {"out": "o", "endpoint": {"model": "m"}, "benchmarks": [{"name": "mmvp", "source": "s"}]}
    )
    of = {name: decoding(recipe, 8, ImageInput(data, "s")) for name, data in files().items()}
    assert of["WEBP"] == of["PNG gray"] == decoding(recipe, 8)  # what was kept is still found
    assert of["JPEG turned"] == of["TIFF"] != of["WEBP"]


def test_an_image_that_cannot_be_used_is_named() -> None:
    with pytest.raises(UserError, match=r"set: item 1 \(image\): its image cannot be used"):
        messages_of(request(ImageInput(b"no image", "s")))


def test_a_picture_counts_the_same_however_many_bytes_it_has() -> None:
    def asked(size: int) -> list[dict[str, object]]:
        return [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "x" * size}},
                    {"type": "text", "text": "?"},
                ],
            }
        ]

    assert message_tokens(asked(10)) == message_tokens(asked(100_000))
    # the question mark in quotes, and what wraps a message
    assert message_tokens(asked(10)) == ASSUMED_IMAGE_TOKENS + 1 + 4
