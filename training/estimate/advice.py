"""What to change in a recipe that needs too much memory, or leaves much unused: keys to set, each
with what it gives.
"""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from pipeline.core.progress import say
from pipeline.core.recipe import UserError
from training.config import TrainSection
from training.estimate.data_size import size_of_data
from training.estimate.flops import PairLengths, train_flops_per_pair
from training.estimate.known_models import find_shape
from training.estimate.memory import GB, Memory, memory_of
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
    """Lines that each name recipe keys to set, the most useful first; none if nothing is to be
    gained.

    Args:
        lengths: Of the longest pairs.
        budget_gb: Memory of one worker, in 10^9 bytes.
        cached: Whether the features of all images are kept.
    """

    def need_gb(changed: TrainSection) -> float:
        return memory_of(shape, lengths, changed, cached=cached, gpu=gpu).total / GB

    if need_gb(section) <= budget_gb:
        return _use_of_room(section, shape, lengths, need_gb, budget_gb, cached=cached, gpu=gpu)
    changes, best = _enough(section, need_gb, budget_gb)
    lines = []
    if changes and need_gb(best) <= budget_gb:
        lines.append(f"set {_keys(changes)}: {need_gb(best):.1f} GB a worker, which fits")
    else:
        lines.append(
            f"even with {_keys(changes)} a worker needs {need_gb(best):.1f} GB of {budget_gb:.1f};"
            " take a smaller model or larger GPUs"
        )
    singles = [(need_gb(changed), one) for one, changed in _levers(section) if one != changes]
    saving = [
        single
        for single in sorted(singles, key=lambda single: single[0])
        if single[0] < need_gb(section)
    ]
    lines += [f"{_keys(one)} alone: {gb:.1f} GB a worker" for gb, one in saving[:3]]
    if "lora" in changes:
        lines.append(f"adapters learn at a higher rate than whole models: try optim.lr={LORA_LR:g}")
    return lines


