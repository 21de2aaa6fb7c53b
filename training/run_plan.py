"""What a training run would do, checked as far as that goes without torch or Ray."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.core.hub_models import hub_fault
from pipeline.core.recipe import RecipeError, UserError, absolute_path, is_hub_id
from pipeline.core.schema import MvcError, read_manifest, reading_shard, shard_paths
from pipeline.core.storage import Owner, read_json, sha256_file
from pipeline.core.training_record import (
    MARKER,
    RECORD,
    RunFacts,
    TrainingRecord,
    read_training_record,
)
from training.config import TrainSection
from training.models.model_check import check_models
from training.models.weight_files import ADAPTER_CONFIG, floating_types

# Of a run, in `out`, beside RECORD.
RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
ADAPTER = "adapter"  # adapters, beside the model into which they are merged
CHECKPOINTS = ".checkpoints"  # of an unfinished run
# What is known of the model that training starts from.
FILES, TEMPLATE, ROUNDED = "its files", "its template", "its frozen weights"
# Of an unfinished run, in CHECKPOINTS.
ATTEMPT = "attempt"  # names the one process that may write there
RUN = "run.json"  # which run it is
WANDB_ID = "wandb_id"
BEST = "best"  # the checkpoint with the lowest validation loss
STATE = "state.json"  # of a checkpoint: written last
# Of a reference table.
REFERENCE_DONE = "DONE.json"  # written last
REFERENCE_PARTS = ".parts"
TRAINING_RUN = Owner("training run", (MARKER, RECORD), never=("manifest.json",))
REFERENCE_TABLE = Owner("reference table", (REFERENCE_DONE, REFERENCE_PARTS))
# what may change while a run goes on: the result is the same
NOT_THE_RUN = ("out", "workers", "log", "checkpoint", "store_features")


@dataclass(frozen=True)
class Plan:
    """A checked run: absolute paths, data that is there, an `out` that may be written."""

    section: TrainSection
    num_pairs: dict[str, int]
    finished: TrainingRecord | None  # if this very run is done

    @property
    def out(self) -> Path:
        """Where the model goes."""
        return Path(self.section.out)


def plan_training(section: TrainSection) -> Plan:
    """What a run would do, checked as far as that goes without torch or Ray.

    Raises:
        RecipeError, MvcError: Paths, data or an `out` that cannot be used.
    """
    section = _with_absolute_paths(section)
    read_manifest(section.data)
    num_pairs = {split: num_rows(section.data, split) for split in ("train", "validation")}
    if not num_pairs["train"]:
        raise MvcError(
            f"{section.data}: split 'train' has no rows, so there is nothing to train on"
        )
    _refuse_other_unfinished(section)
    return Plan(section, num_pairs, _finished(section))


def plan_reference(section: TrainSection) -> Plan:
    """As `plan_training`, for a folder that takes a reference table.

    Raises:
        RecipeError, MvcError: Paths, data or an `out` that cannot be used.
    """
    section = _with_absolute_paths(section)
    if section.model == "tiny":
        raise RecipeError(
            "model=tiny: is made by training itself; give the folder of a model, for example <out"
            " of a run>/base"
        )
    if section.store_features and not section.train.freeze_vision:
        raise RecipeError(
            "store_features: features of a tower that is trained change with every step; set"
            " train.freeze_vision=true"
        )
    read_manifest(section.data)
    num_pairs = {split: num_rows(section.data, split) for split in ("train", "validation")}
    REFERENCE_TABLE.check(Path(section.out))
    return Plan(section, num_pairs, None)


def check_base(section: TrainSection, *, only_planned: bool = False) -> dict[str, str]:
    """Makes sure that training can start from the recipe's model, by headers of its files.

    Args:
        only_planned: A model that cannot be reached from here is then no error.

    Returns:
        What is known of it, in words: of "its files", and of "its template" and "its frozen
        weights" if anything is done to them.

    Raises:
        UserError: No such model, or one that cannot be used, with the reason.
    """
    if section.model == "tiny":
        return {FILES: "made from the data when training starts"}
    if not Path(section.model).is_dir():
        fault = hub_fault(section.model, ("config.json", "model.safetensors"))
        if fault and not only_planned:
            raise UserError(
                f"model={section.model}: neither a folder nor a model that can be had; {fault}"
            )
        if fault:
            return {FILES: f"not looked at: {fault}"}
    (closed,) = check_models([section.model], trained=True, here=not only_planned)
    rounded = _rounding(section)
    return {
        FILES: "hold all tensors of its class",
        **({TEMPLATE: closed} if closed else {}),
        **({ROUNDED: rounded} if rounded else {}),
    }


def _rounding(section: TrainSection) -> str:
    """What `train.weights` does to a base of another type, in words; "" if nothing."""
    if section.train.weights == "float32":
        return ""
    wide = {"F32": "float32", "F16": "float16", "F64": "float64"}
    types = sorted(wide[name] for name in floating_types(section.model) & wide.keys())
    if not types:
        return ""
    return (
        f"{' and '.join(types)} in its files, are rounded to bfloat16 while training"
        " (train.weights); the result has them as they were, and what is trained starts unrounded"
    )


def reference_part(parts: Path, split: str, index: int) -> Path:
    """The file of one chunk of a reference table."""
    return parts / f"{split}-{index:05d}.parquet"


def feature_part(folder: Path, split: str, index: int) -> Path:
    """The file of one chunk of a split's vision features."""
    return folder / f"features-{split}-{index:05d}.parquet"


