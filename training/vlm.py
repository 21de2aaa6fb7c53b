"""A LLaVA model with its processor: loading, saving, the exact tokens of prompts and responses, and generation.

Supported: model_type llava with a Llama or Qwen2 text model and a CLIP or SigLIP vision tower (LLaVA-1.5,
LLaVA-Interleave). Others are refused, because packed rows have been proven equal to separate passes for these only.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.recipe import UserError

TEXT_MODELS = ("llama", "qwen2")
VISION_TOWERS = ("clip_vision_model", "siglip_vision_model")
CHATML_END = "<|im_end|>"


class ModelError(UserError):
    """A model that this toolkit cannot use; the message says why and what it can."""


@dataclass(eq=False)
class Vlm:
    """A model, its processor, and the family that its prompts follow ("llava-llama" or "llava-qwen2")."""

    model: Any
    processor: Any
    family: str

    @property
    def image_token_id(self) -> int:
        """The token that stands for one image feature."""
        return int(self.model.config.image_token_id)

    @functools.cached_property
    def num_image_tokens(self) -> int:
        """Placeholders that the processor makes of one image."""
        return encode_prompt(self, "?", with_image=True).count(self.image_token_id)

    @functools.cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts that the tokenizer reads as control tokens, such as </s> or <image>; no question or answer may hold one."""
        tokens = self.processor.tokenizer.added_tokens_decoder.values()
        return tuple(token.content for token in tokens if token.special and token.content.strip())

    @functools.cached_property
    def end_of_turn_id(self) -> int:
        """The token with which the assistant ends its turn: <|im_end|> in chatml templates, else the tokenizer's eos."""
        tokenizer = self.processor.tokenizer
        if CHATML_END in _render(self, "?", with_image=False):
            return int(tokenizer.convert_tokens_to_ids(CHATML_END))
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no eos token and the chat template no <|im_end|>; set tokenizer.eos_token")
        return int(tokenizer.eos_token_id)

    @property
    def stop_ids(self) -> list[int]:
        """The tokens that end an answer: the end of turn, and whatever else the checkpoint's generation settings stop at."""
        known = self.model.generation_config.eos_token_id
        return sorted({self.end_of_turn_id, *([known] if isinstance(known, int) else known or [])})


