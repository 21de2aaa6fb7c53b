#!/usr/bin/env python3
"""What a training step costs against the official formulation, and that both compute the same loss.

    python bench/step.py  # two shapes on the CPU: some minutes on 2 free cores
    python bench/step.py --device cuda --shape 7b   # random weights of a 7B shape, bf16, one GPU
    python bench/step.py --trl  # also TRL's DPOTrainer on the part that it can do

The official side is the published code's arithmetic, written plainly: per pair four rows with an
image and two without, each with its text padded to 128 tokens, logits over the whole vocabulary at
every position in fp32, the vision tower run for each of the four image rows, and a second, frozen
copy of the model for the reference in every step. Ours is the trainer's own forward: one packed
row, each image through the tower once (or never, once its features are kept), logits at response
positions, reference numbers read from a table. Both sides use the same weights, sdpa attention,
threads, type and AdamW, and take turns; "with the reference in the bill" adds one pass of ours
without gradients to each step, as if there were one epoch.

Memory is the peak of this process above what it held before the step, in a process of its own per
side (CPU), or what torch allocated (CUDA). Numbers go to `--out` as JSON.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # a script's own folder comes first otherwise

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from bench.step_model import (  # noqa: E402
    IMAGE,
    SHAPES,
    TEXT_TOKENS,
    Batch,
    Shape,
    make_batch,
    make_model,
    model_flops,
)
from training.models.attention import DENSE, set_attention  # noqa: E402
from training.models.logps import logps_of_features, vision_features  # noqa: E402
from training.models.packing import pack  # noqa: E402
from training.objectives.losses import Objective, Scores  # noqa: E402

SVCO = Objective("svco")


def official_logps(model: Any, batch: Batch) -> Tensor:
    """[P, 3, 2] by padded rows with logits everywhere: all image rows in one call, all text rows in
    another.
    """
    device = batch.pixels_a.device
    prompts = [pair.prompts for pair in batch.pairs]
    responses = [(pair.response_a, pair.response_b) for pair in batch.pairs]
    image_rows = [(p, c, r) for r in (0, 1) for c in (0, 1) for p in range(len(prompts))]
    text_rows = [(p, 2, r) for r in (0, 1) for p in range(len(prompts))]
    table = {}
    for rows, extra in ((image_rows, 575), (text_rows, 0)):
        length = TEXT_TOKENS + extra
        ids, mask, labels = (
            torch.full((len(rows), length), value, device=device) for value in (0, 0, -100)
        )
        for row, (p, c, r) in enumerate(rows):
            whole = torch.tensor(prompts[p][c] + responses[p][r], device=device)
            ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
            labels[row, len(prompts[p][c]) : len(whole)] = whole[len(prompts[p][c]) :]
        pixels = {"pixel_values": torch.cat([batch.pixels_a, batch.pixels_b] * 2)} if extra else {}
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **pixels).logits.float()
        targets = labels[:, 1:]
        logp = logits[:, :-1].log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
        sums = (logp * (targets != -100)).sum(1)
        table.update(dict(zip(rows, sums, strict=True)))
    return torch.stack(
        [table[p, c, r] for p in range(len(prompts)) for c in range(3) for r in range(2)]
    ).view(-1, 3, 2)


def our_logps(model: Any, batch: Batch, features: tuple[Tensor, Tensor] | None) -> Tensor:
    """[P, 3, 2] by one packed row."""
    packed = pack(batch.pairs, IMAGE).to(batch.pixels_a.device)
    if features is None:
        with torch.no_grad():
            features_a, features_b = vision_features(
                model, torch.cat((batch.pixels_a, batch.pixels_b))
            ).chunk(2)
    else:
        features_a, features_b = features
    return logps_of_features(model, packed, features_a, features_b)


class Side:
    """One way to make a step: its forward, its reference, and an optimiser of its own."""

    def __init__(self, name: str, shape: Shape, options: argparse.Namespace) -> None:
        self.name, self.dtype = name, getattr(torch, options.dtype)
        self.batch = make_batch(shape, options.pairs, options.device, self.dtype)
        self.model = make_model(shape, options.device, self.dtype)
        if options.recompute:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.train()
        official = name == "official"
        if official or name == "ours, dense mask":
            set_attention(self.model, DENSE)
        # The official reference is a second model; ours are numbers made by the model before it
        # moved.
        self.reference_model = make_model(shape, options.device, self.dtype) if official else None
        if self.reference_model is not None:
            set_attention(self.reference_model, DENSE)
        self.features = None if "tower" in name or official else self._features()
        with torch.no_grad():
            self.reference_P32 = (
                torch.zeros(()) if official else our_logps(self.model, self.batch, self.features)
            )
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, foreach=options.device == "cuda")

    def _features(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            both = vision_features(
                self.model, torch.cat((self.batch.pixels_a, self.batch.pixels_b))
            )
        features_a, features_b = both.chunk(2)
        return features_a, features_b

    def step(self) -> float:
        """One optimiser step; returns its loss."""
        self.optimizer.zero_grad()
        if self.reference_model is not None:
            logps_P32 = official_logps(self.model, self.batch)
            with torch.no_grad():
                reference_P32 = official_logps(self.reference_model, self.batch)
        else:
            logps_P32 = our_logps(self.model, self.batch, self.features)
            reference_P32 = self.reference_P32
            if "reference" in self.name:
                with torch.no_grad():  # the pass that makes the table, once per pair and epoch
                    our_logps(self.model, self.batch, self.features)
        tokens_P2 = torch.ones(len(self.batch.pairs), 2, device=logps_P32.device)
        loss_P, _ = SVCO(
            Scores(D_P32=logps_P32 - reference_P32, logps_P32=logps_P32, num_tokens_P2=tokens_P2)
        )
        loss_P.mean().backward()
        self.optimizer.step()
        if logps_P32.is_cuda:
            torch.cuda.synchronize()
        return loss_P.mean().item()


SIDES = ("official", "ours, dense mask", "ours with the tower", "ours", "ours with the reference")


def measure(shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per pair of each side, in turn, and the losses of each of its steps."""
    names = SIDES if options.device == "cpu" else tuple(n for n in SIDES if n != "ours, dense mask")
    if options.one_at_a_time:
        timed = {name: _alone(name, shape, options) for name in names}
    else:
        sides = {name: Side(name, shape, options) for name in names}
        timed = {name: ([], []) for name in names}
        for _ in range(options.rounds + 1):
            for name, side in sides.items():
                _timed_step(side, *timed[name])
    result: dict[str, Any] = {}
    for name, (seconds, losses) in timed.items():
        result[name] = {
            "s_per_pair": statistics.median(seconds[1:]) / options.pairs,
            "losses": losses,
        }
    expected = result["official"]["losses"]
    for name, found in result.items():
        worst = max(abs(a - b) / abs(b) for a, b in zip(found["losses"], expected, strict=True))
        result[name] |= {
            "ratio": result["official"]["s_per_pair"] / found["s_per_pair"],
            "loss_difference": worst,
        }
        if options.dtype == "float32" and worst > 1e-5:
            raise SystemExit(
                f"{name}: the loss differs from the official one by {worst:.1e}, so nothing here"
                " can be compared"
            )
    return result


