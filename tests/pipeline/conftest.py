import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.schema import SCHEMA_VERSION, SPLITS, mvc_schema, pair_id, sha256_hex
from pipeline.core.storage import sha256_file
from tests.pipeline.tiny_encoders import CLIP_TYPE, make_clip


def picture(seed: int, size: int = 24) -> bytes:
    """A small noisy JPEG, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size * 2, size * 2)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes `num_groups` x 4 good pairs, and whatever lines are given besides, as a manifest with
    its images.
    """

    def write(num_groups: int = 5, extra_lines: list[str] | None = None) -> Path:
        root = tmp_path / "source"
        (root / "images").mkdir(parents=True, exist_ok=True)
        lines = []
        for group in range(num_groups):
            for number in range(5):
                (root / f"images/{group}-{number}.jpg").write_bytes(picture(group * 10 + number))
            for number in range(4):
                lines.append(
                    json.dumps(
                        {
                            "id": f"{group}-{number}",
                            "image_a": f"images/{group}-{number}.jpg",
                            "image_b": f"images/{group}-{number + 1}.jpg",
                            "caption_a": (
                                f"A picture with {'one two three four five'.split()[number]} dots."
                            ),
                            "caption_b": (
                                f"A picture with {'one two three four five'.split()[number + 1]}"
                                " dots."
                            ),
                            "category": "count",
                            "group": f"group-{group}",
                            "license": "CC0-1.0",
                        }
                    )
                )
        middle = len(lines) // 2
        path = root / "pairs.jsonl"
        path.write_text("\n".join([*lines[:middle], *(extra_lines or []), *lines[middle:]]) + "\n")
        return path

    return write


Splits = dict[str, list[dict[str, Any]]]


def published_row(number: int, reason: str | None = None) -> dict[str, Any]:
    """A row of an MVC folder with pictures of its own; numbers name their groups and sources,
    categories alternate.
    """
    images = picture(2 * number), picture(2 * number + 1)
    captions = [f"A {colour} star beside hut number {number}." for colour in ("red", "blue")]
    hashes = [sha256_hex(image) for image in images]
    row = {
        "pair_id": pair_id(hashes[0], captions[0], hashes[1], captions[1]),
        "source": f"source-{number % 2}",
        "source_id": f"id-{number}",
        "category": ("attribute", "count")[number % 2],
        "operation": "captured",
        "group": f"group-{number}",
        "image_a": {"bytes": images[0], "path": None},
        "image_b": {"bytes": images[1], "path": None},
        "question": None if reason else "What colour has the star?",
        "answer_a": None if reason else captions[0],
        "answer_b": None if reason else captions[1],
        "caption_a": captions[0],
        "caption_b": captions[1],
        "clip_image_cos": 0.6 if reason else round(0.7 + number / 100, 4),
        "dinov2_image_cos": round(number / 100, 4),
        "rewrite_status": None if reason else "template",
        "license": "MIT",
        "meta": "{}",
        "image_a_sha256": hashes[0],
        "image_b_sha256": hashes[1],
    }
    return row | ({"drop_reason": reason} if reason else {})


def seal(folder: Path, splits: Splits) -> Path:
    """Writes manifest.json of what lies in the folder."""
    kept = [row for split in SPLITS for row in splits.get(split, [])]
    dropped = splits.get("rejects", [])
    rows: dict[str, Any] = {
        "in": len(kept) + len(dropped),
        "kept": len(kept),
        "dropped": len(dropped),
    }
    rows["by_split"] = {split: len(splits.get(split, [])) for split in SPLITS}
    rows["dropped_by_reason"] = Counter(row["drop_reason"] or "" for row in dropped)
    for name in ("category", "source"):
        rows |= {
            f"{what}_by_{name}": Counter(row[name] or "" for row in part)
            for what, part in (("kept", kept), ("dropped", dropped))
        }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": "Stars <and> huts",
        "recipe": {
            "sources": [{"kind": "pairs", "name": "source-0", "path": "pairs.jsonl"}],
            "encoders": {
                "pixels": {"enabled": False},
                "clip": {"model": "ViT-X", "pretrained": "own"},
                "dinov2": {"model": "d/2"},
            },
            "selection": {"clip_image_cos": {"min": 0.7}},
            "rewrite": {"backend": "template"},
            "report": {"num_kept_shown": 4, "num_dropped_shown": 2},
        },
        "rows": rows,
        "licenses": Counter(row["license"] for row in kept),
        "files": {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.glob("*/*.parquet"))
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes an MVC folder, a new one at each call: 8 pairs to train on in row groups of 3, 2 to
    validate on, 3 dropped for two reasons.

    `change` may edit the rows of the splits before they are written; the manifest is that of the
    rows written.
    """

    def make(change: Callable[[Splits], object] | None = None) -> Path:
        reasons = ("clip_image_cos_below_min", "clip_image_cos_below_min", "over_cap_group")
        splits: Splits = {
            "train": [published_row(number) for number in range(8)],
            "validation": [published_row(number) for number in (8, 9)],
            "rejects": [published_row(number, reason) for number, reason in enumerate(reasons, 10)],
        }
        for rows in splits.values():
            rows.sort(key=lambda row: row["pair_id"])
        if change:
            change(splits)
        folder = tmp_path_factory.mktemp("mvc")
        for split, rows in splits.items():
            path = (
                folder
                / ("rejects" if split == "rejects" else "data")
                / f"{split}-00000-of-00001.parquet"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                pa.Table.from_pylist(rows, schema=mvc_schema(rejects=split == "rejects")),
                path,
                row_group_size=3,
            )
        (folder / "README.md").write_text("card")
        return seal(folder, splits)

    return make


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(
        tmp_path_factory.mktemp("clip"), CLIP_TYPE, {"mean": [0.5] * 3, "std": [0.25] * 3}
    )


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2, saved as transformers' own local folder."""
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)
    return folder
