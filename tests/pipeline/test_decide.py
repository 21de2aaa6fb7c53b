"""Ingest to report on a handful of rows, stage by stage and without Ray."""

import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from pipeline import decide
from pipeline.config import BuildSection
from pipeline.embed import embed_chunk
from pipeline.encoders import PixelsEncoder
from pipeline.ingest import Chunk, ImageLibrary, finish_ingest, ingest_chunk, read_rows
from pipeline.report import write_report
from pipeline.sources.pairs import PairsSection
from pipeline.store import Stage, open_stage


def _encode(pixels: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, kind)
    return buffer.getvalue()


def _decided(folder: Path, lines: list[str], **options: object) -> tuple[pa.Table, Stage, BuildSection]:
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    source = PairsSection(kind="pairs", path=str(folder / "pairs.jsonl"))
    section = BuildSection(sources=(source,), out=str(folder / "out"), **options)
    ingest, embed = open_stage(folder, "ingest", "0"), open_stage(folder, "embed", "0")
    ingest_chunk(ingest, source, Chunk(0, 0, 0, len(lines)))
    finish_ingest(ingest, 1)
    embed_chunk(ingest, embed, [PixelsEncoder()], 0)
    rows = decide.score(read_rows(ingest, 1), embed, 1)
    return decide.rewrite(decide.select(rows, section)), ingest, section


def _line(number: int, image_a: str, image_b: str, group: str, caption: str = "A thing, number") -> str:
    return (
        f'{{"id": "{number}", "image_a": "{image_a}", "image_b": "{image_b}", "caption_a": "{caption} {number}x", '
        f'"caption_b": "{caption} {number}y", "category": "other", "group": "{group}"}}'
    )


def test_one_picture_in_two_containers_never_stands_on_both_sides_of_the_split(tmp_path: Path) -> None:
    lines = []
    for number in range(20):
        for kind in ("PNG", "BMP"):
            for side, colour in (("a", (number * 12, 0, 0)), ("b", (0, number * 12, 99))):
                (tmp_path / f"{number}{side}.{kind}").write_bytes(_encode(Image.new("RGB", (8, 8), colour), kind))
            lines.append(_line(len(lines), f"{number}a.{kind}", f"{number}b.{kind}", group=f"{kind}-{number}"))
    rows, _, _ = _decided(tmp_path, lines, validation={"fraction": 0.3})
    pictures = {
        split: {row[f"image_{side}_pixels_sha256"] for row in rows.to_pylist() if row["split"] == split for side in "ab"}
        for split in ("train", "validation")
    }
    assert len(pictures["train"]) + len(pictures["validation"]) == 40
    assert not pictures["train"] & pictures["validation"]


@pytest.fixture
def two_colours(tmp_path: Path) -> Path:
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / f"{name}.png").write_bytes(_encode(Image.new("RGB", (8, 8), colour), "PNG"))
    return tmp_path


def test_texts_of_the_data_are_never_markup_in_the_report(two_colours: Path) -> None:
    rows, ingest, section = _decided(two_colours, [_line(1, "a.png", "b.png", "g", caption="<script>alert(1)</script> & more")])
    counts = {"in": 1, "kept": 1, "dropped": 0, "by_split": {"train": 1}, "dropped_by_reason": {}}
    write_report(rows, ImageLibrary(ingest, 1), {"name": "<b>x</b>", "rows": counts, "stages": []}, section, two_colours / "report.html")
    page = (two_colours / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "<b>x</b>" not in page


def test_scores_that_no_encoder_made_stay_null_and_the_cosine_is_rounded(two_colours: Path) -> None:
    (row,) = _decided(two_colours, [_line(1, "a.png", "b.png", "g")])[0].to_pylist()
    assert row["clip_image_cos"] is row["dinov2_image_cos"] is row["caption_margin_a"] is None
    assert row["pixels_image_cos"] == round(row["pixels_image_cos"], 4)
    assert (row["split"], row["rewrite_status"], row["drop_reason"]) == ("train", "template", "")
    assert (row["answer_a"], row["answer_b"]) == ("A thing, number 1x.", "A thing, number 1y.")
