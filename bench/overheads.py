#!/usr/bin/env python3
"""What a training run does besides training: waiting for data, writing checkpoints, reporting.

    python bench/overheads.py                          # about 4 minutes on 2 free cores
    python bench/overheads.py --steps 6 --runs local   # the loop in this process alone

The user's own run, from recipe to result, of a random LLaVA of width 384 and 6 layers on drawn
pairs (photograph-sized JPEGs, 576 features each), in this process and with one Ray Train worker.
Timers are put around the loop's own calls:

- wait: what the loop logs as data_wait_s, over the time of its steps, the first one aside: it has
  nothing to wait beside (goal: under 2 %). "reads" is what reading (packing, decoding, preparing
  pixels) takes in its thread, as a share of the same time: about what would be waited for if
  nothing were read ahead;
- overhead: what `Checkpoints.save` and `env.report` take per call, and `Log.write` (with
  TensorBoard) and the progress display per step. The run saves and reports every second step, so
  that there are calls to measure. The share at the default interval is worked out from them (goal:
  under 1 %): with c, r and l seconds per save, per report and per step's log and progress, and s
  seconds per step, it is x / (s + x) with x = c / 100 + r / 31 + l. Validation itself is not
  counted. The mean of all calls is taken, the slow first one among them.

That is for steps of `--pairs` pairs, and for the default's 32, whose steps are taken to be that
many times longer; the time of everything else does not depend on it.

In the third run neither features nor pixels are kept, as if the data were larger than the memory:
each step decodes its images and runs the tower.
"""

import argparse
import contextlib
import functools
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # a script's own folder comes first otherwise

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from pipeline.core.schema import pair_id, sha256_hex  # noqa: E402
from training.config import CheckpointSection, OptimSection, TrainSection  # noqa: E402
from training.run_plan import plan_training  # noqa: E402

Seconds = dict[str, list[float]]
EVERY = 2  # steps between checkpoints, and between reports, of the measured run
SAVE_EVERY: int = CheckpointSection.model_fields["every_steps"].default
REPORT_EVERY: int = TrainSection.model_fields["eval_every_steps"].default
BATCH_PAIRS: int = OptimSection.model_fields["batch_pairs"].default
RUNS = ("local", "ray", "local, nothing kept")
PHOTO_PX = (640, 480)


