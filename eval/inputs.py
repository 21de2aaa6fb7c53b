"""What is to be evaluated: the pairs of a split, the model and its base.

Reads files; knows nothing of torch, of Ray or of scores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from eval.config import EvalSection
from pipeline.core.recipe import RecipeError, absolute_path, fingerprint, first_line, is_hub_id
from pipeline.core.schema import MvcError, read_mvc, shard_paths
from pipeline.core.storage import read_json, sha256_file
from pipeline.core.training_record import MARKER, RECORD, read_training_record

COLUMNS = ("pair_id", "source", "category", "group", "question", "answer_a", "answer_b", "meta")
IMAGE_COLUMNS = ("image_a", "image_b")
WEIGHT_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
# enough of a model on the Hub to say what would be done
PLAN_FILES = ("config.json", "*/config.json", RECORD)
ADAPTER_CONFIG = "adapter_config.json"  # in a folder of adapters, which names their base
NOT_WEIGHTS = (RECORD, "prior.json", "metrics.json")

Role = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Models:
    """The folders of the evaluated model and of its base (None: no comparison)."""

    after: Path
    before: Path | None

    def by_role(self) -> dict[Role, Path]:
        """The folders to score, the base first."""
        return (
            {"after": self.after}
            if self.before is None
            else {"before": self.before, "after": self.after}
        )


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A model under test: `folder` is "" behind an endpoint, `weights` hashes all that decides."""

    name: str
    folder: str
    weights: str


def with_absolute_paths(section: EvalSection) -> EvalSection:
    """The recipe with its folders made absolute (a Hub id stays as it is).

    Raises:
        RecipeError: A relative path inside a Ray job.
    """
    paths: dict[str, Any] = {"out": absolute_path(section.out, "out")}
    for name in ("model", "base", "data"):
        value = getattr(section, name)
        is_word = not value or (name == "base" and value in ("auto", "none"))
        is_id = name != "data" and is_hub_id(value)
        paths[name] = value if is_word or is_id else absolute_path(value, name)
    paths["benchmarks"] = tuple(
        (
            entry
            if is_hub_id(entry.source)
            else entry.model_copy(
                update={"source": absolute_path(entry.source, "benchmarks.source")}
            )
        )
        for entry in section.benchmarks
    )
    return section.model_copy(update=paths)


def find_models(
    section: EvalSection, *, weights: bool = True, whole: Callable[[Path], None] = lambda _: None
) -> Models:
    """The folders of the model and of its base.

    Args:
        weights: Fetch a model on the Hub whole; if not, only what tells which models they are.
        whole: Is told each folder that should have the weights.

    Raises:
        RecipeError: A folder that is no model, a model whose training did not finish, or a base
            that is not there.
    """

    def folder_of(text: str, what: str) -> Path:
        folder = _model_folder(text, what, weights)
        if weights or Path(text).expanduser().is_dir():
            whole(folder)
        return folder

    after = folder_of(section.model, "model")
    if section.base == "none":
        return Models(after, None)
    if section.base != "auto":
        return Models(after, folder_of(section.base, "base"))
    record = read_training_record(after)
    if record is None and (after / MARKER).exists():
        raise RecipeError(
            f"model={section.model}: its training did not finish (no svco.json); run it again,"
            " or evaluate it as it is with base=FOLDER, or base=none"
        )
    named = str((record or {}).get("base_model") or "")
    if not named:
        return Models(after, None)
    inside = after / named
    try:
        return Models(after, folder_of(str(inside) if inside.is_dir() else named, "base"))
    except RecipeError as error:
        raise RecipeError(
            f"{error}; {after / RECORD} names it, so give base=FOLDER, or base=none to evaluate"
            " without it"
        ) from error


def _model_folder(text: str, what: str, weights: bool) -> Path:
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
            raise RecipeError(
                f"{what}={text}: expected a Hugging Face model folder, found neither config.json"
                f" nor {ADAPTER_CONFIG} in it"
            )
        return folder
    if not is_hub_id(text):
        raise RecipeError(
            f"{what}={text}: expected a Hugging Face model folder or a Hub id (org/name), found"
            " none there"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(text, allow_patterns=list(WEIGHT_FILES if weights else PLAN_FILES))
        )
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{what}={text}: neither a folder nor a model that the Hub gives out"
            f" ({first_line(error)})"
        ) from error


def weights_sha256(folder: Path) -> str:
    """One hash over weights, configuration, tokenizer and processor: what a model answers by.

    Raises:
        RecipeError: A folder without safetensors (no other format is read).
    """
    files = sorted(
        {path for pattern in WEIGHT_FILES for path in folder.glob(pattern)}
        - {folder / name for name in NOT_WEIGHTS}
    )
    if not any(path.suffix == ".safetensors" for path in files):
        raise RecipeError(
            f"{folder}: expected weights as *.safetensors, found none; save the model in that"
            " format"
        )
    hashes = [[path.name, sha256_file(path)] for path in files]
    adapter = folder / ADAPTER_CONFIG
    if adapter.is_file() and not (folder / "config.json").is_file():
        base = Path(str(read_json(adapter).get("base_model_name_or_path")))
        # one on the Hub is told by its name
        hashes += [["base", weights_sha256(base)]] if base.is_dir() else []
    return fingerprint(hashes)


def read_items(section: EvalSection, *, images: bool = True) -> pa.Table:
    """The pairs to evaluate, in the order of the split.

    Raises:
        MvcError: The folder is no MVC, its split is empty, or a pair lacks a text.
    """
    table = read_mvc(section.data, section.split, [*COLUMNS, *(IMAGE_COLUMNS if images else ())])
    if section.max_pairs is not None:
        table = table.slice(0, section.max_pairs)
    for name in COLUMNS:
        if name != "meta" and table[name].null_count:
            row = table[name].to_pylist().index(None)
            raise MvcError(
                f"{section.data}: pair {table['pair_id'][row]} (row {row} of {section.split}) has"
                f" no {name}; build the folder again"
            )
    return table


def data_sha256(section: EvalSection) -> str:
    """One hash over the shards of the evaluated split."""
    return fingerprint(
        [[path.name, sha256_file(path)] for path in shard_paths(section.data, section.split)]
    )


def stated_prior(models: Models) -> dict[str, list[str]] | None:
    """What a stated language prior favours, by question: `prior.json` beside the base, if any.

    Raises:
        RecipeError: The file has another form than {"favoured": {question: [answer, ..]}}.
    """
    folder = models.before or models.after
    path = folder / "prior.json"
    if not path.is_file():
        return None
    value = read_json(path)
    prior = value.get("favoured") if isinstance(value, dict) else None
    if not isinstance(prior, dict) or not all(
        isinstance(answers, list) for answers in prior.values()
    ):
        raise RecipeError(
            f'{path}: expected {{"favoured": {{question: [answer, ..]}}}}, got something else'
        )
    return prior
