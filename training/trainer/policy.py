"""The model that is trained: which parts move, adapters, weights in memory and over workers.

Everything starts frozen; what is to be trained is then opened by name, so that nothing is trained
unnoticed.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.recipe import UserError
from training.config import LoraSection, TrainSection
from training.data.vision_features import freeze_unseen
from training.models import families
from training.models.attention import DENSE, SPLIT
from training.models.logps import logps_of_features
from training.models.packing import Packed
from training.models.vlm import Vlm, load_vlm
from training.models.weight_files import floating_types

# Patterns for the start of a layer's name, as transformers reads them.
NOT_IN_4_BITS = ["lm_head", r".*\.vision_tower", r".*\.visual", r".*\.multi_modal_projector"]


class Policy(nn.Module):
    """A model as a function from packed pairs to the log-probabilities of their responses.

    A module of its own, so that FSDP2 gathers all weights that the function needs, the output
    layer's included.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, packed: Packed, features_a: Any, features_b: Any) -> Tensor:
        """[P, 3, 2], as `logps_of_features`."""
        return logps_of_features(self.model, packed, features_a, features_b)


@dataclass(frozen=True, slots=True)
class TrainablePolicy:
    """What a run trains: a model, the function over it, and the parameters that move."""

    vlm: Vlm
    policy: Policy
    parameters: list[Any]
    sharded: bool


def part_of(model: Any, name: str) -> str:
    """The part of a parameter of this name: "adapters", or as `families.part_of` says."""
    return "adapters" if ".lora_" in name else families.part_of(model, name)


def build_policy(section: TrainSection, device: str, world_size: int) -> TrainablePolicy:
    """The model of a recipe, ready to train on this worker.

    Raises:
        UserError: A model that cannot be used, or adapters that fit none of its layers.
    """
    use = section.train
    vlm = _load(section, device)
    if section.lora is not None:
        add_adapters(vlm, section.lora)
    trained = trained_parts(section)
    for name, parameter in vlm.model.named_parameters():
        if part_of(vlm.model, name) in trained and parameter.dtype.is_floating_point:
            # Updates of 1e-6 vanish in 16 bits, the type of adapters on weights in 16 bits.
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    if not use.freeze_vision:
        freeze_unseen(vlm)
    if use.checkpoint_activations:
        _recompute_activations(vlm.model)
    policy = Policy(vlm.model)
    sharded = section.workers.shard and world_size > 1
    if sharded:
        _shard(policy, low_precision=use.precision == "bfloat16")
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return TrainablePolicy(vlm, policy, parameters, sharded)


def build_reference(section: TrainSection, device: str) -> TrainablePolicy:
    """The policy of a recipe as a run begins with it, whole in this process; nothing of it moves.

    Adapters begin as nothing, so none are made. Each part is held in the type that the run computes
    with, as `arithmetic` says: the numbers are then those that the run would find itself.

    Raises:
        UserError: A model that cannot be used.
    """
    vlm = _load(section, device)
    if _is_rounded_by_sharding(section):
        for name, parameter in vlm.model.named_parameters():
            if part_of(vlm.model, name) != "vision tower":
                parameter.data = parameter.data.bfloat16()
    return TrainablePolicy(vlm, Policy(vlm.model), [], sharded=False)


def arithmetic(section: TrainSection) -> str:
    """The types that a run of a recipe computes in before its first step.

    Numbers of a reference that were made in others are not those of the policy at its start; in
    bfloat16 they are off by tenths of a nat.
    """
    use, lora = section.train, section.lora
    quantize = lora.quantize if lora is not None else None
    if use.precision == "float32" and not quantize:
        return "float32"
    held = ", ".join(sorted(trained_parts(section) - {"adapters"})) or "nothing"
    return (
        f"{use.precision} on {quantize or use.weights} weights,"
        f" {'rounded to be shared' if _is_rounded_by_sharding(section) else f'{held} in float32'}"
    )


def _is_rounded_by_sharding(section: TrainSection) -> bool:
    """Whether workers gather weights in bfloat16 to compute with them."""
    return section.workers.shard and section.train.precision == "bfloat16"


