"""`svco plan`: memory, time and cost of a training run from its recipe.

Of a known model, it loads neither torch nor Ray.
"""

import math
import os
from typing import Annotated, Any

import typer
import yaml

from pipeline.core.cli import Overrides, Recipe
from pipeline.core.progress import say, summary_table
from pipeline.core.recipe import UserError, absolute_path, find_recipe, load_recipe
from training.config import TrainSection
from training.estimate.advice import advice
from training.estimate.data_size import DataSize, default_size, size_of_data
from training.estimate.flops import forward_flops, train_flops_per_pair, vision_flops
from training.estimate.gpus import GPUS, Gpu, find_gpu
from training.estimate.known_models import PUBLISHED, find_shape
from training.estimate.memory import (
    GB,
    feature_bytes,
    keeps_features,
    memory_of,
    needed_bytes,
    num_shards,
    start_bytes,
)
from training.estimate.model_shape import ModelShape
from training.estimate.policy_size import adapter_weights, policy_size
from training.models.unusable import words
from training.objectives.terms import ALL_CELLS
from training.run_plan import FILES, check_base

DEFAULT_GPU = "A100-80"
WORTH_CACHING = 0.03  # of the work of a step
ROOM = 0.9  # of the memory there is: what a plan counts on, being an estimate
MAX_CACHE_GB = 64.0  # of main memory: more is seldom there for one worker


def work_of(shape: ModelShape, data: DataSize, section: TrainSection) -> dict[str, float]:
    """FLOP of a whole run by what they are for."""
    optim, cached = section.optim, keeps_features(shape, data, section)
    adapters = adapter_weights(shape.text, section.lora) if section.lora else 0
    image = vision_flops(shape.vision, sum(data.mean.features) / 2)
    towers = 0 if cached else 2 * image
    train, held_out = data.num_pairs["train"], data.num_pairs.get("validation", 0)
    every, compared = (
        forward_flops(shape, data.mean, cells, lora_weights=adapters) + towers if cells else 0.0
        for cells in (ALL_CELLS, section.objective.reference_cells)
    )
    steps = optim.num_steps(train)
    num_pairs = (
        min(steps * optim.batch_pairs, optim.num_epochs * train)
        if optim.max_steps is None
        else steps * min(optim.batch_pairs, train)
    )
    evaluations = (steps - 1) // section.eval_every_steps + 1 if section.eval_every_steps else 1
    step = train_flops_per_pair(shape, data.mean, section, cached=cached)
    return {
        "images, once": data.num_images * image if cached else 0.0,
        "reference": (
            0.0 if section.reference else min(num_pairs, train) * compared + held_out * every
        ),
        "training": num_pairs * step.total,
        "validation": evaluations * held_out * every,
    }


