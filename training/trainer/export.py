"""The result of a run as a Hugging Face folder: a whole model, or adapters that name their base."""

from pathlib import Path
from typing import Any

import torch

from pipeline.cards.model_card import portable, render_model_card
from pipeline.core.storage import write_text
from pipeline.core.training_record import TrainingRecord
from training.config import TrainSection
from training.models.vlm import Vlm, load_vlm
from training.run_plan import ADAPTER
from training.runtime.environment import LocalEnv
from training.trainer.policy import TrainablePolicy, part_of


def export_model(
    trained: TrainablePolicy, section: TrainSection, record: TrainingRecord, env: LocalEnv
) -> None:
    """Writes the model, its processor and its card to `section.out`.

    Every worker calls it; rank 0 writes.

    A whole model is stored in the type of its base, so that it is no larger. Adapters are merged
    into the base read anew, because weights in 4 bits cannot take them up.
    """
    out = Path(section.out)
    weights = _whole_weights(trained) if trained.sharded else None
    if env.rank == 0:
        if section.lora is None:
            _save(trained.vlm, out, _stored_dtype(section), weights)
        elif section.lora.merge:
            trained.vlm.model.save_pretrained(out / ADAPTER)
            _save(_merged(trained, section, out / ADAPTER), out, _stored_dtype(section))
        else:
            trained.vlm.model.save_pretrained(out)
            trained.vlm.processor.save_pretrained(out)
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


def _save(vlm: Vlm, out: Path, kept: torch.dtype, weights: dict[str, Any] | None = None) -> None:
    for stale in (*out.glob("*.safetensors"), *out.glob("*.safetensors.index.json")):
        stale.unlink()  # of a run before, if it had more files
    if weights is None and all(parameter.dtype == kept for parameter in vlm.model.parameters()):
        vlm.model.save_pretrained(out)
    else:
        cast = {
            name: value.to(kept) if value.is_floating_point() else value
            for name, value in (weights or vlm.model.state_dict()).items()
        }
        vlm.model.save_pretrained(out, state_dict=cast)
        vlm.model.config.dtype = kept  # which save_pretrained states by the model's first parameter
        vlm.model.config.save_pretrained(out)
    vlm.processor.save_pretrained(out)


def _stored_dtype(section: TrainSection) -> torch.dtype:
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(section.base_model, trust_remote_code=False).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def _merged(trained: TrainablePolicy, section: TrainSection, adapter: Path) -> Vlm:
    """The base with the adapters in it, and what else was trained, such as the projector."""
    from peft import PeftModel

    vlm = load_vlm(section.base_model, dtype=_stored_dtype(section))
    model: Any = PeftModel.from_pretrained(vlm.model, adapter).merge_and_unload()
    mine = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in trained.vlm.model.named_parameters():
            if parameter.requires_grad and part_of(model, name) != "adapters":
                mine[name].copy_(parameter)
    return Vlm(model, vlm.processor, vlm.family)
