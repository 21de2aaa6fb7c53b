"""The result of a run as a Hugging Face folder: a whole model, or adapters that name their base.

A whole model is its base with other numbers where something was trained: the base's files, the
names, types and places of its tensors, and each bit of those that were frozen. So whatever reads
the base reads the result.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.cards.model_card import portable, render_model_card
from pipeline.core.recipe import UserError
from pipeline.core.storage import read_json, write_json, write_text
from pipeline.core.training_record import TrainingRecord
from training.config import TrainSection
from training.models.model_folder import (
    CONFIG,
    GENERATION_CONFIG,
    PROCESSOR_CONFIG,
    PROCESSOR_FILES,
    add_older_names,
    base_file,
    copy_files,
)
from training.models.vlm import Vlm
from training.models.weight_files import INDEX, WEIGHTS
from training.run_plan import ADAPTER
from training.runtime.environment import LocalEnv
from training.trainer.policy import TrainablePolicy, part_of

GIVE_BACK = (
    "put back what the run began with, and start it again: it goes on from its last checkpoint"
)
# What a processor of LLaVA needs to know of the model, which files of old versions leave out.
PLACEHOLDERS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
Change = Callable[[Tensor], Tensor]  # of the base's tensor to the trained one, in fp32


def export_model(
    trained: TrainablePolicy, section: TrainSection, record: TrainingRecord, env: LocalEnv
) -> None:
    """Writes the model, its processor and its card to `section.out`.

    Every worker calls it; rank 0 writes.

    A trained tensor is stored in the type that it has in the base, so that a model is no larger.
    Adapters are added to the base's own weights, whatever they were rounded to while training.
    """
    out = Path(section.out)
    gathered = _whole_weights(trained) if trained.sharded else {}
    if env.rank == 0:
        for stale in (*out.glob("*.safetensors"), *out.glob("*.safetensors.index.json")):
            stale.unlink()  # of a run before, if it had more files
        whole = section.lora is None or section.lora.merge
        if section.lora is not None:
            trained.vlm.model.save_pretrained(out / ADAPTER if whole else out)
        if whole:
            copy_files(section.base_model, (CONFIG, GENERATION_CONFIG), out)
            changes = trained_tensors(trained.vlm.model, gathered)
            _state_dtype(out, write_changed(section.base_model, trained.vlm.model, changes, out))
        copy_files(section.base_model, PROCESSOR_FILES, out)
        _state_placeholders(trained.vlm, out)
        add_older_names(out)
        write_text(out / "README.md", render_model_card(out.name, portable(record)))
    env.barrier()


def _whole_weights(trained: TrainablePolicy) -> dict[str, Any]:
    """All weights on rank 0, gathered from the workers."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(
        trained.policy, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    # as the model calls them, not Policy
    return {name.removeprefix("model."): value for name, value in state.items()}


def trained_tensors(model: Any, gathered: Mapping[str, Tensor]) -> dict[str, Change]:
    """What became of each tensor that was trained, by its name in the model without adapters.

    Tensors that are tied have several names, of which files may hold any, and one change.

    Args:
        gathered: Weights that lie on several workers, by name.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    whole = {id(value): gathered[name] for name, value in named if name in gathered}
    replaced = {
        id(value): _replaced(whole.get(id(value), value.detach()))
        for name, value in named
        if value.requires_grad and part_of(model, name) != "adapters"
    }
    added = {
        f"{name}.weight": _added(module, adapter)
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
        for adapter in module.active_adapters
    }
    return {name: replaced[id(value)] for name, value in named if id(value) in replaced} | added


def _replaced(value: Tensor) -> Change:
    return lambda _: value.cpu()


def _added(module: Any, adapter: str) -> Change:
    return lambda base: base.float() + module.get_delta_weight(adapter).detach().float().cpu()


def write_changed(
    base: str, model: Any, changes: Mapping[str, Change], folder: Path
) -> set[torch.dtype]:
    """Writes the weights of a base with some of them changed; all others keep their bits.

    Returns:
        The types of its floating-point tensors.

    Raises:
        UserError: The base's files are gone, or do not hold what was trained.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    names, dtypes, written = _names_in_files(model, changes), set(), set()
    for path in _weight_files(base):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        for name in tensors.keys() & names.keys():
            kept, change = tensors[name], changes[names[name]]
            tensors[name] = change(kept).to(kept.dtype, copy=True).contiguous()
            written.add(change)
        dtypes |= {value.dtype for value in tensors.values() if value.is_floating_point()}
        save_file(tensors, folder / path.name, metadata)
    if base_file(base, WEIGHTS) is None:
        copy_files(base, [INDEX], folder)
    if lost := [name for name, change in changes.items() if change not in written]:
        raise UserError(
            f"model {base!r}: {len(lost):,} of {len(changes):,} trained tensors are not in its"
            f" files ({', '.join(sorted(lost)[:3])}); {GIVE_BACK}"
        )
    return dtypes


def _names_in_files(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Names of a model's tensors by those in the files that it was loaded from."""
    from transformers.core_model_loading import revert_weight_conversion

    ordered = list(names)
    # each tensor is the number of its name
    numbers = {name: torch.tensor(number) for number, name in enumerate(ordered)}
    return {
        in_files: ordered[int(number)]
        for in_files, number in revert_weight_conversion(model, numbers).items()
    }


def _weight_files(base: str) -> list[Path]:
    """The files that transformers reads the weights of a base from."""
    whole, index = base_file(base, WEIGHTS), base_file(base, INDEX)
    if whole is not None:
        return [whole]
    names = sorted(set(read_json(index)["weight_map"].values())) if index is not None else []
    files = [base_file(base, name) for name in names]
    if not files or None in files:
        raise UserError(
            f"model {base!r}: expected its weights, with which the run began and which the result"
            f" is written from, found {len(list(filter(None, files)))} of their files; {GIVE_BACK}"
        )
    return list(filter(None, files))


def _state_dtype(folder: Path, dtypes: set[torch.dtype]) -> None:
    """Corrects a config.json that states another type than all tensors have.

    By what it states they would be rounded when they are read.
    """
    config = read_json(folder / CONFIG)
    dtype = str(next(iter(dtypes))).removeprefix("torch.")
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    stated = [(part, key) for part in parts for key in ("dtype", "torch_dtype") if part.get(key)]
    if len(dtypes) == 1 and any(part[key] != dtype for part, key in stated):
        for part, key in stated:
            part[key] = dtype
        write_json(folder / CONFIG, config)


def _state_placeholders(vlm: Vlm, folder: Path) -> None:
    """Writes from what a processor makes placeholders, where the base's files leave it out."""
    path, processor = folder / PROCESSOR_CONFIG, vlm.processor
    stated = read_json(path) if path.is_file() else {}
    needed = {
        name: getattr(processor, name)
        for name in PLACEHOLDERS
        if stated.get(name) is None and getattr(processor, name, None) is not None
    }
    if needed:
        write_json(path, {"processor_class": type(processor).__name__, **stated, **needed})
