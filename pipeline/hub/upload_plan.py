"""What would be pushed to the Hub: the files that belong there, checked, with their card.

Of an MVC folder, or of a folder with a model or an adapter.
"""

import fnmatch
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cards.dataset_card import render_card
from pipeline.cards.licenses import exceptions, refused
from pipeline.cards.model_card import portable, render_model_card
from pipeline.core.recipe import UserError
from pipeline.core.schema import MvcError, read_manifest, read_shard
from pipeline.core.storage import read_json
from pipeline.core.training_record import RECORD, read_training_record
from pipeline.dataset.validate import problems
from pipeline.hub.repository import Content, Kind

MAX_TOLD = 5  # licences that a message names
MODEL_CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_UNFILLED = "[More Information Needed]"  # in the card that PEFT writes beside each adapter
# What belongs to a model, of all that a training run leaves in its folder.
_MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
    "metrics.jsonl",
)
_NOT_OF_THE_MODEL = (RECORD, "result.json", "manifest.json")


@dataclass(frozen=True)
class UploadPlan:
    """Files by their paths in the repository, with what of an earlier version they replace.

    `proof` is the file that is read back whole after publishing; `replaced` are patterns of paths
    that this version owns.
    """

    kind: Kind
    files: Mapping[str, Content]
    proof: str
    replaced: tuple[str, ...]

    def stale(self, there: Collection[str]) -> list[str]:
        """Which files of an earlier version have to go.

        Left there, they would be read as part of this one.
        """
        return sorted(
            path
            for path in there
            if path not in self.files and any(fnmatch.fnmatchcase(path, p) for p in self.replaced)
        )


def plan_upload(folder: Path, repo: str, allowed: Collection[str] = ()) -> UploadPlan:
    """What to push of an MVC folder, or of a folder with a model or an adapter.

    Raises:
        UserError: Something is wrong with it, or a licence does not let it be published.
        MvcError: It is none of them.
    """
    if (folder / "manifest.json").is_file():
        return _plan_dataset(folder, repo, allowed)
    if any((folder / name).is_file() for name in (MODEL_CONFIG, ADAPTER_CONFIG)):
        return _plan_model(folder, repo)
    raise MvcError(
        f"{folder}: expected an MVC folder (manifest.json), a model folder ({MODEL_CONFIG} and"
        f" *.safetensors) or the folder of a PEFT adapter ({ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}),"
        " found none of them"
    )


def _plan_dataset(folder: Path, repo: str, allowed: Collection[str]) -> UploadPlan:
    """The shards that the manifest lists, manifest and report as they are, and a card for the Hub.

    The card is made from the manifest again, so what somebody wrote into README.md by hand does not
    get there.
    """
    errors = [problem for problem in problems(folder, quick=False) if not problem.is_warning]
    if errors:
        more = f" (and {len(errors) - 1:,} more)" if len(errors) > 1 else ""
        raise UserError(
            f"{folder}: not published, {errors[0].line()}{more}; `svco validate` tells all; build"
            " the folder again"
        )
    manifest = read_manifest(folder)
    kept, dropped = (
        _licenses(folder, manifest["files"], rejects=rejects) for rejects in (False, True)
    )
    _refuse_licenses(folder, kept, dropped, allowed)
    card = render_card(
        {**manifest, "licenses": kept}, repo=repo, exceptions=exceptions(kept + dropped, allowed)
    )
    names = [*sorted(manifest["files"]), "manifest.json", "report.html"]
    files: dict[str, Content] = {
        **{name: folder / name for name in names if (folder / name).is_file()},
        "README.md": card.encode(),
    }
    return UploadPlan("dataset", files, "manifest.json", ("data/*.parquet", "rejects/*.parquet"))


def _licenses(folder: Path, names: Collection[str], *, rejects: bool) -> Counter[str]:
    """How many pairs with a picture state which licence; "" where none is stated.

    The shards themselves are read.
    """
    counts = Counter[str]()
    for name in sorted(name for name in names if name.startswith("rejects/") == rejects):
        shard = read_shard(folder / name, ["license", "image_a_sha256", "image_b_sha256"])
        # A row that never had a picture passes nobody's picture on.
        counts.update(
            row["license"] or ""
            for row in shard.to_pylist()
            if row["image_a_sha256"] or row["image_b_sha256"]
        )
    return Counter(dict(sorted(counts.items())))


