"""Where families of models differ: names of parts, what towers see, where image tokens stand.

All else is done by processor and configuration, alike for all. A family is listed here once packed
rows have been shown to equal separate passes for it, in value and in every gradient
(tests/training).

Shapes: I images, h x w patches of an image, D values per patch, N features of an image, V their
width before the projector, H the language model's width, A axes of a position, P tokens of a
prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from training.models.packing import Ints

Images = Tensor | list[Tensor]  # one tensor per image; stacked where all have one shape


class Family(Protocol):
    """What differs between families; models and configurations are those of transformers."""

    any_size: bool  # whether the number of an image's features depends on its size
    tower: str  # how the names of the vision tower's parameters start
    # the same for what maps its features to the language model, which may lie within the tower
    projectors: tuple[str, ...]

    def refusal(self, config: Any) -> str:
        """Why a model of this family with this configuration cannot be used, or ""."""

    def per_image(self, processed: Mapping[str, Any]) -> Images:
        """What an image processor made, image by image.

        The shape of each says how many features it will have.
        """

    def model_inputs(self, pixels: Images) -> dict[str, Tensor]:
        """The reverse: what the model's forward takes."""

    def num_features(self, config: Any, pixels: Tensor) -> int:
        """How many features the model makes of an image."""

    def see(self, model: Any, pixels: Images) -> Images:
        """What the tower sees in each image, before the projector: [N, V] each."""

    def project(self, model: Any, features_NV: Sequence[Tensor]) -> Any:
        """Those features as the output of the model's own image encoder."""

    def positions(
        self, model: Any, prompt: Sequence[int], pixels_shape: Sequence[int]
    ) -> Ints | None:
        """Where the tokens of a prompt with one image stand and the next would, [A, P + 1].

        None: one after the other.
        """


class Llava(Family):
    """LLaVA-1.5 and LLaVA-Interleave: all images of one size.

    A CLIP or SigLIP tower, a projector, a Llama or Qwen2.
    """

    any_size = False
    tower = "model.vision_tower."
    projectors = ("model.multi_modal_projector.",)

    def refusal(self, config: Any) -> str:
        return _not_among("text model", config.text_config, ("llama", "qwen2")) or _not_among(
            "vision tower", config.vision_config, ("clip_vision_model", "siglip_vision_model")
        )

    def per_image(self, processed: Mapping[str, Any]) -> Images:
        return processed["pixel_values"]

    def model_inputs(self, pixels: Images) -> dict[str, Tensor]:
        return {"pixel_values": pixels if isinstance(pixels, Tensor) else torch.stack(pixels)}

    def num_features(self, config: Any, pixels: Tensor) -> int:
        side = config.vision_config.patch_size
        whole = (
            config.vision_config.model_type == "clip_vision_model"
            and config.vision_feature_select_strategy == "full"
        )
        # with the class token
        return (pixels.shape[-2] // side) * (pixels.shape[-1] // side) + int(whole)

    def see(self, model: Any, pixels: Images) -> Images:
        states = model.model.vision_tower(
            **self.model_inputs(pixels), output_hidden_states=True
        ).hidden_states
        layers = model.config.vision_feature_layer
        # where it is to be left out, without the class token
        start = 1 if model.config.vision_feature_select_strategy == "default" else 0
        chosen = [layers] if isinstance(layers, int) else layers
        return torch.cat([states[layer][:, start:] for layer in chosen], dim=-1)

    def project(self, model: Any, features_NV: Sequence[Tensor]) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        projector = model.model.multi_modal_projector
        projected_NH = projector(torch.cat(list(features_NV)).to(_type_of(projector)))
        return BaseModelOutputWithPooling(pooler_output=[projected_NH])

    def positions(
        self,
        model: Any,  # noqa: ARG002
        prompt: Sequence[int],  # noqa: ARG002
        pixels_shape: Sequence[int],  # noqa: ARG002
    ) -> Ints | None:
        return None


class QwenVl(Family):
    """Qwen2.5-VL and Qwen3-VL: images of any size, positions with three axes.

    The projectors ("mergers") lie in the tower.

    A merger maps each square of neighboring patches to one feature; what the tower sees is kept
    before that, a square's patches side by side. Qwen3-VL has further mergers at inner layers
    (deepstack), whose inputs follow in the same row.
    """

    any_size = True
    tower = "model.visual."
    projectors = ("model.visual.merger.", "model.visual.deepstack_merger_list.")

    def refusal(self, config: Any) -> str:
        return _not_among("text model", config.text_config, ("qwen2_5_vl_text", "qwen3_vl_text"))

    def per_image(self, processed: Mapping[str, Any]) -> Images:
        grids = processed["image_grid_thw"].tolist()
        parts = processed["pixel_values"].split([t * h * w for t, h, w in grids])
        return [part.view(h, w, -1) for part, (_, h, w) in zip(parts, grids, strict=True)]

    def model_inputs(self, pixels: Images) -> dict[str, Tensor]:
        return {
            "pixel_values": torch.cat([image_hwD.flatten(0, 1) for image_hwD in pixels]),
            "image_grid_thw": torch.tensor(
                [[1, *image_hwD.shape[:2]] for image_hwD in pixels], device=pixels[0].device
            ),
        }

    def num_features(self, config: Any, pixels: Tensor) -> int:
        return pixels.shape[0] * pixels.shape[1] // config.vision_config.spatial_merge_size**2

    def see(self, model: Any, pixels: Images) -> Images:
        with ExitStack() as stack:
            for merger in _mergers(model.model.visual):
                # The model's own code then puts in order what the merger takes.
                stack.enter_context(_handing_on(merger))
            seen = model.model.get_image_features(**self.model_inputs(pixels), return_dict=True)
        deepstack = getattr(seen, "deepstack_features", None) or []
        return [
            torch.cat(levels, dim=-1) for levels in zip(seen.pooler_output, *deepstack, strict=True)
        ]

    def project(self, model: Any, features_NV: Sequence[Tensor]) -> Any:
        mergers = _mergers(model.model.visual)
        levels = torch.cat(list(features_NV)).chunk(len(mergers), dim=-1)
        merged_NH = [
            merger(level.reshape(-1, model.config.vision_config.hidden_size).to(_type_of(merger)))
            for merger, level in zip(mergers, levels, strict=True)
        ]
        if len(mergers) == 1:
            from transformers.modeling_outputs import BaseModelOutputWithPooling

            return BaseModelOutputWithPooling(pooler_output=merged_NH)
        from transformers.models.qwen3_vl.modeling_qwen3_vl import (
            BaseModelOutputWithDeepstackFeatures,
        )

        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=merged_NH[:1], deepstack_features=[[level] for level in merged_NH[1:]]
        )

    def positions(
        self, model: Any, prompt: Sequence[int], pixels_shape: Sequence[int]
    ) -> Ints | None:
        ids_1L = torch.tensor([[*prompt, 0]])  # with the next token, whatever it be
        is_image_1L = (ids_1L == model.config.image_token_id).int()
        is_image_1L[0, -1] = 0
        positions_31L, _ = model.model.get_rope_index(
            ids_1L,
            mm_token_type_ids=is_image_1L,
            image_grid_thw=torch.tensor([[1, *pixels_shape[:2]]]),
        )
        return positions_31L[:, 0].numpy()


