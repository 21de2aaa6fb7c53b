"""What a training run says of itself in svco.json, for evaluation, model cards and publishing."""

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


def read_training_record(folder: Path) -> TrainingRecord | None:
    """The record of the run that made a folder; None where no run finished in it.

    Raises:
        UserError: The file is not JSON.
    """
    path = folder / RECORD
    return read_json(path) if path.is_file() else None
