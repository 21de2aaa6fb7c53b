"""Drawn photographs whose labels can be read off their pixels, and the edits made from them; no
test, called by tests.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.schema import Candidate
from pipeline.sources.edits.source import EditsSection, EditsSource

OPERATIONS = ("swap", "count", "replace", "recolour", "flip", "inpaint")
# Each label's photographs have a shade of their own, by which a tile tells what it shows.
SHADES = {
    "dog": (60, 60, 60),
    "apple": (90, 130, 130),
    "toy car": (150, 150, 110),
    "owl": (200, 200, 200),
    "cup": (120, 120, 160),
}
BALL, SQUARE = (220, 20, 30), (20, 20, 20)


def photo(label: str, number: int) -> Image.Image:
    """Rough ground in the label's shade, and its own size."""
    rng = np.random.default_rng([number, len(label)])
    height, width = 60 + 7 * number, 96
    return Image.fromarray(
        (np.array(SHADES[label]) + rng.integers(-12, 12, (height, width, 1))).astype(np.uint8)
    )


def write_album(
    folder: Path, labels: Sequence[str] = tuple(SHADES), extra: Sequence[str] = ()
) -> Path:
    """Three photographs of each label, of two subjects, and whatever lines are given besides, after
    the fourth.
    """
    lines = []
    for label in labels:
        for number in range(3):
            name = f"{label.replace(' ', '-')}-{number}.png"
            photo(label, number).save(folder / name)
            row = {
                "image": name,
                "label": label,
                "subject": f"{label} {number // 2}",
                "license": f"CC-{label[0]}",
            }
            lines.append(json.dumps(row))
    path = folder / "photos.jsonl"
    path.write_text("\n".join([*lines[:4], *extra, *lines[4:]]) + "\n")
    return path


def boxed(
    folder: Path,
    name: str,
    balls: Sequence[tuple[int, int]],
    squares: Sequence[tuple[int, int]] = (),
) -> str:
    """A line for a grey photograph, 200 x 120, with red balls and black squares, 20 px each, at
    these corners.
    """
    pixels = np.array(SHADES["owl"]) + np.random.default_rng(len(name)).integers(
        -12, 12, (120, 200, 1)
    )
    rows, columns = np.mgrid[:120, :200]
    for x, y in balls:
        pixels[(columns - x - 9.5) ** 2 + (rows - y - 9.5) ** 2 <= 95] = BALL
    for x, y in squares:
        pixels[y : y + 20, x : x + 20] = SQUARE
    Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    things = [("ball", corner) for corner in balls] + [("box", corner) for corner in squares]
    boxes = [{"label": label, "box": [x, y, x + 20, y + 20]} for label, (x, y) in things]
    return json.dumps({"image": name, "label": "ball", "boxes": boxes})


def only(*names: str) -> dict[str, float]:
    return {name: float(name in names) for name in OPERATIONS}


def source(path: Path, *names: str, **settings: Any) -> EditsSource:
    return EditsSource(
        EditsSection(
            kind="edits", path=str(path), **{"operations": only(*names), "size_px": 128, **settings}
        )
    )


def made(path: Path, *names: str, num_pairs: int = 16, **settings: Any) -> list[Candidate]:
    rows = list(source(path, *names, num_pairs=num_pairs, **settings).read(0, num_pairs))
    assert len(rows) == num_pairs and all(isinstance(row, Candidate) for row in rows), rows
    return [row for row in rows if isinstance(row, Candidate)]