def _recompute_activations(model: Any) -> None:
    """Keeps only each layer's input for the backward pass.

    Transformers does so in training mode alone. That mode must change nothing else: two responses
    share one pass over their prompt, so dropout would not be what it is in separate passes, and the
    reference is computed without it.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "dropout_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def trained_parts(section: TrainSection) -> frozenset[str]:
    """The parts of the model that a recipe trains."""
    moves = {
        "adapters": section.lora is not None,
        "language model": section.lora is None,
        "projector": section.train.train_projector,
        "vision tower": not section.train.freeze_vision,
    }
    return frozenset(part for part, trained in moves.items() if trained)


def _load(section: TrainSection, device: str) -> Vlm:
    """The model of a recipe: in fp32 what it trains, without rounding, the rest as it keeps it."""
    kept = torch.bfloat16 if section.train.weights == "bfloat16" else torch.float32
    kernel = SPLIT if section.train.attention == "split" else DENSE
    quantize = section.lora is not None and section.lora.quantize is not None
    vlm = load_vlm(
        section.base_model,
        dtype=torch.float32 if kept == torch.float32 else _stored_type(section.base_model),
        attention=kernel,
        # Weights in 4 bits are put where they belong while they are read.
        **({"quantization_config": _four_bits(), "device_map": {"": device}} if quantize else {}),
    )
    vlm.model.requires_grad_(False)
    trained = trained_parts(section)
    for name, parameter in vlm.model.named_parameters():
        if parameter.dtype.is_floating_point:
            held = torch.float32 if part_of(vlm.model, name) in trained else kept
            parameter.data = parameter.data.to(held)
    if not quantize:
        vlm.model.to(device)
    return vlm


def _stored_type(model: str) -> torch.dtype:
    """The type that holds all weights of a model's files without rounding."""
    sixteen_bits = {frozenset({"BF16"}): torch.bfloat16, frozenset({"F16"}): torch.float16}
    return sixteen_bits.get(floating_types(model), torch.float32)


def _four_bits() -> Any:
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise UserError(
            "lora.quantize=nf4 needs bitsandbytes; pip install --editable '.[qlora]', or set"
            " lora.quantize=null"
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=NOT_IN_4_BITS,
    )


def add_adapters(vlm: Vlm, lora: LoraSection) -> None:
    """Puts low-rank adapters on layers of the language model, and on nothing else.

    Raises:
        UserError: `lora.targets` fits no linear layer of the language model.
    """
    from peft import LoraConfig

    language = [
        name
        for name, module in vlm.model.named_modules()
        if isinstance(module, nn.Linear)
        and part_of(vlm.model, f"{name}.weight") == "language model"
        and name != "lm_head"
    ]
    chosen = [name for name in language if re.fullmatch(lora.targets, name.rpartition(".")[2])]
    if not chosen:
        known = sorted({name.rpartition(".")[2] for name in language})
        raise UserError(
            f"lora.targets={lora.targets!r} fits no layer of the language model; its linear layers"
            f" are {', '.join(known)}"
        )
    # Every layer by its whole name: a pattern would reach the vision tower's layers of the same
    # name.
    vlm.model.add_adapter(
        LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=chosen, bias="none"
        )
    )


def _shard(policy: Policy, *, low_precision: bool) -> None:
    """Spreads the weights over the workers (FSDP2), layer by layer.

    The frozen vision tower, called apart, stays whole.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    mixed = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if low_precision
        else MixedPrecisionPolicy()
    )
    for layer in policy.model.model.language_model.layers:
        fully_shard(layer, mp_policy=mixed)
    apart = set(families.parameters_of(policy.model, "vision tower"))
    fully_shard(policy, mp_policy=mixed, ignored_params=apart)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by the pairs of the whole step, so gradients are summed over the
            # workers, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums


def parameter_table(model: Any) -> list[list[str]]:
    """One row per part of the model: its parameters, and how many of them are trained."""
    total, moving = Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        part = part_of(model, name)
        total[part] += parameter.numel()
        moving[part] += parameter.numel() if parameter.requires_grad else 0
    return [[part, f"{total[part]:,}", f"{moving[part]:,}"] for part in total]


def check_frozen(model: Any, trained: frozenset[str]) -> None:
    """Raises UserError if a parameter is trained that the recipe does not train, or nothing is."""
    moving = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    wrong = [name for name in moving if part_of(model, name) not in trained]
    if wrong:
        raise UserError(
            f"expected only {', '.join(sorted(trained))} to be trained, but so would be"
            f" {', '.join(wrong[:4])}"
        )
    if not moving:
        raise UserError(
            f"nothing would be trained: the model has no parameters in {', '.join(sorted(trained))}"
        )
