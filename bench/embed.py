#!/usr/bin/env python3
"""How near the embed stage of a real build comes to its models' bare forward passes.

    python bench/embed.py  # ViT-B/32 CLIP and DINOv2 ViT-S/14, random weights: minutes on 2 cores
    python bench/embed.py --dinov2 base --pairs 480 --rounds 3

Efficiency is images per second of the embed stage (steady: without the first and last tenth of the
images; wall: with starting the worker, loading the models, and writing) over those of the same
encoders on inputs that are decoded, resized and tokenized already, with all cores, in the same run:
raw, build, raw, build, .., raw. Both sides embed the captions too. The vectors of both are
compared, and what Ray spilled to disk is counted. Numbers go to `--out` as JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# A script's own folder comes first on the path, here and in Ray's workers, and this one holds a
# pipeline.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipeline.build_mvc import build  # noqa: E402
from pipeline.config import BuildSection  # noqa: E402
from pipeline.core.images import decode_rgb  # noqa: E402
from pipeline.core.ray_pool import ray_session  # noqa: E402
from pipeline.core.schema import sha256_hex  # noqa: E402
from pipeline.core.storage import Stage, read_table  # noqa: E402
from pipeline.embedding.encoders import Encoder, Encoders, TextEncoder  # noqa: E402
from pipeline.sources.registry import open_source  # noqa: E402
from pipeline.stages.normalize import normalize_bytes  # noqa: E402
from pipeline.stages.plan import plan_build  # noqa: E402

DINOV2 = {"small": (384, 12, 6), "base": (768, 12, 12)}
MAX_DIFFERENCE = 1e-4  # of vectors of length 1: a batch may be split over another number of threads


def make_models(folder: Path, dinov2: str) -> dict[str, Any]:
    """Random models of realistic size in `folder`; the `encoders` part of a recipe."""
    import open_clip
    import torch
    from safetensors.torch import save_file
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    clip = folder / "clip"
    clip.mkdir()
    save_file(open_clip.create_model("ViT-B-32").state_dict(), clip / "open_clip_model.safetensors")
    (clip / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": {}})
    )
    width, layers, heads = DINOV2[dinov2]
    shape = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": 518,
        "patch_size": 14,
    }
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(folder / "dinov2")
    BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    ).save_pretrained(folder / "dinov2")
    return {
        "pixels": {"enabled": False},
        "clip": {"model": str(clip)},
        "dinov2": {"model": str(folder / "dinov2")},
    }


def recipe(
    folder: Path, encoders: dict[str, Any], pairs: int, chunk_pairs: int, size_px: int, seed: int
) -> BuildSection:
    """A build of drawn scenes as JPEG files of an ordinary size."""
    return BuildSection.model_validate(
        {
            "sources": [{"kind": "scenes", "num_pairs": pairs, "seed": seed, "size_px": size_px}],
            "normalize": {"mode": "reencode", "quality": 90, "scale": 1.0},
            "out": str(folder / f"mvc-{seed}"),
            "encoders": encoders,
            "audit": {"enabled": False},
            "workers": {"chunk_pairs": chunk_pairs},
        }
    )


def run_build(section: BuildSection) -> tuple[dict[str, Any], Stage]:
    """Builds; returns the embed stage's images per second, steady and wall, with what was spilled;
    and the stage.
    """
    plan = plan_build(section)
    with ray_session():
        import ray
        from ray._private.internal_api import get_memory_info_reply, get_state_from_address

        build(plan)
        state = get_state_from_address(ray.get_runtime_context().gcs_address)
        spilled = get_memory_info_reply(state).store_stats.spilled_bytes_total
    embed = Stage("embed", plan.work / "embed" / plan.fingerprints["embed"])
    parts = sorted(embed.folder.glob("images-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    done = np.cumsum([read_table(part, ["sha256"]).num_rows for part in parts])
    when_s = np.array([part.stat().st_mtime_ns / 1e9 for part in parts])
    first, last = (
        np.searchsorted(done, 0.1 * done[-1]),
        np.searchsorted(done, 0.9 * done[-1], side="right") - 1,
    )
    if last <= first:
        raise SystemExit("too few chunks for a steady state; raise --pairs or lower --chunk-pairs")
    steady = float((done[last] - done[first]) / (when_s[last] - when_s[first]))
    stages = json.loads((plan.out / "result.json").read_text())["stages"]
    wall_s = next(stage["seconds"] for stage in stages if stage["name"] == "embed")
    return {
        "num_images": int(done[-1]),
        "steady": steady,
        "wall": float(done[-1] / wall_s),
        "spilled_bytes": int(spilled),
    }, embed


class Raw:
    """The same encoders on inputs that are ready: nothing but forward passes."""

    def __init__(self, section: BuildSection, num_images: int) -> None:
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        encoders = Encoders(section.encoders)
        self.encoders: dict[str, Encoder] = {
            name: encoders.open(name) for name in encoders.fingerprints
        }
        pairs = list(open_source(section.sources[0]).read(0, num_images // 2))
        files = [
            normalize_bytes(data, section.normalize)
            for pair in pairs
            for data in (pair.image_a, pair.image_b)
        ]
        self.keys = [sha256_hex(data) for data in files]
        self.captions = [caption for pair in pairs for caption in (pair.caption_a, pair.caption_b)]
        pictures = [decode_rgb(data) for data in files]
        self._inputs = {
            name: [encoder.prepare(picture) for picture in pictures]
            for name, encoder in self.encoders.items()
        }

    def run(self) -> tuple[tuple[float, float], dict[str, np.ndarray]]:
        """Seconds per image with all encoders and per caption, and the images' vectors. Only whole
        batches are timed.
        """
        image_s, text_s, vectors = 0.0, 0.0, {}
        for name, encoder in self.encoders.items():
            size = encoder.batch_images
            assert len(self.keys) % size == 0, (
                f"{len(self.keys)} images are no whole batches of {size}"
            )
            encoder.encode_images(self._inputs[name][:size])
            started_s = time.perf_counter()
            vectors[name] = encoder.encode_images(self._inputs[name])
            image_s += (time.perf_counter() - started_s) / len(self.keys)
            if isinstance(encoder, TextEncoder):
                started_s = time.perf_counter()
                encoder.encode_texts(self.captions)
                text_s += (time.perf_counter() - started_s) / len(self.captions)
        return (image_s, text_s), vectors


def differences(
    raw: Raw, vectors: dict[str, np.ndarray], embed: Stage, num_chunks: int
) -> dict[str, float]:
    """The largest difference between what both sides made of the same image, after scaling to
    length 1.
    """
    tables = [read_table(embed.part("images", index)) for index in range(num_chunks)]
    found = {}
    for name in vectors:
        stored = {
            key: row
            for table in tables
            for key, row in zip(table["sha256"].to_pylist(), table[name].to_pylist(), strict=True)
        }
        pair = [
            rows / np.linalg.norm(rows, axis=1, keepdims=True)
            for rows in (vectors[name], np.array([stored[key] for key in raw.keys]))
        ]
        found[name] = float(np.abs(pair[0] - pair[1]).max())
    return found


def num_texts(embed: Stage, num_chunks: int) -> int:
    """How many captions the stage embedded: each once in every chunk that has it."""
    return sum(
        read_table(embed.part("texts", index), ["sha256"]).num_rows for index in range(num_chunks)
    )


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Raw and build in turn; a build is held against the mean of the raw runs around it."""
    encoders = make_models(folder, options.dinov2)
    sections = [
        recipe(folder, encoders, options.pairs, options.chunk_pairs, options.size_px, seed)
        for seed in range(options.rounds)
    ]
    raw = Raw(sections[0], options.raw_images)
    num_chunks = -(-options.pairs // options.chunk_pairs)
    speeds, vectors = [raw.run()[0]], {}
    rounds, differs = [], {}
    for section in sections:
        result, embed = run_build(section)
        speed, vectors = raw.run()
        speeds.append(speed)
        differs = differs or differences(raw, vectors, embed, num_chunks)
        texts_per_image = num_texts(embed, num_chunks) / result["num_images"]
        before, after = (
            1 / (image_s + texts_per_image * text_s) for image_s, text_s in speeds[-2:]
        )
        bare = (before + after) / 2
        rounds.append(
            {
                **result,
                "captions_per_image": texts_per_image,
                "raw_before": before,
                "raw_after": after,
                "efficiency_steady": result["steady"] / bare,
                "efficiency_wall": result["wall"] / bare,
                "load_1min": os.getloadavg()[0],
            }
        )
        print(json.dumps(rounds[-1]), flush=True)
    return {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "rounds": rounds,
        "largest_difference": differs,
    }


def main() -> None:
    """Measures, prints the table, and checks that both sides made the same vectors and that nothing
    was spilled.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--chunk-pairs", type=int, default=64)
    parser.add_argument("--size-px", type=int, default=448)
    parser.add_argument("--raw-images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dinov2", choices=sorted(DINOV2), default="small")
    parser.add_argument("--out", type=Path, default=Path("build/bench/embed.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="svco-bench-") as folder:
        found = measure(options, Path(folder))
    print(
        "\nround   images   raw before   raw after   steady img/s   wall img/s   E steady   E wall "
        "  spilled bytes   load"
    )
    for number, row in enumerate(found["rounds"]):
        speeds = [
            f"{row[name]:.2f}".rjust(width)
            for name, width in (("raw_before", 12), ("raw_after", 11), ("steady", 14), ("wall", 12))
        ]
        ratios = [f"{row['efficiency_steady']:>10.3f}", f"{row['efficiency_wall']:>8.3f}"]
        print(
            f"{number:>5}",
            f"{row['num_images']:>8,}",
            *speeds,
            *ratios,
            f"{row['spilled_bytes']:>15,}",
            f"{row['load_1min']:>6.1f}",
        )
    print(
        "largest difference between a stored and a raw vector (length 1):"
        f" {found['largest_difference']}"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    if max(found["largest_difference"].values()) > MAX_DIFFERENCE:
        raise SystemExit("the two sides made different vectors")
    if any(row["spilled_bytes"] for row in found["rounds"]):
        raise SystemExit("Ray spilled objects to disk")


if __name__ == "__main__":
    main()
