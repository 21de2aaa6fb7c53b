"""How large a model is, part by part: read from its class, built without weights.

`ModelShape` is plain numbers and knows nothing of torch; `shape_of_config` loads torch and
transformers (some seconds), so the shapes of known models are kept in a file (`known_models`).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from pipeline.core.recipe import UserError

if TYPE_CHECKING:
    from torch import nn

Linear = tuple[int, int]  # width in, width out


class ShapeError(UserError):
    """A model whose size cannot be told; the message says why."""


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextShape(_Shape):
    """The language model: a decoder with a gated feed-forward layer and RMS norms."""

    num_layers: int
    width: int
    vocab: int
    num_heads: int
    linears: dict[str, Linear]  # the matrices of a layer by the last part of their name
    num_layer_vectors: int  # numbers of a layer that are in no matrix: norms and biases
    num_outside_parameters: (
        int  # embedding, last norm, and the output layer if it is one of its own
    )
    norms_heads: bool  # whether queries and keys are normalized

    @property
    def q_width(self) -> int:
        """Heads times the width of a head."""
        return self.linears["q_proj"][1]

    @property
    def kv_width(self) -> int:
        """The same for keys and values."""
        return self.linears["k_proj"][1]

    @property
    def ffn_width(self) -> int:
        """Of the feed-forward layer."""
        return self.linears["gate_proj"][1]

    @property
    def num_layer_weights(self) -> int:
        """Numbers in the matrices of a layer."""
        return sum(wide * high for wide, high in self.linears.values())

    @property
    def num_layer_parameters(self) -> int:
        """All numbers of a layer."""
        return self.num_layer_weights + self.num_layer_vectors

    @property
    def num_parameters(self) -> int:
        """All numbers of the language model, its output layer included."""
        return self.num_layers * self.num_layer_parameters + self.num_outside_parameters


class VisionShape(_Shape):
    """The vision tower without what maps its features to the language model."""

    num_layers: int
    width: int
    ffn_width: int
    num_layer_weights: int
    num_embedding_weights: int  # of the convolution that makes patches
    num_parameters: int
    # of what plays no part in the features, such as layers behind the chosen one
    num_unseen_parameters: int
    num_features: int | None  # of every image; None where it depends on the image's size
    patch_px: int
    merge: int  # so many patches to a side become one feature
    num_extra_tokens: int  # class token
    num_window_layers: int = 0  # layers in which a patch sees only a window
    window_patches: int = 0

    def num_patches(self, num_features: float) -> float:
        """Tokens that the tower computes on for an image of so many features."""
        return num_features * self.merge**2 + self.num_extra_tokens


class ModelShape(_Shape):
    """A vision-language model; `projector` are the matrices that each feature passes."""

    family: str
    text: TextShape
    vision: VisionShape
    projector: tuple[Linear, ...]
    num_projector_parameters: int
    feature_width: int  # what is kept per feature
    max_exact_tokens: int | None = None  # beyond it the model's rope changes (`models.rope`)

    @property
    def num_parameters(self) -> int:
        """All numbers of the model."""
        return self.text.num_parameters + self.vision.num_parameters + self.num_projector_parameters


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape of a model from what its config.json says; its class fills in the rest.

    Raises:
        ShapeError: Another kind of model, or a configuration that its class does not take.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from training.models.families import FAMILIES, refusal
    from training.models.rope import max_exact_length

    stated = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        full = AutoConfig.for_model(str(stated.pop("model_type", "")), **stated)
        reason = refusal(full)
        if not reason:
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(full, trust_remote_code=False)
    # What a class says of values that it does not take is of many types.
    except Exception as error:
        raise ShapeError(
            f"the configuration does not make a model ({type(error).__name__}: {error})"
        ) from error
    if reason:
        raise ShapeError(reason)
    projector = [
        (parameter.shape[1], parameter.shape[0])
        for parameter in _part(model, "projector").values()
        if parameter.ndim == 2
    ]
    return ModelShape(
        family=full.model_type,
        text=_text_shape(model),
        vision=_vision_shape(model, FAMILIES[full.model_type]),
        projector=tuple(projector),
        num_projector_parameters=_count(_part(model, "projector")),
        feature_width=sum(wide for wide, _ in projector[::2]),
        max_exact_tokens=max_exact_length(full),
    )


def _part(model: Any, part: str) -> "dict[str, nn.Parameter]":
    """The parameters of one part by name, those that are tied once."""
    from training.models.families import part_of

    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if part_of(model, name) == part
    }


def _count(parameters: "Mapping[str, nn.Parameter]") -> int:
    return sum(parameter.numel() for parameter in parameters.values())


def _layers(model: Any, part: str) -> "nn.ModuleList":
    """The layers of one part: its longest list of modules."""
    from torch import nn

    from training.models.families import part_of

    return max(
        (
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and part_of(model, f"{name}.") == part
        ),
        key=len,
    )


def _matrices(layer: "nn.Module") -> dict[str, Linear]:
    """(width in, width out) of a layer's matrices, by the last part of their name."""
    return {
        name.split(".")[-2]: (parameter.shape[1], parameter.shape[0])
        for name, parameter in layer.named_parameters()
        if parameter.ndim == 2
    }


