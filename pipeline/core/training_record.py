"""What a training run says of itself in svco.json, for evaluation, model cards and publishing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pipeline.core.storage import read_json

# in a run's folder from the start; a folder of someone else's has not
MARKER = ".svco_train"
RECORD = "svco.json"  # written last: the run is finished


class RunFacts(TypedDict, total=False):
    """What tells one run from another."""

    recipe: dict[str, Any]
    data_sha256: str  # of the data's manifest, which has a hash of every shard
    base_sha256: str | None  # of the base model's weights, where they are in a folder of the user's


class TrainingRecord(RunFacts, total=False):
    """The file, as far as its reader needs it: one of another version may say more or less."""

    base_model: str  # a Hub id, a path, or "base", the folder beside the file
    objective: dict[str, Any]
    data: str
    pairs: dict[str, int]  # by split
    pairs_dropped_too_long: dict[str, int]
    pairs_left_out: dict[str, dict[str, int]]  # by split and reason, those too long among them
    steps: int
    best_step: int | None
    workers: int
    start: dict[str, float]  # over the held-out pairs before training
    final: dict[str, float]  # and after
    seconds: dict[str, float]


def measured_rows(start: Mapping[str, float], final: Mapping[str, float]) -> list[list[str]]:
    """What the held-out pairs say before and after training: name, before, after, as texts.

    Before the first step the model is its own reference: every margin is 0, which is neither right
    nor wrong, so an accuracy is no number yet.

        accuracy 0 -> 0.7812  ->  "accuracy", "tie", "78.1 %"
    """
    return [
        [
            _name(key),
            "tie" if key.startswith("accuracy") else _value(key, start[key]),
            _value(key, v),
        ]
        for key, v in final.items()
        if key in start
    ]


def _name(key: str) -> str:
    kind, _, term = key.partition("_")
    words = f"{kind} {term.replace('_', ' ')}".strip()
    return f"{words}, nats" if kind == "margin" else words


def _value(key: str, value: float) -> str:
    if key.startswith("accuracy"):
        return f"{100 * value:.1f} %"
    return f"{value:+.2f}" if key.startswith("margin") else f"{value:.4f}"


def read_training_record(folder: Path) -> TrainingRecord | None:
    """The record of the run that made a folder; None where no run finished in it.

    Raises:
        UserError: The file is not JSON.
    """
    path = folder / RECORD
    return read_json(path) if path.is_file() else None
