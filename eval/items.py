"""What is to be evaluated: the pairs of a split, the model and its base, and whether it was done before.

Reads files; knows nothing of torch, of Ray or of scores.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from eval.config import EvalSection
from pipeline.recipe import RecipeError, absolute_path, fingerprint
from pipeline.schema import read_mvc, shard_paths
from pipeline.store import read_json, sha256_file

CODE_VERSION = 1  # raise when the same inputs would give other numbers
COLUMNS = ("pair_id", "source", "category", "group", "question", "answer_a", "answer_b", "meta")
IMAGE_COLUMNS = ("image_a", "image_b", "image_a_sha256", "image_b_sha256")
WEIGHT_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
NOT_WEIGHTS = ("svco.json", "prior.json", "metrics.json")

Role = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Models:
    """The folder of the evaluated model, and of the model that it was finetuned from (None: no comparison)."""

    after: Path
    before: Path | None

    def by_role(self) -> dict[Role, Path]:
        """The folders to score, the base first."""
        return {"after": self.after} if self.before is None else {"before": self.before, "after": self.after}


def with_absolute_paths(section: EvalSection) -> EvalSection:
    """The recipe with its folders made absolute (a Hub id stays as it is).

    Raises:
        RecipeError: A relative path inside a Ray job.
    """
    paths = {"data": absolute_path(section.data, "data"), "out": absolute_path(section.out, "out")}
    for name in ("model", "base"):
        value = getattr(section, name)
        is_word = name == "base" and value in ("auto", "none")
        paths[name] = value if is_word or _is_hub_id(value) else absolute_path(value, name)
    return section.model_copy(update=paths)


def _is_hub_id(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(text).exists()


def find_models(section: EvalSection) -> Models:
    """The folders of the model and of its base.

    Raises:
        RecipeError: A folder that is no model, or a base that the model names and that is not there.
    """
    after = _model_folder(section.model, "model")
    if section.base == "none":
        return Models(after, None)
    if section.base != "auto":
        return Models(after, _model_folder(section.base, "base"))
    record = after / "svco.json"
    if not record.is_file():
        return Models(after, None)
    named = str(read_json(record).get("base_model") or "")
    if not named:
        return Models(after, None)
    inside = after / named
    try:
        return Models(after, _model_folder(str(inside) if inside.is_dir() else named, "base"))
    except RecipeError as error:
        raise RecipeError(f"{error}; {record} names it, so give base=FOLDER, or base=none to evaluate without it") from error


def _model_folder(text: str, what: str) -> Path:
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RecipeError(f"{what}={text}: expected a Hugging Face model folder, found no config.json in it")
        return folder
    if not _is_hub_id(text):
        raise RecipeError(f"{what}={text}: expected a Hugging Face model folder or a Hub id (org/name), found none there")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=list(WEIGHT_FILES)))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(f"{what}={text}: neither a folder nor a model that the Hub gives out ({reason})") from error


def weights_sha256(folder: Path) -> str:
    """One hash over everything that decides what a model answers: weights, configuration, tokenizer, processor.

    Raises:
        RecipeError: A folder without safetensors (no other format is read).
    """
    files = sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern)} - {folder / name for name in NOT_WEIGHTS})
    if not any(path.suffix == ".safetensors" for path in files):
        raise RecipeError(f"{folder}: expected weights as *.safetensors, found none; save the model in that format")
    return fingerprint([[path.name, sha256_file(path)] for path in files])


def read_items(section: EvalSection, *, images: bool = True) -> pa.Table:
    """The pairs to evaluate in the order of the split, with `chunk`, the number of the unit of work they belong to.

    Raises:
        MvcError: The folder is no MVC or its split is empty.
    """
    table = read_mvc(section.data, section.split, [*COLUMNS, *(IMAGE_COLUMNS if images else ())])
    if section.max_pairs is not None:
        table = table.slice(0, section.max_pairs)
    return table.append_column("chunk", pa.array(np.arange(table.num_rows) // section.pairs_per_chunk))


def data_sha256(section: EvalSection) -> str:
    """One hash over the shards of the evaluated split."""
    return fingerprint([[path.name, sha256_file(path)] for path in shard_paths(section.data, section.split)])


def identity(section: EvalSection, models: Models, hashes: dict[Role, str], data: str) -> dict[str, Any]:
    """All that the numbers depend on; where it ran and where it was written is left out."""
    places = {"model", "base", "data", "out", "workers", "overwrite"}
    return {
        "version": CODE_VERSION,
        "models": dict(hashes),
        "data": data,
        "prior": fingerprint(favoured_answers(models)),
        "recipe": section.model_dump(mode="json", exclude=places),
    }


def scoring_fingerprint(section: EvalSection, weights: str, data: str) -> str:
    """Names the scores of one model: other intervals or another page leave them as they are."""
    parts = ("split", "max_pairs", "dtype", "batch_pairs", "pairs_per_chunk", "generate")
    return fingerprint(CODE_VERSION, weights, data, section.workers.use_gpu, {k: section.model_dump(mode="json")[k] for k in parts})


def is_finished(out: Path, wanted: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether `out` already holds exactly this evaluation.

    Raises:
        RecipeError: It holds another evaluation, or files of something else, and `overwrite` is false.
    """
    done = out / "DONE.json"
    if done.is_file():
        found = read_json(done).get("identity", {})
        if found == wanted:
            return True
        different = [name for name in wanted if found.get(name) != wanted[name]]
        if "recipe" in different:
            recipe, other = wanted["recipe"], found.get("recipe", {})
            different += [f"recipe.{name}" for name in recipe if other.get(name) != recipe[name]]
            different.remove("recipe")
        if not overwrite:
            raise RecipeError(
                f"out={out}: holds a finished evaluation that differs in {', '.join(different)}; "
                "choose another out, or give overwrite=true to replace it"
            )
    elif out.is_dir() and not (out / ".work").is_dir() and any(out.iterdir()):
        raise RecipeError(f"out={out}: expected an empty or new folder, found other files in it; choose another out")
    return False


def favoured_answers(models: Models) -> dict[str, list[str]] | None:
    """What a stated language prior favours, by question: `prior.json` beside the base (or the model), if there is one.

    Raises:
        RecipeError: The file has another form than {"favoured": {question: [answer, ..]}}.
    """
    folder = models.before or models.after
    path = folder / "prior.json"
    if not path.is_file():
        return None
    value = read_json(path)
    favoured = value.get("favoured") if isinstance(value, dict) else None
    if not isinstance(favoured, dict) or not all(isinstance(answers, list) for answers in favoured.values()):
        raise RecipeError(f'{path}: expected {{"favoured": {{question: [answer, ..]}}}}, got something else')
    return favoured