def _alone(name: str, shape: Shape, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """As large models must: one side in memory at a time."""
    side, seconds, losses = Side(name, shape, options), list[float](), list[float]()
    for _ in range(options.rounds + 1):
        _timed_step(side, seconds, losses)
    del side
    torch.cuda.empty_cache()
    return seconds, losses


def _timed_step(side: Side, seconds: list[float], losses: list[float]) -> None:
    started_s = time.perf_counter()
    losses.append(side.step())
    seconds.append(time.perf_counter() - started_s)


def peak_mb(name: str, shape: str, options: argparse.Namespace) -> float:
    """What a step needs above the weights that it starts with, in MB, in a process of its own."""
    arguments = [
        sys.executable,
        __file__,
        "--peak-of",
        name,
        "--shape",
        shape,
        "--pairs",
        str(options.pairs),
        "--device",
        options.device,
    ]
    done = subprocess.run(
        [*arguments, "--dtype", options.dtype], check=True, capture_output=True, text=True
    )
    return float(done.stdout.strip().splitlines()[-1])


def print_peak(options: argparse.Namespace) -> None:
    """The peak of a step of one side, above what it starts with."""
    side = Side(options.peak_of, SHAPES[options.shape[0]], options)
    if options.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        side.step()
        print((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    side.step()  # the optimiser's own state is there from now on
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
    before = _status_mb("VmRSS")
    side.step()
    print(_status_mb("VmHWM") - before)


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def trl_ratio(shape: Shape, options: argparse.Namespace) -> str:
    """TRL's DPO forward against ours on DPO's two cells: one image, text a against text b,
    reference stored by both.
    """
    from bench.step_trl import measure_trl

    return measure_trl(shape, options)


def report(name: str, shape: Shape, result: dict[str, Any], options: argparse.Namespace) -> None:
    """A table on standard output."""
    print(
        f"\n{name}: width {shape.width}, {shape.layers} layers, vocabulary {shape.vocab:,};"
        f" {options.pairs} pairs a step, {options.dtype}"
    )
    print(f"{'':<26}{'s/pair':>9}{'ratio':>8}{'loss differs':>14}{'peak MB':>10}")
    for side, found in result.items():
        peak = f"{found['peak_mb']:,.0f}" if "peak_mb" in found else ""
        print(
            f"{side:<26}{found['s_per_pair']:>9.3f}{found['ratio']:>8.2f}{found['loss_difference']:>14.1e}{peak:>10}"
        )
    if options.device == "cuda":
        rate = model_flops(shape, options.pairs) / (result["ours"]["s_per_pair"] * options.pairs)
        print(
            f"model FLOPs: {rate / 1e12:.0f} TFLOP/s, {rate / (options.peak_tflops * 1e12):.1%} of"
            f" {options.peak_tflops:.0f}"
        )


def main() -> None:
    """Measures the shapes asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", nargs="+", choices=sorted(SHAPES), default=["trunk", "vocabulary"]
    )
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--recompute", action="store_true", help="recompute activations, on both sides"
    )
    parser.add_argument(
        "--one-at-a-time", action="store_true", help="hold one side in memory at a time"
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=989.0,
        help="of the GPU, for MFU; 989 is an H100's in bf16",
    )
    parser.add_argument("--trl", action="store_true")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench/step.json"))
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options)
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here; run this on a machine with one")
    results: dict[str, Any] = {}
    for name in options.shape:
        results[name] = measure(SHAPES[name], options)
        for side in ("official", "ours"):
            results[name][side]["peak_mb"] = peak_mb(side, name, options)
        report(name, SHAPES[name], results[name], options)
    if options.trl:
        print(trl_ratio(SHAPES[options.shape[0]], options))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