def _load(recipe: str, overrides: list[str]) -> tuple[TrainSection, bool]:
    """The recipe, and whether it names data.

    What a plan can do without (`data`, `out`) need not be given.
    """
    try:
        given: Any = yaml.safe_load(find_recipe(recipe).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        given = {}  # load_recipe says what is wrong
    given = given if isinstance(given, dict) else {}
    named = {override.partition("=")[0] for override in overrides}
    missing = [
        key for key in ("data", "out") if key not in named and given.get(key, "???") == "???"
    ]
    placeholders = [f"{key}=not-given" for key in missing]
    return load_recipe(recipe, [*placeholders, *overrides], TrainSection), "data" not in missing


def _machine(
    section: TrainSection, gpu: str | None, tflops: float | None, memory_gb: float | None
) -> tuple[str, float | None, float]:
    """What a worker runs on: name, peak (FLOP per second; None: not known), bytes of memory."""
    if gpu is None and not section.workers.use_gpu:
        total_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        room_gb = memory_gb or total_gb / max(1, section.workers.num_workers)
        peak = None if tflops is None else tflops * 1e12
        return "CPU, this machine's memory shared by the workers", peak, room_gb * 1e9
    if gpu is not None or tflops is None or memory_gb is None:
        name, known = find_gpu(gpu or DEFAULT_GPU)
    else:
        name, known = "GPU", Gpu(tflops, tflops, memory_gb)
    stated = known.bf16_tflops if section.train.precision == "bfloat16" else known.fp32_tflops
    return name, (tflops or stated) * 1e12, (memory_gb or known.memory_gb) * 1e9


def hours_of(flops: float, *, peak: float, workers: int, mfu: float) -> float:
    """Time of so much work on so many devices that reach a share `mfu` of their peak."""
    return flops / (peak * workers * mfu) / 3600


def _memory_rows(
    memory: dict[str, float], *, budget: float, start: float, need: float
) -> list[list[str]]:
    total = sum(memory.values())
    return [
        *([part, f"{needed / GB:.2f}"] for part, needed in memory.items() if needed >= 0.005 * GB),
        ["in a step, all", f"{total / GB:.2f}"],
        ["before training, while images are encoded", f"{start / GB:.2f}"],
        ["there is", f"{budget / GB:.1f}"],
        ["fits", "yes" if need <= ROOM * budget else "barely" if need <= budget else "NO"],
    ]


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def _work_rows(
    work: dict[str, float], *, peak: float | None, workers: int, mfu: float, price: float | None
) -> list[list[str]]:
    rows = []
    for label, flops in {**work, "all": sum(work.values())}.items():
        hours = None if peak is None else hours_of(flops, peak=peak, workers=workers, mfu=mfu)
        cost = "" if hours is None or price is None else f"{hours * workers * price:,.2f}"
        rows.append(
            [label, f"{flops / 1e12:,.1f}", "?" if hours is None else _duration(hours), cost]
        )
    return rows


def print_report(
    section: TrainSection,
    shape: ModelShape,
    data: DataSize,
    sources: tuple[str, str],
    files: dict[str, str],
) -> None:
    """What the plan rests on."""
    cells, optim, workers = section.objective.cells, section.optim, section.workers
    num_train, num_validation = data.num_pairs["train"], data.num_pairs.get("validation", 0)
    place = f"{workers.num_workers} Ray workers" if workers.num_workers > 1 else "1 worker"
    spread = f", weights spread over {num_shards(section)}" if num_shards(section) > 1 else ""
    facts = {
        "model": (
            f"{section.model}: {shape.num_parameters / 1e9:.2f} billion parameters ({sources[0]})"
        ),
        **files,
        "trained": f"{policy_size(shape, section).trained / 1e6:,.1f} million parameters",
        "pairs": f"{num_train:,} for training, {num_validation:,} for validation",
        **{
            f"left out of {split}": words(left_out.counts)
            for split, left_out in data.left_out.items()
            if left_out.counts
        },
        "tokens of a pair": (
            f"{data.mean.num_tokens(cells):,.0f} in {len(cells)} sequences ({sources[1]})"
        ),
        "steps": (
            f"{optim.num_steps(num_train):,} of {optim.batch_pairs} pairs,"
            f" {optim.micro_batch_pairs} in a pass"
        ),
        "runs on": place + spread,
    }
    summary_table("Plan", ["what", "value"], [list(fact) for fact in facts.items()])


def more_advice(
    section: TrainSection,
    shape: ModelShape,
    data: DataSize,
    *,
    fits: bool = True,
    free_gb: float = math.inf,
) -> list[str]:
    """Advice on pairs that are too long, and on a tower that sees the same images again.

    Args:
        fits: Whether a step with the longest pairs does.
        free_gb: Main memory that a worker does not need otherwise, where that is known.
    """
    lines = []
    too_long, limit = data.share_over(section.max_length_tokens), section.max_length_tokens
    if too_long:
        smaller = (
            ", or build with smaller images (normalize.mode=reencode normalize.scale=1"
            " normalize.max_px=1024)"
            if shape.vision.num_features is None
            else ""
        )
        lines.append(
            f"max_length_tokens={limit} leaves out {too_long:.0%} of the pairs (the longest has"
            f" {math.ceil(max(data.sequences)):,} tokens);"
            f" {'raise it' if fits else 'there is no memory for them'}{smaller}"
        )
    exact = shape.max_exact_tokens
    if exact is not None and (beyond := data.share_over(exact)):
        lines.append(
            f"{beyond:.0%} of the pairs are left out: they are beyond the {exact:,} tokens from"
            " which the model's rope changes; build data with shorter texts, or take another base"
        )
    if section.train.freeze_vision and not keeps_features(shape, data, section):
        flops = train_flops_per_pair(shape, data.mean, section, cached=False)
        share, room_gb = flops.vision / flops.total, feature_bytes(shape, data, section) / 1e9
        if share >= WORTH_CACHING and math.ceil(1.05 * room_gb) <= min(MAX_CACHE_GB, free_gb):
            lines.append(
                f"train.cache_vision=true train.max_cache_gb={math.ceil(1.05 * room_gb)}:"
                f" {room_gb:.1f} GB of main memory for each worker keep what the tower sees, which"
                f" is {share:.0%} of the work"
            )
    return lines


def _all_advice(
    section: TrainSection,
    shape: ModelShape,
    data: DataSize,
    *,
    budget: float,
    need: float,
    gpu: bool,
) -> list[str]:
    cached, room = keeps_features(shape, data, section), ROOM * budget
    lines = advice(section, shape, data.longest, budget_gb=room / GB, cached=cached, gpu=gpu)
    # what features may take of the memory of a worker without a GPU
    free_gb = math.inf if gpu else (room - need) / GB
    return [*lines, *more_advice(section, shape, data, fits=need <= room, free_gb=free_gb)]


def run(
    overrides: Overrides = None,
    recipe: Recipe = "svco_tiny",
    gpu: Annotated[
        str | None, typer.Option(help=f"Which GPU: {', '.join(GPUS)}. By default {DEFAULT_GPU}.")
    ] = None,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1, help="The share of its peak that a GPU reaches.")
    ] = 0.4,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of one GPU, in any currency.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="Peak of another GPU, or of a CPU, in 10^12 FLOP/s."),
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(min=0.1, help="Memory of another GPU, in 10^9 bytes.")
    ] = None,
) -> None:
    """Show memory, time and cost of a training run before anything starts, with advice."""
    section, has_data = _load(recipe, list(overrides or []))
    model = os.path.expanduser(section.model)
    shape, known_from = find_shape(model, section.tiny)
    files = {FILES: "as published"}
    if known_from != PUBLISHED:
        files = check_base(section.model_copy(update={"model": model}), only_planned=True)
    data = (
        size_of_data(absolute_path(section.data, "data"), model, shape)
        if has_data
        else default_size(shape)
    )
    if not data.num_pairs["train"]:
        raise UserError(f"{section.data}: split 'train' has no rows, so there is nothing to plan")
    print_report(section, shape, data, (known_from, data.source), files)
    name, peak, budget = _machine(section, gpu, tflops, memory_gb)
    on_gpu = section.workers.use_gpu or gpu is not None
    cached = keeps_features(shape, data, section)
    memory = memory_of(shape, data.longest, section, cached=cached, gpu=on_gpu)
    need = needed_bytes(shape, data.longest, section, cached=cached, gpu=on_gpu)
    memory_rows = _memory_rows(
        memory, budget=budget, start=start_bytes(shape, data.longest, section), need=need
    )
    summary_table(f"Memory of a worker, GB ({name})", ["", "GB"], memory_rows)
    work_rows = _work_rows(
        work_of(shape, data, section),
        peak=peak,
        workers=max(1, section.workers.num_workers),
        mfu=mfu,
        price=price_per_hour,
    )
    summary_table("Work", ["", "TFLOP", f"time at {mfu:.0%} of peak", "cost"], work_rows)
    if peak is None:
        say("no time: give --gpu, or --tflops of this CPU")
    say("loading, disk and communication between workers are not in the times")
    for line in _all_advice(section, shape, data, budget=budget, need=need, gpu=on_gpu):
        say(f"advice  {line}")
