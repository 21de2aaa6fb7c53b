#!/usr/bin/env python3
"""What `svco reference store_features=true` spares each training run, and that it changes nothing.

    python bench/features.py                           # some minutes on 2 free cores

One recipe is trained four times against the same stored numbers: with the tower in every step, as
where features do not fit in memory; with the features made at the start and kept; with stored
features kept; and with stored features read from the disk in every step. Shown are the seconds
before the first step, the median of the steps (their wait for data included), and the whole. The
runs with kept or stored features must end with the same weights, bit by bit; the first makes its
features in other batches, so its loss may differ in the last bits.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # a script's own folder comes first otherwise

from bench.overheads import photographed  # noqa: E402

RUNS = {  # what is trained with: (train section, whether features are stored)
    "tower in every step": ({"cache_vision": False}, False),
    "made at the start": ({}, False),
    "stored, kept": ({}, True),
    "stored, read in every step": ({"cache_vision": False}, True),
}


def prepare(folder: Path, options: argparse.Namespace) -> tuple[str, str]:
    """The folders of a random model and of its pairs."""
    import torch

    from tests.training.conftest import mvc_row, write_mvc
    from training.models.vlm import save_vlm
    from training.tiny.config import TinySection
    from training.tiny.model import make_untrained

    rows = [photographed(mvc_row(index), index) for index in range(options.train_pairs)]
    texts = [row[name] for row in rows for name in ("question", "answer_a", "answer_b")]
    torch.manual_seed(0)
    sizes = {"vision_dim": options.vision_width, "vision_layers": options.vision_layers}
    sizes |= {"text_dim": options.width, "text_layers": options.layers}
    save_vlm(
        make_untrained(texts, TinySection(image_px=options.image_px, patch_px=14, **sizes)),
        folder / "model",
    )
    return str(folder / "model"), str(write_mvc(folder / "mvc", {"train": rows}))


def measure(name: str, recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    """One run: its seconds, losses and weights."""
    from safetensors.torch import load_file

    import training.data.pairs
    from training.config import TrainSection
    from training.runtime.environment import LocalEnv
    from training.trainer.loop import fit
    from training.trainer.step import Updater

    out.mkdir()
    began_s: list[float] = []
    step = Updater.step

    def noted(*args: Any) -> Any:
        began_s.append(time.perf_counter())
        return step(*args)

    room, started_s = training.data.pairs.MAX_PIXEL_CACHE_BYTES, time.perf_counter()
    try:
        training.data.pairs.MAX_PIXEL_CACHE_BYTES, Updater.step = 0, noted  # type: ignore[method-assign]
        fit(
            TrainSection.model_validate({**recipe, "out": str(out), "train": RUNS[name][0]}),
            LocalEnv(),
        )
    finally:
        training.data.pairs.MAX_PIXEL_CACHE_BYTES, Updater.step = room, step  # type: ignore[method-assign]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "start_s": began_s[0] - started_s,
        "step_s": statistics.median(
            later - earlier for earlier, later in itertools.pairwise(began_s)
        ),
        "total_s": time.perf_counter() - started_s,
        "losses": [line["loss"] for line in lines],
        "weights": load_file(out / "model.safetensors"),
    }


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train-pairs", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=4, help="per step")
    parser.add_argument("--image-px", type=int, default=336)
    for name, default in (
        ("width", 384),
        ("layers", 6),
        ("vision-width", 384),
        ("vision-layers", 6),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def tables(recipe: dict[str, Any], folder: Path) -> tuple[Path, Path, float]:
    """The reference with features and the same without, and what the features take, in MB."""
    from training.config import TrainSection
    from training.make_reference import make_reference
    from training.run_plan import REFERENCE_DONE, feature_parts, plan_reference

    stored, plain = folder / "reference", folder / "plain"
    section = TrainSection.model_validate({**recipe, "out": str(stored), "store_features": True})
    make_reference(plan_reference(section))
    plain.mkdir()
    (plain / "train.parquet").write_bytes((stored / "train.parquet").read_bytes())
    done = json.loads((stored / REFERENCE_DONE).read_text()) | {"has_features": False}
    (plain / REFERENCE_DONE).write_text(json.dumps(done))
    return stored, plain, sum(path.stat().st_size for path in feature_parts(stored)) / 1e6


def show(runs: dict[str, dict[str, Any]]) -> None:
    """The table of runs; ends with an error where weights that must be equal are not."""
    import torch

    kept = runs["made at the start"]
    print(f"\n{'':<28}{'start s':>9}{'s/step':>9}{'total s':>9}{'loss differs':>14}")
    for name, run in runs.items():
        differs = max(abs(a - b) for a, b in zip(run["losses"], kept["losses"], strict=True))
        times = f"{run['start_s']:>9.2f}{run['step_s']:>9.3f}{run['total_s']:>9.2f}"
        print(f"{name:<28}{times}{differs:>14.1e}")
        if name != "tower in every step" and not all(
            torch.equal(run["weights"][n], kept["weights"][n]) for n in kept["weights"]
        ):
            raise SystemExit(f"{name}: ended with other weights")


def main() -> None:
    """Makes the table with features, and the runs."""
    options = options_of()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data = prepare(folder, options)
        recipe: dict[str, Any] = {
            "model": model,
            "data": data,
            "eval_every_steps": 0,
            "log": {"num_samples": 0},
            "workers": {"num_workers": 0},
            "optim": {"batch_pairs": options.pairs, "micro_batch_pairs": options.pairs},
            "checkpoint": {"every_steps": 0},
        }
        stored, plain, megabytes = tables(recipe, folder)
        runs = {
            run: measure(
                run,
                {**recipe, "reference": str(stored if uses_stored else plain)},
                folder / run.replace(" ", "-"),
            )
            for run, (_, uses_stored) in RUNS.items()
        }
    show(runs)
    print(
        f"{megabytes:,.0f} MB of features of {2 * options.train_pairs} images; the last three ended"
        " with the same weights, bit by bit"
    )


if __name__ == "__main__":
    main()
