"""What a server is asked, and how many tokens a picture counts for."""

import base64
import io

import pytest
from PIL import Image

from eval.generation.endpoint import messages_of
from eval.generation.generator import Request
from eval.generation.image_conditions import NO_IMAGE, ImageInput
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