def _use_of_room(
    section: TrainSection,
    shape: ModelShape,
    lengths: PairLengths,
    need_gb: Callable[[TrainSection], float],
    budget_gb: float,
    *,
    cached: bool,
    gpu: bool,
) -> list[str]:
    lines = []
    if gpu and section.train.precision == "float32":
        lines.append("train.precision=bfloat16 computes several times faster on a GPU")
    if section.train.checkpoint_activations:
        kept = with_changes(section, {"train.checkpoint_activations": False})
        if kept is not None and need_gb(kept) <= budget_gb:
            flops = train_flops_per_pair(shape, lengths, section, cached=cached)
            saved = flops.recompute / flops.total
            lines.append(
                f"train.checkpoint_activations=false fits too ({need_gb(kept):.1f} GB) and saves"
                f" {saved:.0%} of the work"
            )
    share = -(-section.optim.batch_pairs // max(1, section.workers.num_workers))
    twice = with_changes(section, {"optim.micro_batch_pairs": 2 * section.optim.micro_batch_pairs})
    if (
        gpu
        and twice is not None
        and 2 * section.optim.micro_batch_pairs <= share
        and need_gb(twice) <= budget_gb
    ):
        lines.append(
            f"optim.micro_batch_pairs={twice.optim.micro_batch_pairs} fits too"
            f" ({need_gb(twice):.1f} GB): fewer, larger passes"
        )
    return lines


def _enough(
    section: TrainSection, need_gb: Callable[[TrainSection], float], budget_gb: float
) -> tuple[Changes, TrainSection]:
    """Changes that together fit, without any that is not needed; those that save most if none fit."""
    changes: Changes = {}
    current = section
    while need_gb(current) > budget_gb:
        better = next(
            (
                (one, changed)
                for one, changed in _levers(current)
                if need_gb(changed) < need_gb(current)
            ),
            None,
        )
        if better is None:
            return changes, current
        changes |= better[0]
        current = better[1]
    for key in list(changes):
        fewer = {other: value for other, value in changes.items() if other != key}
        changed = with_changes(section, fewer)
        if changed is not None and need_gb(changed) <= budget_gb:
            changes, current = fewer, changed
    return _largest_pass(section, changes, current, need_gb, budget_gb)


def _largest_pass(
    section: TrainSection,
    changes: Changes,
    best: TrainSection,
    need_gb: Callable[[TrainSection], float],
    budget_gb: float,
) -> tuple[Changes, TrainSection]:
    """The same changes with as many pairs in a pass as fit."""
    key = "optim.micro_batch_pairs"
    while key in changes and 2 * changes[key] < section.optim.micro_batch_pairs:
        larger = with_changes(section, {**changes, key: 2 * changes[key]})
        if larger is None or need_gb(larger) > budget_gb:
            break
        changes, best = {**changes, key: 2 * changes[key]}, larger
    return changes, best


def _levers(section: TrainSection) -> Iterator[tuple[Changes, TrainSection]]:
    """Single changes that save memory, those that cost least first."""
    use, workers, lora = section.train, section.workers, section.lora
    candidates: list[Changes] = []
    if use.precision == "float32" and workers.use_gpu:
        candidates.append({"train.precision": "bfloat16"})
    if use.weights == "float32" and workers.use_gpu and (lora or use.freeze_vision):
        candidates.append({"train.weights": "bfloat16", "train.precision": "bfloat16"})
    if section.optim.micro_batch_pairs > 1:
        candidates.append({"optim.micro_batch_pairs": section.optim.micro_batch_pairs // 2})
    if not use.checkpoint_activations:
        candidates.append({"train.checkpoint_activations": True})
    if workers.num_workers > 1 and not workers.shard:
        candidates.append({"workers.shard": True})
    if not use.freeze_vision:
        candidates.append({"train.freeze_vision": True})
    if lora is None:
        candidates.append({"lora": {}, "train.freeze_vision": True})
    elif lora.quantize is None and workers.use_gpu:
        candidates.append({"lora.quantize": "nf4", "workers.shard": False})
    for changes in candidates:
        differing = {key: value for key, value in changes.items() if _value(section, key) != value}
        changed = with_changes(section, differing)
        if changed is not None:
            yield differing, changed


def with_changes(section: TrainSection, changes: Changes) -> TrainSection | None:
    """The recipe with some keys set; None where it would not be allowed."""
    recipe = section.model_dump()
    for key, value in changes.items():
        *parents, last = key.split(".")
        part = recipe
        for parent in parents:
            part = part[parent] if part[parent] is not None else part.setdefault(parent, {}) or {}
        part[last] = value
    try:
        return TrainSection.model_validate(recipe)
    except ValidationError:
        return None


def _value(section: TrainSection, key: str) -> Any:
    found: Any = section
    for name in key.split("."):
        found = getattr(found, name, None)
    return found


def _keys(changes: Changes) -> str:
    return (
        " ".join(f"{key}={_shown(value)}" for key, value in changes.items()) or "nothing to change"
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a GPU, or on a CPU, where torch has no error of
    its own for it.
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
    cause = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
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
    planned = memory_of(shape, data.longest, section, gpu=gpu)
    # It did not fit, whatever the plan says.
    room = min(budget_gb or planned.total / GB, 0.9 * planned.total / GB)
    lines = advice(section, shape, data.longest, budget_gb=room, gpu=gpu)
    return OutOfMemoryInTrainingError(
        f"out of memory ({cause}); by `svco plan` a worker needs about {shown_parts(planned)};"
        f" {lines[0]}"
    )


def shown_parts(memory: Memory) -> str:
    """The total and its three largest parts, in words."""
    parts = {name: getattr(memory, name) for name in memory.__dataclass_fields__}
    largest = sorted(parts.items(), key=lambda item: -item[1])[:3]
    return (
        f"{memory.total / GB:.2g} GB"
        f" ({', '.join(f'{name} {size / GB:.2g}' for name, size in largest)})"
    )