def _text_shape(model: Any) -> TextShape:
    config, layers = model.config.text_config, _layers(model, "language model")
    linears = _matrices(layers[0])
    num_layer_parameters = _count(dict(layers[0].named_parameters()))
    return TextShape(
        num_layers=len(layers),
        width=config.hidden_size,
        vocab=config.vocab_size,
        num_heads=config.num_attention_heads,
        linears=linears,
        num_layer_vectors=num_layer_parameters - sum(map(math.prod, linears.values())),
        num_outside_parameters=(
            _count(_part(model, "language model")) - len(layers) * num_layer_parameters
        ),
        norms_heads=any(name.endswith("q_norm") for name, _ in layers[0].named_modules()),
    )


def _vision_shape(model: Any, family: Any) -> VisionShape:
    config, layers = model.config.vision_config, _layers(model, "vision tower")
    parameters = _part(model, "vision tower")
    num_features, num_unseen, num_extra = None, 0, 0
    if not family.any_size:
        num_features, num_unseen = _seen(model, family, parameters)
        positions = next(p for name, p in parameters.items() if "position_embedding" in name)
        num_extra = len(positions) - num_features
    in_full = getattr(config, "fullatt_block_indexes", range(len(layers)))
    return VisionShape(
        num_layers=len(layers),
        width=config.hidden_size,
        ffn_width=config.intermediate_size,
        num_layer_weights=sum(map(math.prod, _matrices(layers[0]).values())),
        num_embedding_weights=sum(p.numel() for p in parameters.values() if p.ndim > 3),
        num_parameters=_count(parameters),
        num_unseen_parameters=num_unseen,
        num_features=num_features,
        patch_px=config.patch_size,
        merge=getattr(config, "spatial_merge_size", 1),
        num_extra_tokens=num_extra,
        num_window_layers=len(layers) - sum(index < len(layers) for index in in_full),
        window_patches=(getattr(config, "window_size", 0) // config.patch_size) ** 2,
    )


def _seen(model: Any, family: Any, parameters: "Mapping[str, nn.Parameter]") -> tuple[int, int]:
    """How many features an image has, and how many of the tower's numbers play no part in them."""
    import torch

    side = model.config.vision_config.image_size
    features_1NV = family.see(model, torch.empty(1, 3, side, side, device="meta"))
    gradients = torch.autograd.grad(
        features_1NV.sum(), list(parameters.values()), allow_unused=True
    )
    seen = zip(parameters.values(), gradients, strict=True)
    return features_1NV.shape[1], sum(p.numel() for p, gradient in seen if gradient is None)