def _type_of(projector: Any) -> torch.dtype:
    """What it computes with, which a tower in 16 bits may not."""
    return next(iter(projector.parameters())).dtype


def _mergers(visual: Any) -> list[Any]:
    return [visual.merger, *getattr(visual, "deepstack_merger_list", [])]


@contextmanager
def _handing_on(merger: Any) -> Iterator[None]:
    """While the body runs, a merger gives its input, a square's patches side by side.

    It is not run: its weights may be spread over workers, or of another type than the tower's.
    """
    replaced = vars(merger).get("forward")
    merger.forward = lambda patches_NV: patches_NV.reshape(-1, merger.hidden_size)
    try:
        yield
    finally:
        del merger.forward
        if replaced is not None:
            merger.forward = replaced


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"llava": Llava(), "qwen2_5_vl": QwenVl(), "qwen3_vl": QwenVl()}
)
SUPPORTED = "llava (LLaVA-1.5, LLaVA-Interleave), qwen2_5_vl (Qwen2.5-VL), qwen3_vl (Qwen3-VL)"


def refusal(config: Any) -> str:
    """Why a model of this configuration cannot be used, or ""."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        blind = "" if hasattr(config, "vision_config") else ", a model without vision"
        return f"model_type is {config.model_type!r}{blind}; supported are {SUPPORTED}"
    reason = family.refusal(config)
    text = config.text_config
    if not reason and (
        "sliding_attention" in (getattr(text, "layer_types", None) or ())
        or getattr(text, "use_sliding_window", False)
    ):
        return "its text model has sliding-window layers, which packed rows do not reproduce"
    return reason


def _not_among(part: str, config: Any, supported: tuple[str, ...]) -> str:
    return (
        ""
        if config.model_type in supported
        else f"its {part} is {config.model_type!r}; supported are {', '.join(supported)}"
    )


def unwrapped(model: Any) -> Any:
    """The transformers model, also where peft has wrapped it; its layers keep their adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def part_of(model: Any, name: str) -> str:
    """The part of a parameter of this name: "projector", "vision tower" or "language model"."""
    family = FAMILIES[model.config.model_type]
    if name.startswith(family.projectors):
        return "projector"
    return "vision tower" if name.startswith(family.tower) else "language model"


def parameters_of(model: Any, part: str) -> list[torch.nn.Parameter]:
    """The parameters of one part, as `part_of` names it."""
    model = unwrapped(model)
    return [
        parameter for name, parameter in model.named_parameters() if part_of(model, name) == part
    ]
