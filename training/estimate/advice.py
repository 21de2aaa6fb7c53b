"""What to change in a recipe that needs too much memory, or leaves much of it unused."""

from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf
from pydantic import ValidationError

from pipeline.core.progress import say
from pipeline.core.recipe import UserError, first_line
from training.config import TrainSection
from training.estimate.data_size import size_of_data
from training.estimate.flops import PairLengths, train_flops_per_pair
from training.estimate.known_models import find_shape
from training.estimate.memory import GB, keeps_features, memory_of, needed_bytes
from training.estimate.model_shape import ModelShape

Changes = dict[str, Any]  # dotted key -> value
LORA_LR = 1e-5  # adapters want a higher rate than the whole model


class OutOfMemoryInTrainingError(UserError):
    """Training ran out of memory; the message says what needs it and what to set."""

    exit_code = 1


def advice(
    section: TrainSection,
    shape: ModelShape,
    lengths: PairLengths,
    *,
    budget_gb: float,
    cached: bool = True,
    gpu: bool = True,
) -> list[str]:
    """Lines that each name recipe keys to set, the most useful first; none if nothing is gained.

    Args:
        lengths: Of the longest pairs.
        budget_gb: Memory of one worker, in 10^9 bytes.
        cached: Whether the features of all images are kept.
    """

    def need_gb(changed: TrainSection) -> float:
        return needed_bytes(shape, lengths, changed, cached=cached, gpu=gpu) / GB

    if need_gb(section) <= budget_gb:
        flops = train_flops_per_pair(shape, lengths, section, cached=cached)
        return _use_of_room(section, flops.recompute / flops.total, need_gb, budget_gb, gpu=gpu)
    needs = {
        _shown(changes): need_gb(changed)
        for changes in _suggestions(section, gpu=gpu)
        if (changed := with_changes(section, changes)) is not None and changes
    }
    fitting = [
        f"{keys}: {need:.1f} GB a worker, which fits"
        for keys, need in needs.items()
        if need <= budget_gb
    ]
    if fitting:
        lines = [f"set {fitting[0]}", *(f"or set {line}" for line in fitting[1:])]
        if section.lora is None and "lora" in " ".join(lines):
            lines.append(
                f"adapters learn at a higher rate than whole models: try optim.lr={LORA_LR:g}"
            )
        return lines
    now = need_gb(section)
    least, need = min(needs.items(), key=lambda item: item[1], default=("", now))
    tried = f"even with {least}" if need < now else "with nothing that these keys change"
    need = min(need, now)
    return [
        f"nothing fits: {tried} a worker needs {need:.1f} GB of the {budget_gb:.1f} that it may"
        " take; take a smaller model, larger GPUs, or more of them"
    ]


def _suggestions(section: TrainSection, *, gpu: bool) -> list[Changes]:
    """Ways to need less, each as the keys that would change; those that cost least first.

    Lighter passes; with several workers the same and the weights spread over them; adapters on
    frozen weights in 16 bits; and in 4 bits.
    """
    lighter: Changes = {"optim.micro_batch_pairs": 1, "train.checkpoint_activations": True}
    if gpu:
        lighter["train.precision"] = "bfloat16"
    frozen: Changes = {**lighter, "train.freeze_vision": True, "workers.shard": False}
    if gpu:
        frozen["train.weights"] = "bfloat16"
    several = section.lora is None and section.workers.num_workers > 1
    ways: list[Changes] = [
        lighter,
        *([{**lighter, "workers.shard": True}] if several else []),
        frozen if section.lora else {**frozen, "lora": {}},
        *([{**frozen, "lora.quantize": "nf4"}] if gpu else []),
    ]
    now = OmegaConf.create(section.model_dump())
    return [
        {key: value for key, value in way.items() if OmegaConf.select(now, key) != value}
        for way in ways
    ]