def _refuse_licenses(
    folder: Path, kept: Counter[str], dropped: Counter[str], allowed: Collection[str]
) -> None:
    """The rejects go to the Hub with their pictures, so their licences count as well."""
    reasons = refused(kept + dropped, allowed)
    if not reasons:
        return
    shown = sorted(reasons)[:MAX_TOLD]
    told = [
        f"{_numbers(kept[name], dropped[name])} under {name or 'no licence'!r}: it {reasons[name]}"
        for name in shown
    ]
    told += [f"and {len(reasons) - MAX_TOLD:,} more licences"] if len(reasons) > MAX_TOLD else []
    named = " ".join(f"--allow-license {name!r}" for name in shown if name)
    raise UserError(
        f"{folder}: not published, {'; '.join(told)}. Either state the licence in the recipe and"
        " build again, or leave out that source"
        + (f"; or, with permission, name it: {named}" if named else "")
    )


def _numbers(num_kept: int, num_dropped: int) -> str:
    parts = [
        f"{number:,} {what}"
        for number, what in ((num_kept, "kept"), (num_dropped, "dropped"))
        if number
    ]
    return " and ".join(parts) + (" pair" if num_kept + num_dropped == 1 else " pairs")


def _plan_model(folder: Path, repo: str) -> UploadPlan:
    """Weights, configuration and processor of a finetuned model, its record, and a card.

    The record comes without this machine's paths.

    A folder of a PEFT adapter holds what was trained and not the base model; its configuration
    names that, and where it does so by a path of this machine, it is refused. A README.md that is
    there stays as it is, unless PEFT left it unfilled.
    """
    adapter = _adapter_config(folder)
    weights = _checked_weights(folder, adapter is not None)
    record = portable(read_training_record(folder) or {})
    names = {
        path.name
        for pattern in _MODEL_FILES
        for path in folder.glob(pattern)
        if path.is_file() and path.name[0] != "."
    }
    leftover = {name for name in names if name.endswith(".safetensors")} - weights
    files: dict[str, Content] = {
        name: folder / name for name in sorted(names - leftover - set(_NOT_OF_THE_MODEL))
    }
    if record:
        files[RECORD] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    own_card = folder / "README.md"
    is_own = own_card.is_file() and _UNFILLED not in own_card.read_text(
        encoding="utf-8", errors="replace"
    )
    files["README.md"] = own_card if is_own else render_model_card(repo, record, adapter).encode()
    # A whole model where an adapter was, or the other way round, leaves nothing of the earlier
    # version.
    replaced = ("*.safetensors", "*.safetensors.index.json", MODEL_CONFIG, ADAPTER_CONFIG)
    return UploadPlan("model", files, MODEL_CONFIG if adapter is None else ADAPTER_CONFIG, replaced)


def _adapter_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of a PEFT adapter; None for a folder of a whole model.

    Raises:
        UserError: It does not name the base model, or names it by a path that exists nowhere
            else.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file() or (folder / MODEL_CONFIG).is_file():
        return None
    config = read_json(path)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{path}: not published, it does not say whose adapter it is; set"
            " base_model_name_or_path to the base model's Hub name"
        )
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", base, re.ASCII):
        raise UserError(
            f"{path}: not published, base_model_name_or_path={base!r} is a path of this machine,"
            " where nobody else finds the base model; set it to the base model's Hub name, or"
            " merge the adapter and publish the whole model"
        )
    recipe = (read_training_record(folder.parent) or {}).get("recipe", {})
    if (recipe.get("lora") or {}).get("merge") and recipe.get("train", {}).get("train_projector"):
        raise UserError(
            f"{folder}: not published, the projector was trained too, and it is in the merged model"
            f" alone; publish {folder.parent}, or train with train.train_projector=false"
        )
    return dict(config)


def _checked_weights(folder: Path, is_adapter: bool) -> set[str]:
    """The weight files, each of which can be opened.

    The adapter's, or all that the index names, or those that are there.

    Raises:
        UserError: There are none, or some cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file() and not is_adapter:
        weights = set(read_json(index)["weight_map"].values())
    else:
        pattern = ADAPTER_WEIGHTS if is_adapter else "*.safetensors"
        weights = {path.name for path in folder.glob(pattern) if path.is_file()}
    if not weights:
        raise UserError(
            f"{folder}: not published, it has no weights (*.safetensors); let the training finish"
            " first"
        )
    read_json(folder / (ADAPTER_CONFIG if is_adapter else MODEL_CONFIG))
    for name in sorted(weights):
        try:
            with safe_open(folder / name, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{folder / name}: not published, these weights cannot be read ({error}); train"
                " again"
            ) from error
    return weights