def feature_parts(folder: Path, split: str | None = None) -> list[Path]:
    """The files of vision features in a folder, of one split or of all."""
    return sorted(folder.glob(f"features-{split or '*'}-*.parquet"))


def num_rows(folder: str | Path, split: str) -> int:
    """How many pairs a split has, from the files' footers alone; 0 where it is not there."""
    total = 0
    for path in shard_paths(folder, split):
        with reading_shard(path):
            total += pq.read_metadata(path).num_rows
    return total


def _with_absolute_paths(section: TrainSection) -> TrainSection:
    given = {
        "data": section.data,
        "out": section.out,
        **({"reference": section.reference} if section.reference else {}),
    }
    if section.model != "tiny" and not is_hub_id(section.model, needs_org=False):
        given["model"] = section.model
    paths = {name: absolute_path(path, name) for name, path in given.items()}
    for name, path in paths.items():
        if "://" in path:
            raise RecipeError(
                f"{name}={path}: training reads and writes local folders only; copy it, or mount it"
            )
    if "model" in paths and not (Path(paths["model"]) / "config.json").is_file():
        adapters = (Path(paths["model"]) / ADAPTER_CONFIG).is_file()
        held = "adapters; train from a model that they are merged into" if adapters else "none"
        raise RecipeError(
            f"model={paths['model']}: expected a Hugging Face model folder with config.json, found"
            f" {held}"
        )
    return section.model_copy(update=paths)


def data_sha256(section: TrainSection) -> str:
    """A hash of the data's manifest, which has one of every shard."""
    return sha256_file(Path(section.data) / "manifest.json")


def base_sha256(section: TrainSection) -> str | None:
    """A hash of configuration and weights that training starts from, if in a folder of the user's.

    None for the tiny model, which the recipe and the data determine, and for a Hub id.
    """
    folder = Path(section.model)
    if section.model == "tiny" or not folder.is_dir():
        return None
    return _sha256_of_all(
        tuple(
            (file, file.stat().st_size, file.stat().st_mtime_ns)
            for file in (folder / "config.json", *sorted(folder.glob("*.safetensors")))
        )
    )


@functools.lru_cache
def _sha256_of_all(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Once per process: weights may be many gigabytes."""
    return hashlib.sha256(
        "".join(f"{file.name} {sha256_file(file)}\n" for file, *_ in files).encode()
    ).hexdigest()


def base_of_run(section: TrainSection) -> str | None:
    """`base_sha256` as the driver of this run noted it, so that workers need not read weights."""
    noted = Path(section.out) / CHECKPOINTS / RUN
    return read_json(noted)["base_sha256"] if noted.is_file() else base_sha256(section)


def _finished(section: TrainSection) -> TrainingRecord | None:
    """What a finished run of this recipe on this data left in `out`; None if there is none.

    Raises:
        RecipeError: `out` holds another run's result.
        UserError: `out` holds things that are not ours.
    """
    out = Path(section.out)
    TRAINING_RUN.check(out)
    record = read_training_record(out)
    if record is None:
        return None
    different = _differences(section, record)
    if different:
        raise RecipeError(
            f"out={out}: holds a finished run that differs in {', '.join(different)}; choose"
            " another out, or delete it"
        )
    return record if _has_weights(out) else None


def run_facts(section: TrainSection) -> RunFacts:
    """What must be the same for an unfinished run to be gone on with: recipe and data."""
    return {
        "recipe": section.model_dump(mode="json"),
        "data_sha256": data_sha256(section),
        "base_sha256": base_sha256(section),
    }


def _differences(section: TrainSection, record: RunFacts) -> list[str]:
    ours, theirs = section.model_dump(mode="json"), record.get("recipe", {})
    different = [
        name for name in ours if name not in NOT_THE_RUN and ours[name] != theirs.get(name)
    ]
    if record.get("data_sha256") != data_sha256(section):
        different.append("the content of data")
    # Weights of many gigabytes are read only where everything else is the same.
    if not different and record.get("base_sha256") != base_sha256(section):
        different.append("the weights of model")
    return different


def _refuse_other_unfinished(section: TrainSection) -> None:
    folder = Path(section.out) / CHECKPOINTS
    if not (folder / RUN).is_file():
        return
    different = _differences(section, read_json(folder / RUN))
    if different:
        raise RecipeError(
            f"out={section.out}: holds an unfinished run that differs in {', '.join(different)}; go"
            f" on with its own recipe, choose another out, or delete {folder}"
        )


def _has_weights(folder: Path) -> bool:
    """Whether the safetensors files are there: all of the index, or any without an index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    return all((folder / name).is_file() for name in set(read_json(index)["weight_map"].values()))