def photograph(data: bytes, seed: int) -> bytes:
    """A drawing as a JPEG of a photograph's size, with a photograph's grain."""
    drawn = np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB").resize(PHOTO_PX, Image.Resampling.BICUBIC),
        np.float32,
    )
    grain = np.random.default_rng(seed).normal(0, 12, drawn.shape)
    buffer = io.BytesIO()
    Image.fromarray((drawn + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photographed(row: dict[str, Any], index: int) -> dict[str, Any]:
    """An MVC row whose drawings have become photographs."""
    image_a, image_b = (
        photograph(row[f"image_{side}"]["bytes"], 2 * index + number)
        for number, side in enumerate("ab")
    )
    hashes = sha256_hex(image_a), sha256_hex(image_b)
    changed = {
        "image_a": {"bytes": image_a, "path": None},
        "image_b": {"bytes": image_b, "path": None},
    }
    identity = pair_id(hashes[0], row["caption_a"], hashes[1], row["caption_b"])
    return (
        row
        | changed
        | {
            "pair_id": identity,
            "image_a_sha256": hashes[0],
            "image_b_sha256": hashes[1],
        }
    )


def prepare(folder: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """The folders of a random model and of its pairs."""
    import torch

    from tests.training.conftest import mvc_row, write_mvc
    from training.models.vlm import save_vlm
    from training.tiny.config import TinySection
    from training.tiny.model import make_untrained

    rows = [photographed(mvc_row(index), index) for index in range(options.train_pairs + 2)]
    texts = [row[name] for row in rows for name in ("question", "answer_a", "answer_b")]
    torch.manual_seed(0)
    sizes = {
        "vision_dim": 128,
        "vision_layers": 4,
        "text_dim": options.width,
        "text_layers": options.layers,
    }
    save_vlm(
        make_untrained(texts, TinySection(image_px=options.image_px, patch_px=14, **sizes)),
        folder / "model",
    )
    return folder / "model", write_mvc(
        folder / "mvc", {"train": rows[:-2], "validation": rows[-2:]}
    )


@contextlib.contextmanager
def timers() -> Iterator[Seconds]:
    """The seconds of each call of the loop's parts, while the body runs."""
    from pipeline.core.progress import Progress
    from training.runtime.driver_messages import DriverProgress
    from training.runtime.environment import LocalEnv
    from training.train_worker import RayEnv
    from training.trainer.checkpoint import Checkpoints
    from training.trainer.metrics_log import Log
    from training.trainer.step import Updater

    seconds = Seconds()
    parts: dict[str, list[tuple[Any, str]]] = {
        "step": [(Updater, "step")],
        "save": [(Checkpoints, "save")],
        "report": [(LocalEnv, "report"), (RayEnv, "report")],
        "log": [(Log, "write")],
        "progress": [(Progress, "advance"), (DriverProgress, "advance")],
        "load": [(Updater, "load")],
    }
    before = {place: getattr(*place) for places in parts.values() for place in places}
    try:
        for name, places in parts.items():
            for place in places:
                setattr(*place, _timed(before[place], name, seconds))
        yield seconds
    finally:
        for place, function in before.items():
            setattr(*place, function)


def _timed(function: Callable[..., Any], name: str, seconds: Seconds) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started_s = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.setdefault(name, []).append(time.perf_counter() - started_s)

    return timed


def timed_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The loop's own function for a Ray Train worker, with timers; they are left in `out`."""
    from training.train_worker import train_worker

    with timers() as seconds:
        result = train_worker(config)
    (Path(config["recipe"]["out"]) / "seconds.json").write_text(json.dumps(seconds))
    return result


def measure(
    name: str, model: Path, data: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """One run of the job, and what its parts took."""
    import training.data.pairs
    import training.train_worker
    from training.train_svco import train

    out, kept = folder / name.replace(", ", "-").replace(" ", "-"), "nothing kept" not in name
    recipe: dict[str, Any] = {
        "model": str(model),
        "data": str(data),
        "out": str(out),
        "eval_every_steps": EVERY,
        "checkpoint": {"every_steps": EVERY},
        "optim": {
            "batch_pairs": options.pairs,
            "micro_batch_pairs": options.pairs,
            "max_steps": options.steps,
        },
        "workers": {"num_workers": int(name == "ray")},
        "train": {"cache_vision": kept},
        "log": {"num_samples": 0},  # they belong to the validation
    }
    plan = plan_training(TrainSection.model_validate(recipe))
    room, worker = (
        training.data.pairs.MAX_PIXEL_CACHE_BYTES,
        training.train_worker.train_worker,
    )
    try:
        training.data.pairs.MAX_PIXEL_CACHE_BYTES = room if kept else 0
        training.train_worker.train_worker = timed_worker  # the job takes it from there
        with timers() as seconds:
            train(plan)
    finally:
        training.data.pairs.MAX_PIXEL_CACHE_BYTES, training.train_worker.train_worker = (
            room,
            worker,
        )
    if name == "ray":
        seconds = json.loads((out / "seconds.json").read_text())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return summary(seconds, [line for line in lines if line["split"] == "train"], options)


def summary(
    seconds: Seconds, lines: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Shares of the time, from the seconds of each call and the training lines of metrics.jsonl."""
    if len(seconds["step"]) != len(lines) or len(seconds["report"]) < len(lines) // EVERY:
        raise SystemExit(
            f"expected timers of {len(lines)} steps, got"
            f" { ({name: len(each) for name, each in seconds.items()}) }"
        )
    waits_s = [line["data_wait_s"] for line in lines]
    total_s = sum(seconds["step"][1:]) + sum(waits_s[1:])
    save_s, report_s = statistics.mean(seconds["save"]), statistics.mean(seconds["report"])
    # The log also has lines of validations, and the display those of other passes; each step makes
    # one of either.
    each_s = statistics.mean(seconds["log"]) + statistics.mean(seconds["progress"])
    more_s = save_s / SAVE_EVERY + report_s / REPORT_EVERY + each_s
    step_s = statistics.median(seconds["step"])
    default_s = step_s * BATCH_PAIRS / options.pairs
    return {
        "step_s": step_s,
        "save_s": save_s,
        "save_max_s": max(seconds["save"]),
        "num_saves": len(seconds["save"]),
        "report_s": report_s,
        "report_max_s": max(seconds["report"]),
        "num_reports": len(seconds["report"]),
        "log_and_progress_s": each_s,
        "frac_wait": sum(waits_s[1:]) / total_s,
        "frac_reading": sum(seconds["load"][1:]) / total_s,
        "frac_overhead": more_s / (step_s + more_s),
        "frac_overhead_default_batch": more_s / (default_s + more_s),
    }


def report(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """A table on standard output."""
    print(
        f"\nwidth {options.width}, {options.layers} layers, images of {options.image_px} px;"
        f" {options.steps} steps of {options.pairs} pairs"
    )
    columns = (
        "s/step",
        "wait",
        "reads",
        "save s",
        "report s",
        "log s",
        "overhead",
        f"at {BATCH_PAIRS} pairs",
    )
    print(f"{'':<22}" + "".join(f"{column:>12}" for column in columns))
    for name, found in results.items():
        waits = f"{found['frac_wait']:>12.2%}{found['frac_reading']:>12.2%}"
        calls = f"{found['save_s']:>12.3f}{found['report_s']:>12.5f}"
        calls += f"{found['log_and_progress_s']:>12.5f}"
        shares = f"{found['frac_overhead']:>12.3%}{found['frac_overhead_default_batch']:>12.3%}"
        print(f"{name:<22}{found['step_s']:>12.2f}{waits}{calls}{shares}")
    print(
        f"Reading is hidden behind the steps, but for the wait. Overhead: a save every {SAVE_EVERY}"
        f" steps, a report every {REPORT_EVERY},"
    )
    print("log and progress at each. Goals: wait under 2 %, overhead under 1 %.")


def main() -> None:
    """Makes the runs asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=4, help="per step")
    parser.add_argument("--train-pairs", type=int, default=16)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--image-px", type=int, default=336)
    parser.add_argument("--out", type=Path, default=Path("build/bench/overheads.json"))
    options = parser.parse_args()
    if options.steps < 2 * EVERY:
        parser.error(
            f"--steps: expected at least {2 * EVERY}, so that something is saved and reported, got"
            f" {options.steps}"
        )
    with tempfile.TemporaryDirectory() as folder:
        model, data = prepare(Path(folder), options)
        results = {name: measure(name, model, data, Path(folder), options) for name in options.runs}
    report(results, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
