"""The files of a model folder beside its weights: taken from the base, readable by older programs.

Transformers 4.x, and what is built on it, knows other names than 5.x for some things. Where files
state only the newer name, the older one is written beside it; files that state both stay as they
are, byte by byte.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.storage import read_json, write_json
from training.models.weight_files import INDEX

# The names of a tower's tensors in LLaVA: a level that a model has in 5.x only if its files had it.
NO_LEVEL = re.compile(r"(^|\.)vision_tower\.(?!vision_model\.)")
LEVEL = r"\1vision_tower.vision_model."
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_CONFIG = "processor_config.json"
# Of a processor's part, by its name in PROCESSOR_CONFIG.
PREPROCESSORS = {
    "image_processor": "preprocessor_config.json",
    "video_processor": "video_preprocessor_config.json",
}
# What tokens and pixels depend on. No code, and nothing else that a base's folder may hold.
PROCESSOR_FILES = (
    TOKENIZER_CONFIG,
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    PROCESSOR_CONFIG,
    *PREPROCESSORS.values(),
)


def base_file(base: str | Path, name: str) -> Path | None:
    """A file of a model folder or of a Hub id's cached snapshot; None where it has none."""
    from transformers.utils import cached_file

    path = cached_file(
        str(base),
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path)


def copy_files(base: str | Path, names: Iterable[str], folder: Path) -> None:
    """Copies those of the named files that a base has, links as what they point to."""
    for name in names:
        if (path := base_file(base, name)) is not None:
            shutil.copyfile(path, folder / name)


def add_older_names(folder: Path) -> None:
    """Writes what transformers 4.x looks for, where the files of a folder state it otherwise."""
    for name, older in (
        (CONFIG, _older_config),
        (TOKENIZER_CONFIG, _older_tokenizer),
        (PROCESSOR_CONFIG, _without_parts),
    ):
        if not (folder / name).is_file():
            continue
        stated = read_json(folder / name)
        if name == PROCESSOR_CONFIG:
            for part in PREPROCESSORS.keys() & stated.keys():
                _write_part(folder / PREPROCESSORS[part], stated, part)
        if (written := older(stated)) != stated:
            write_json(folder / name, written)
    _rename_tensors(folder)


def _older_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with `rope_theta`, `rope_scaling` and `torch_dtype`, for its text model too."""
    older = dict(config)
    if isinstance(text := config.get("text_config"), dict):
        older["text_config"] = _older_config(text)
    if "dtype" in config:
        older.setdefault("torch_dtype", config["dtype"])
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        older.setdefault("rope_theta", rope["rope_theta"])
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        if scaling.keys() - {"rope_type"} or scaling.get("rope_type", "default") != "default":
            # before 4.43 and in vLLM it is called `type`
            older.setdefault("rope_scaling", {"type": scaling.get("rope_type"), **scaling})
    return older


def _older_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    older = dict(config)
    if older.get("tokenizer_class") == "TokenizersBackend":
        older["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(extra := older.get("extra_special_tokens"), list):
        # a mapping of names in 4.x, which keeps such a list as this
        del older["extra_special_tokens"]
        older.setdefault("additional_special_tokens", extra)
    return older


def _without_parts(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in PREPROCESSORS}


def _write_part(path: Path, config: Mapping[str, Any], part: str) -> None:
    if path.is_file():
        return
    older = {**config[part], "processor_class": config.get("processor_class")}
    if kind := str(older.get("image_processor_type") or ""):
        # In 4.x the plain name means PIL, which resizes a little differently than torchvision.
        plain, pil, _ = kind.partition("Pil")
        older["image_processor_type"] = plain if pil else f"{kind.removesuffix('Fast')}Fast"
    write_json(path, older)


def _rename_tensors(folder: Path) -> None:
    """Gives the tensors of a vision tower the level of names that 5.x leaves out of new models."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = {name: NO_LEVEL.sub(LEVEL, name) for name in file.keys()}  # noqa: SIM118
            if all(name == older for name, older in names.items()):
                continue
            tensors = {older: file.get_tensor(name) for name, older in names.items()}
            metadata = file.metadata()
        save_file(tensors, path, metadata)
    if (index := folder / INDEX).is_file():
        stated = read_json(index)
        of_files = {NO_LEVEL.sub(LEVEL, name): file for name, file in stated["weight_map"].items()}
        if of_files != stated["weight_map"]:
            write_json(index, {**stated, "weight_map": of_files})