def load_model(path: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """The model of a Hugging Face folder or Hub id, in evaluation mode, with the sdpa kernels that packed rows need.

    Raises:
        ModelError: Not a model that this toolkit supports, with the reason.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = _read(path, AutoConfig.from_pretrained)
    reason = _unsupported(config)
    if reason:
        raise ModelError(f"model {str(path)!r} cannot be used: {reason}")
    model = _read(path, AutoModelForImageTextToText.from_pretrained, dtype=dtype, attn_implementation="sdpa", use_safetensors=True)
    return model.to(device).eval()


def _read(path: str | Path, load: Callable[..., Any], **options: Any) -> Any:
    """What transformers loads from a folder or Hub id; its failures in one line."""
    try:
        return load(path, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"model {str(path)!r}: expected a whole Hugging Face model folder or a Hub id; {reason}") from error


def _unsupported(config: Any) -> str:
    """Why a model of this configuration is refused, or ""."""
    if config.model_type != "llava":
        return f"model_type is {config.model_type!r}; supported is 'llava' (LLaVA-1.5, LLaVA-Interleave)"
    if config.text_config.model_type not in TEXT_MODELS:
        return f"its text model is {config.text_config.model_type!r}; supported are {', '.join(TEXT_MODELS)}"
    if config.vision_config.model_type not in VISION_TOWERS:
        return f"its vision tower is {config.vision_config.model_type!r}; supported are {', '.join(VISION_TOWERS)}"
    if "sliding_attention" in (getattr(config.text_config, "layer_types", None) or ()):
        return "its text model has sliding-window layers, which packed rows do not reproduce"
    return ""


def load_vlm(path: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Vlm:
    """The model and processor of a Hugging Face folder or Hub id.

    Raises:
        ModelError: Not a supported model, or a processor without a chat template.
    """
    from transformers import AutoProcessor

    model = load_model(path, dtype=dtype, device=device)
    processor = _read(path, AutoProcessor.from_pretrained)
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"model {str(path)!r}: its processor has no chat template, so its prompts are unknown; add chat_template.jinja")
    # Processors saved by old versions lack the sizes from which they make placeholders; the model knows them.
    config = model.config
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.num_additional_image_tokens = int(config.vision_config.model_type == "clip_vision_model")
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    return Vlm(model, processor, f"llava-{config.text_config.model_type}")


def save_vlm(vlm: Vlm, folder: str | Path) -> None:
    """Writes the model (safetensors) and the processor as a Hugging Face folder that `load_vlm` and transformers read."""
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)


def _conversation(question: str, *, with_image: bool) -> list[dict[str, Any]]:
    image = [{"type": "image"}] if with_image else []
    return [{"role": "user", "content": [*image, {"type": "text", "text": question}]}]


def _render(vlm: Vlm, question: str, *, with_image: bool) -> str:
    conversation = _conversation(question, with_image=with_image)
    return str(vlm.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))


def encode_prompt(vlm: Vlm, question: str, *, with_image: bool) -> list[int]:
    """The tokens before the response, exactly as at inference, with one placeholder per image feature.

    Without an image the prompt is the text-only prompt of the same question: no placeholder, no image.

    Raises:
        ValueError: A question that holds the text of a control token.
    """
    _refuse_control_texts(vlm, question)
    text = _render(vlm, question, with_image=with_image)
    bos = vlm.processor.tokenizer.bos_token
    # As transformers does for a conversation: a template that writes the bos token itself gets no second one.
    special = {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
    images = [Image.new("RGB", (64, 64))] if with_image else None  # every image makes the same number of placeholders
    ids = [int(token) for token in vlm.processor(text=[text], images=images, **special)["input_ids"][0]]
    eos, eos_id = vlm.processor.tokenizer.eos_token, vlm.processor.tokenizer.eos_token_id
    # A tokenizer that closes every text with eos would have the model answer after the end of the conversation.
    return ids[:-1] if eos is not None and ids[-1:] == [eos_id] and not text.endswith(eos) else ids


def encode_response(vlm: Vlm, text: str) -> list[int]:
    """The tokens that the model should generate for `text`: the text as it follows the prompt, then end of turn.

    Raises:
        ValueError: An empty text, one that holds the text of a control token, or a tokenizer that merges the prompt's
            end with the text.
    """
    _refuse_control_texts(vlm, text)
    if not text.strip():
        raise ValueError("expected a response with text, got none")
    tokenizer = vlm.processor.tokenizer
    opening = _opening(vlm)
    # A prompt that ends in white space ("assistant\n") is followed by the text at once, any other ("ASSISTANT:") by a space.
    joined = opening + ("" if opening[-1:].isspace() else " ") + text.strip()
    before = tokenizer(opening, add_special_tokens=False)["input_ids"]
    both = tokenizer(joined, add_special_tokens=False)["input_ids"]
    if both[: len(before)] != before or len(both) == len(before):
        raise ValueError(f"the tokenizer does not separate the prompt's end {opening!r} from the response {text[:40]!r}")
    return [*both[len(before) :], vlm.end_of_turn_id]


def _refuse_control_texts(vlm: Vlm, text: str) -> None:
    for control in vlm.control_texts:
        if control in text:
            raise ValueError(f"the text {text[:60]!r} holds {control!r}, which the tokenizer reads as a control token; remove it")


def _opening(vlm: Vlm) -> str:
    """What the chat template writes to open the assistant's turn, for example "<|im_start|>assistant" and a line end."""
    conversation = _conversation("?", with_image=False)
    closed = str(vlm.processor.apply_chat_template(conversation, add_generation_prompt=False, tokenize=False))
    opening = _render(vlm, "?", with_image=False).removeprefix(closed)
    if not opening:
        raise ModelError("the chat template does not heed add_generation_prompt, so the start of a response is unknown")
    return opening


def pixel_values(vlm: Vlm, images: Sequence[Image.Image]) -> Tensor:
    """The images as the vision tower takes them, [num_images, 3, H, W] in fp32."""
    pixels_I3HW: Tensor = vlm.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    return pixels_I3HW


@torch.no_grad()
def generate(vlm: Vlm, images: Sequence[Image.Image | None], questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
    """What the model answers to each question about its image (None: a text-only prompt); greedy, in one batch.

    Nothing of the checkpoint's own generation settings counts, except the tokens at which it stops: a base and its
    finetuned model are decoded alike, and what is measured is the model.
    """
    prompts = [encode_prompt(vlm, q, with_image=i is not None) for i, q in zip(images, questions, strict=True)]
    if not prompts:
        return []
    device = vlm.model.device
    stops, pad = vlm.stop_ids, _pad_id(vlm)
    length = max(map(len, prompts))
    ids_BL = torch.tensor([[pad] * (length - len(prompt)) + prompt for prompt in prompts], device=device)
    mask_BL = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    given = [image for image in images if image is not None]
    pixels = {"pixel_values": pixel_values(vlm, given).to(device, vlm.model.dtype)} if given else {}
    with _greedy(vlm.model, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=pad) as settings:
        out_BL = vlm.model.generate(input_ids=ids_BL, attention_mask=mask_BL, generation_config=settings, **pixels)
    answers = [list(itertools.takewhile(lambda token: token not in stops, row)) for row in out_BL[:, length:].tolist()]
    return [vlm.processor.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


@contextlib.contextmanager
def _greedy(model: Any, **limits: Any) -> Iterator[Any]:
    """Plain greedy settings, while the model has none of its own: what ours leave open it would fill with those."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    plain = {
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_length": 0,
        "length_penalty": 1.0,
    }
    try:
        yield GenerationConfig(**plain, **limits)
    finally:
        model.generation_config = own


def _pad_id(vlm: Vlm) -> int:
    """A token to fill up with; masked, so any but the image placeholder will do."""
    pad = vlm.processor.tokenizer.pad_token_id
    return vlm.end_of_turn_id if pad is None else int(pad)
