"""A vision-language model with its processor: loading, saving, tokens of prompts and responses.

Everything goes by the processor and the configuration; what differs between families is in
`families`. Other models are refused, because packed rows have been proven equal to separate passes
for these only.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from pipeline.core.recipe import UserError
from training.models import chat_template as chat
from training.models.attention import SPLIT
from training.models.families import FAMILIES, Family, Images, unwrapped
from training.models.loading import (
    load_model,
    quantization,
    quantization_method,
    read,
    read_config,
    without_bars,
)
from training.models.model_folder import add_older_names
from training.models.packing import Ints
from training.models.weight_files import base_of_adapter

Size = tuple[int, int]  # width and height of an image in pixels, upright
ANY_SIZE = (64, 64)  # for models that bring every image to one size


class Layout(NamedTuple):
    """What an image of some size becomes: how many placeholders, and pixels of which shape."""

    num_tokens: int
    pixels_shape: tuple[int, ...]


@dataclass(eq=False)
class Vlm:
    """A model, its processor, and the name of its family, such as "llava-llama" or "qwen3_vl"."""

    model: Any
    processor: Any
    family: str
    _layouts: dict[Size, Layout] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> Family:
        """Where this family differs from others."""
        return FAMILIES[self.model.config.model_type]

    @property
    def image_token_id(self) -> int:
        """The token that stands for one image feature."""
        return int(self.model.config.image_token_id)

    def layout(self, size: Size) -> Layout:
        """What an image of this size becomes, found by giving the processor a blank one.

        Raises:
            UserError: Processor and model do not agree on the number of features, or the processor
                changes prompts.
        """
        size = size if self.kind.any_size else ANY_SIZE
        if size not in self._layouts:
            self._layouts[size] = _layout(self, size)
        return self._layouts[size]

    @functools.cached_property
    def end_of_turn_id(self) -> int:
        """The token with which the assistant ends its turn."""
        return chat.end_of_turn_id(self.processor)

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end an answer: the end of turn, and those of the generation settings."""
        known = self.model.generation_config.eos_token_id
        return sorted({self.end_of_turn_id, *([known] if isinstance(known, int) else known or [])})


