"""The edits source on real photographs: every operation, and what must hold whatever a photograph
shows.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.images import decode_rgb
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.edits.colours import NAMES
from pipeline.sources.edits.source import EditsSection, EditsSource
from pipeline.sources.edits.views import RING_PX
from pipeline.text.contrast import leaked_words

NUM_PAIRS = 12

# test_edits.py has the same operations on drawn photographs.
pytestmark = pytest.mark.slow

# Read off the photographs by eye, in pixels.
BOXES = {
    "images/candle/00.jpg": [("candle", [202, 176, 310, 287])],
    "images/can/02.jpg": [("can", [189, 138, 318, 379])],
    "images/dog3/04.jpg": [("dog", [199, 194, 323, 420])],
    "images/teapot/01.jpg": [("teapot", [148, 215, 328, 354]), ("cup", [442, 276, 512, 354])],
    "images/teapot/03.jpg": [("teapot", [184, 220, 354, 364]), ("cup", [0, 281, 72, 364])],
    "images/duck_toy/02.jpg": [("toy", [107, 143, 379, 384])],
}


def rows(test_data: Path, tmp_path: Path, operation: str) -> list[Candidate | Malformed]:
    lines = [
        json.loads(line) for line in (test_data / "objects/labels.jsonl").read_text().splitlines()
    ]
    # few of the others have a clear colour, and looking for one takes time
    if operation == "recolour":
        lines = [line for line in lines if line["label"] in ("can", "toy")]
    for line in lines:
        line["boxes"] = [
            {"label": label, "box": box} for label, box in BOXES.get(line["image"], ())
        ]
    manifest = tmp_path / "photos.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    settings: dict[str, Any] = {
        "alike": (("toy", "stuffed animal"),),
        "num_pairs": NUM_PAIRS,
        "size_px": 160,
    }
    mix = {
        name: float(name == operation)
        for name in ("swap", "count", "replace", "recolour", "flip", "inpaint")
    }
    section = EditsSection(
        kind="edits",
        path=str(manifest),
        root=str(test_data / "objects"),
        operations=mix,
        license="CC-BY-4.0",
        **settings,
    )
    return list(EditsSource(section).read(0, NUM_PAIRS))


@pytest.mark.parametrize("operation", ["swap", "count", "replace", "recolour", "flip", "inpaint"])
def test_every_operation_runs_on_photographs(
    test_data: Path, tmp_path: Path, operation: str
) -> None:
    made = rows(test_data, tmp_path, operation)
    assert len(made) == NUM_PAIRS
    for pair in made:
        assert isinstance(pair, Candidate), pair
        image_a, image_b = (np.asarray(decode_rgb(data)) for data in (pair.image_a, pair.image_b))
        assert (
            image_a.shape == image_b.shape
            and max(image_a.shape) <= 160
            and (image_a != image_b).any()
        )
        assert pair.caption_a != pair.caption_b and not leaked_words(
            pair.question or "", pair.caption_a, pair.caption_b
        )
        assert pair.license == "CC-BY-4.0"
        meta = json.loads(pair.meta)
        if operation == "flip":
            assert np.array_equal(image_a, image_b[:, ::-1])
        if operation == "recolour":
            assert {meta["contrast"]["a"], meta["contrast"]["b"]} <= set(NAMES)
        if operation in ("recolour", "inpaint"):
            stays = (image_a == image_b).all(-1)
            assert stays.mean() > 0.5
        if operation == "inpaint":
            (gone,) = [
                thing["box"]
                for thing in meta["truth"]["a"]["objects"]
                if thing not in meta["truth"]["b"]["objects"]
            ]
            stays[
                max(0, gone[1] - RING_PX) : gone[3] + RING_PX,
                max(0, gone[0] - RING_PX) : gone[2] + RING_PX,
            ] = True
            assert stays.all()


def test_a_fold_of_photographs_is_one_group_and_none_is_large(
    test_data: Path, tmp_path: Path
) -> None:
    made = rows(test_data, tmp_path, "swap")
    group_of: dict[str, str] = {}
    for pair in made:
        assert isinstance(pair, Candidate)
        for name in json.loads(pair.meta)["photos"]:
            assert group_of.setdefault(name.split("/")[1], pair.group) == pair.group
    assert all(group.endswith("-of-9") for group in group_of.values())  # 28 subjects
