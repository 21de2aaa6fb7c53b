"""Draws docs/pair.png, the README's picture: one built-in pair, its question and answers, and what
S-VCO asks of each answer.

    python docs/make_picture.py

The pair is real: `draw_pair` and the template make it as a build does. Nothing else is needed, no
weights and no network.
"""

import io
import sys
from pathlib import Path

from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.schema import Candidate
from pipeline.rewrite.template import Written, write
from pipeline.sources.scenes.source import ScenesSection, draw_pair

PAGE = Path(__file__).resolve().parent / "pair.png"
WIDTH, HEIGHT = 1080, 540
SIDE, TOP = 230, 100  # of a picture, in pixels
CENTRES = (210, 540, 870)  # of image a, no image, image b
INK, PALE, GREEN, RED = "#1c2733", "#8a94a0", "#1d7a46", "#b3342d"
PAIR = 9  # of seed 1: a plain one


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")), size
    )


def draw(pair: Candidate, written: Written) -> Image.Image:
    """The picture: two images with "no image" between them, and below each answer which condition
    it is to prefer.
    """
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(page)
    pen.text((WIDTH / 2, 36), written.question, INK, _font(24, bold=True), anchor="mm")
    for center, title, data in zip(
        CENTRES, ("image a", "no image", "image b"), (pair.image_a, None, pair.image_b), strict=True
    ):
        pen.text((center, TOP - 16), title, PALE, _font(17), anchor="mm")
        corner = (center - SIDE // 2, TOP)
        if data is None:
            pen.rectangle((*corner, corner[0] + SIDE, TOP + SIDE), outline=PALE, width=2)
        else:
            picture = Image.open(io.BytesIO(data)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            page.paste(picture, corner)
    _row(pen, 388, "answer a", written.answer_a, left_to_right=True)
    _row(pen, 476, "answer b", written.answer_b, left_to_right=False)
    return page


def _row(pen: ImageDraw.ImageDraw, y: int, name: str, answer: str, *, left_to_right: bool) -> None:
    """One answer, and between the conditions which of two is to make it likelier."""
    pen.text((WIDTH / 2, y - 18), f"{name}:  {answer}", INK, _font(21), anchor="mm")
    own, wrong = (CENTRES[0], CENTRES[2]) if left_to_right else (CENTRES[2], CENTRES[0])
    sign = ">" if left_to_right else "<"
    pen.text((own, y + 18), "likeliest here", GREEN, _font(18, bold=True), anchor="mm")
    pen.text((wrong, y + 18), "least likely here", RED, _font(18, bold=True), anchor="mm")
    pen.text(
        ((own + CENTRES[1]) / 2, y + 18), f"{sign}  attend  {sign}", GREEN, _font(18), anchor="mm"
    )
    pen.text(
        ((wrong + CENTRES[1]) / 2, y + 18), f"{sign}  reject  {sign}", RED, _font(18), anchor="mm"
    )
    pen.text((CENTRES[1], y + 18), "in between", PALE, _font(18), anchor="mm")


def picture() -> bytes:
    """The picture as a PNG of few colours."""
    pair = draw_pair(ScenesSection(kind="scenes", seed=1, size_px=SIDE), PAIR)
    written = write(pair.caption_a, pair.caption_b, pair.category, pair.question)
    assert written is not None, "choose another pair: the template cannot ask about this one"
    buffer = io.BytesIO()
    draw(pair, written).quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Writes the picture where the first argument says, or beside this file."""
    Path(sys.argv[1] if len(sys.argv) > 1 else PAGE).write_bytes(picture())


if __name__ == "__main__":
    main()