def load_vlm(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = SPLIT,
    **options: Any,
) -> Vlm:
    """The model and processor of a Hugging Face folder or Hub id; arguments as for `load_model`.

    Raises:
        UserError: Not a supported model, or a processor without a chat template.
    """
    from transformers import AutoProcessor

    model = load_model(path, dtype=dtype, device=device, attention=attention, **options)
    processor = read(_with_processor(path), AutoProcessor.from_pretrained)
    if not getattr(processor, "chat_template", None):
        raise UserError(
            f"model {str(path)!r}: its processor has no chat template, so its prompts are unknown;"
            " add chat_template.jinja"
        )
    if getattr(processor, "image_processor", None) is None:
        raise UserError(
            f"model {str(path)!r}: its processor takes no images; add preprocessor_config.json"
        )
    rows = len(model.get_input_embeddings().weight)
    highest = max(processor.tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise UserError(
            f"model {str(path)!r}: its tokenizer has ids up to {highest:,}, its embedding"
            f" {rows:,} rows; give the tokenizer that it was trained with, or enlarge it with"
            " resize_token_embeddings"
        )
    config = model.config
    if config.model_type != "llava":
        return Vlm(model, processor, config.model_type)
    # Processors saved by old versions lack the sizes from which they make placeholders; the model
    # knows them.
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.num_additional_image_tokens = int(
            config.vision_config.model_type == "clip_vision_model"
        )
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    return Vlm(model, processor, f"llava-{config.text_config.model_type}")


def _with_processor(path: str | Path) -> str | Path:
    """Where a model's processor is: with its base where adapters came without one."""
    base = base_of_adapter(path)
    own = ("processor_config.json", "preprocessor_config.json")
    return path if base is None or any((Path(path) / name).is_file() for name in own) else base


def check_model(path: str | Path, *, trained: bool) -> str:
    """Makes sure that a model can be loaded and asked, from configuration and headers alone.

    Args:
        trained: Whether it is what training starts from.

    Returns:
        What is done to its chat template, for who serves the model; "" if nothing.

    Raises:
        UserError: It cannot, with the reason.
    """
    if trained and base_of_adapter(path):
        raise UserError(
            f"model {str(path)!r}: adapters lie in it (adapter_config.json), and training starts"
            " from a whole model; merge them (peft's merge_and_unload), or take them away"
        )
    stated = quantization(read_config(path)) if trained else {}
    if stated:
        raise UserError(
            f"model {str(path)!r}: its weights are stored quantized"
            f" ({quantization_method(stated)}), and neither they nor adapters on them are trained"
            " here; give the model that it was made from, which lora.quantize=nf4 keeps in 4 bits"
            " while adapters are trained"
        )
    vlm = load_vlm(path, device="meta")
    try:
        encode_prompt(vlm, "?", with_image=True, size=ANY_SIZE)
        encode_prompt(vlm, "?", with_image=False)
        encode_response(vlm, "yes")
        return chat.closing(vlm.processor).fact
    except ValueError as error:
        raise UserError(f"model {str(path)!r}: {error}") from error


def save_vlm(vlm: Vlm, folder: str | Path) -> None:
    """Writes model and processor as a Hugging Face folder, which `load_vlm` reads."""
    without_bars()
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    add_older_names(Path(folder))


def encode_prompt(
    vlm: Vlm, question: str, *, with_image: bool, size: Size | None = None
) -> list[int]:
    """The tokens before the response, exactly as at inference, a placeholder per image feature.

    Without an image the prompt is the text-only prompt of the same question: no placeholder, no
    image.

    Args:
        size: That of the image, where the number of its features depends on it.

    Raises:
        ValueError: A question that holds the text of a control token, or no size where one is
            needed.
    """
    if with_image and size is None and vlm.kind.any_size:
        raise ValueError(
            "expected the image's size, on which the number of its placeholders depends for this"
            " model"
        )
    short = chat.short_prompt(vlm.processor, question, with_image=with_image)
    return placed(vlm, short, size or ANY_SIZE)[0] if with_image else short


def encode_response(vlm: Vlm, text: str) -> list[int]:
    """The tokens to generate for `text`: the text as it follows the prompt, then end of turn.

    Raises:
        ValueError: An empty text, one that holds the text of a control token, or a tokenizer that
            merges the prompt's end with the text.
    """
    return [*chat.response_ids(vlm.processor, text), vlm.end_of_turn_id]


def placed(vlm: Vlm, short: Sequence[int], size: Size) -> tuple[list[int], Ints | None]:
    """A short prompt with an image of some size, and its positions where they are not 0, 1, 2 ...

    Short as `training.models.chat_template` makes it.
    """
    layout = vlm.layout(size)
    ids = chat.with_placeholders(short, vlm.image_token_id, layout.num_tokens)
    return ids, vlm.kind.positions(unwrapped(vlm.model), ids, layout.pixels_shape)


def _layout(vlm: Vlm, size: Size) -> Layout:
    processor, image_token_id = vlm.processor, vlm.image_token_id
    text, blank = chat.render(processor, "?", with_image=True), Image.new("RGB", size)
    processed = processor(
        text=[text], images=[blank], return_tensors="pt", **chat.special_tokens(processor, text)
    )
    pixels = vlm.kind.per_image(processed)[0]
    ids = chat.left_open(processor, text, processed["input_ids"][0].tolist())
    num_tokens = ids.count(image_token_id)
    num_features = vlm.kind.num_features(vlm.model.config, pixels)
    if num_tokens != num_features:
        raise UserError(
            f"the processor makes {num_tokens} placeholders of an image, the model {num_features}"
            " features; they do not fit"
        )
    if ids != chat.with_placeholders(
        chat.short_prompt(processor, "?", with_image=True), image_token_id, num_tokens
    ):
        raise UserError(
            "the processor does more to a prompt than to repeat its image placeholder, so its"
            " prompts are unknown"
        )
    return Layout(num_tokens, tuple(pixels.shape))


def pixel_values(vlm: Vlm, images: Sequence[Image.Image]) -> Images:
    """The images as the vision tower takes them, in fp32.

    [num_images, 3, H, W], or one [h, w, D] per image of any size.
    """
    return vlm.kind.per_image(vlm.processor.image_processor(list(images), return_tensors="pt"))
