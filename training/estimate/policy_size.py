"""How many numbers of a model are kept and trained under a recipe, part by part.

Knows nothing of torch.
"""

import re
from dataclasses import dataclass

from pipeline.core.recipe import RecipeError
from training.config import LoraSection, TrainSection
from training.estimate.model_shape import ModelShape, TextShape


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySize:
    """Numbers by what becomes of them."""

    language: int
    projector: int
    vision: int
    adapters: int
    quantized: int  # of the language model's, those kept in 4 bits
    trained_language: int
    trained_projector: int
    trained_vision: int

    @property
    def trained(self) -> int:
        """All that move."""
        return self.trained_language + self.trained_projector + self.trained_vision + self.adapters


def policy_size(shape: ModelShape, section: TrainSection) -> PolicySize:
    """The numbers of the model that `training.trainer.policy.build_policy` makes.

    Raises:
        RecipeError: `lora.targets` fits no layer.
    """
    use, text, lora = section.train, shape.text, section.lora
    return PolicySize(
        language=text.num_parameters,
        projector=shape.num_projector_parameters,
        vision=shape.vision.num_parameters,
        adapters=adapter_weights(text, lora) if lora else 0,
        quantized=text.num_layers * text.num_layer_weights if lora and lora.quantize else 0,
        trained_language=0 if lora else text.num_parameters,
        trained_projector=shape.num_projector_parameters if use.train_projector else 0,
        trained_vision=(
            0
            if use.freeze_vision
            else shape.vision.num_parameters - shape.vision.num_unseen_parameters
        ),
    )


def adapted(text: TextShape, lora: LoraSection) -> dict[str, tuple[int, int]]:
    """The matrices of one layer that get an adapter, by name: width in, width out.

    Raises:
        RecipeError: None do.
    """
    try:
        chosen = {
            name: size for name, size in text.linears.items() if re.fullmatch(lora.targets, name)
        }
    except re.error as error:
        raise RecipeError(
            f"lora.targets={lora.targets!r} is no regular expression ({error})"
        ) from error
    if not chosen:
        raise RecipeError(
            f"lora.targets={lora.targets!r} fits no layer of the language model; its linear layers"
            f" are {', '.join(text.linears)}"
        )
    return chosen


def adapter_weights(text: TextShape, lora: LoraSection) -> int:
    """Numbers in the adapters of all layers."""
    return (
        text.num_layers
        * lora.rank
        * sum(wide + high for wide, high in adapted(text, lora).values())
    )