def _use_of_room(
    section: TrainSection,
    recomputed: float,
    need_gb: Callable[[TrainSection], float],
    budget_gb: float,
    *,
    gpu: bool,
) -> list[str]:
    """What would be faster and fits too, alone and together with those before it.

    Args:
        recomputed: The share of the work done twice.
    """
    pairs = 2 * section.optim.micro_batch_pairs
    share = -(-section.optim.batch_pairs // max(1, section.workers.num_workers))
    faster: list[tuple[bool, Changes, str]] = [
        (
            gpu and section.train.precision == "float32",
            {"train.precision": "bfloat16"},
            "fits too ({:.1f} GB) and computes several times faster on a GPU",
        ),
        (
            section.train.checkpoint_activations,
            {"train.checkpoint_activations": False},
            f"fits too ({{:.1f}} GB) and saves {recomputed:.0%} of the work",
        ),
        (
            gpu and pairs <= share,
            {"optim.micro_batch_pairs": pairs},
            "fits too ({:.1f} GB): fewer, larger passes",
        ),
    ]
    lines: list[str] = []
    together: Changes = {}
    for applies, changes, gain in faster:
        needs = [
            need_gb(changed)
            for more in (changes, {**together, **changes})
            if applies and (changed := with_changes(section, more)) is not None
        ]
        if needs and max(needs) <= budget_gb:
            lines.append(f"{_shown(changes)} {gain.format(max(needs))}")
            together |= changes
    return lines


def with_changes(section: TrainSection, changes: Changes) -> TrainSection | None:
    """The recipe with some keys set; None where it would not be allowed."""
    recipe = OmegaConf.create(section.model_dump())
    for key, value in changes.items():
        OmegaConf.update(recipe, key, value)
    try:
        return TrainSection.model_validate(OmegaConf.to_container(recipe))
    except ValidationError:
        return None


def _shown(changes: Changes) -> str:
    """As a command line takes them: `train.weights=bfloat16 lora={}`."""
    return " ".join(
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in changes.items()
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU.

    For a CPU torch has no error of its own.
    """
    return isinstance(error, MemoryError) or any(
        word in str(error)
        for word in ("out of memory", "can't allocate memory", "not enough memory")
    )


def out_of_memory(
    section: TrainSection, error: BaseException, *, budget_gb: float | None
) -> OutOfMemoryInTrainingError:
    """One line about training that ran out of memory: what needs it by the plan, and what to set.

    Args:
        budget_gb: Memory of the worker's GPU; None where it is unknown.
    """
    cause = first_line(error)[:160]
    try:
        shape, _ = find_shape(section.base_model, section.tiny, hub=False)
        data = size_of_data(section.data, section.base_model, shape)
    except UserError as unknown:
        say(f"no plan for this model: {unknown}")
        return OutOfMemoryInTrainingError(
            f"out of memory ({cause}); lower optim.micro_batch_pairs, or set"
            " train.checkpoint_activations=true or lora"
        )
    gpu = section.workers.use_gpu
    cached = keeps_features(shape, data, section)
    planned = memory_of(shape, data.longest, section, cached=cached, gpu=gpu)
    planned_gb = sum(planned.values()) / GB
    # It did not fit, whatever the plan says.
    room = min(budget_gb or planned_gb, 0.9 * planned_gb)
    lines = advice(section, shape, data.longest, budget_gb=room, cached=cached, gpu=gpu)
    return OutOfMemoryInTrainingError(
        f"out of memory ({cause}); by `svco plan` a worker needs about {shown_parts(planned)};"
        f" {lines[0]}"
    )


def shown_parts(memory: dict[str, float]) -> str:
    """The total and its three largest parts, in words."""
    largest = sorted(memory, key=lambda part: -memory[part])[:3]
    parts = ", ".join(f"{part} {memory[part] / GB:.2g}" for part in largest)
    return f"{sum(memory.values()) / GB:.2g} GB ({parts})"
