"""What a model answers, in batches, decoded greedily whatever its checkpoint says."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from training.models.rope import forget_lengths
from training.models.vlm import Vlm, encode_prompt, pixel_values


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer: its text, its tokens without the last, and whether the model ended it."""

    text: str
    num_tokens: int
    ended: bool


def generate(
    vlm: Vlm, images: Sequence[Image.Image | None], questions: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """The texts of `generate_answers`."""
    return [
        answer.text
        for answer in generate_answers(vlm, images, questions, max_new_tokens=max_new_tokens)
    ]


@torch.no_grad()
def generate_answers(
    vlm: Vlm, images: Sequence[Image.Image | None], questions: Sequence[str], *, max_new_tokens: int
) -> list[Generated]:
    """What the model answers to each question about its image, greedily, in one batch.

    Without an image (None) the prompt is of text alone.

    Nothing of the checkpoint's own generation settings counts, except the tokens at which it stops:
    a base and its finetuned model are decoded alike, and what is measured is the model.
    """
    prompts = [
        encode_prompt(vlm, q, with_image=i is not None, size=None if i is None else i.size)
        for i, q in zip(images, questions, strict=True)
    ]
    if not prompts:
        return []
    device = vlm.model.device
    stops, pad = vlm.stop_ids, vlm.processor.tokenizer.pad_token_id
    if pad is None:
        pad = vlm.end_of_turn_id  # masked, so any but the image placeholder will do
    length = max(map(len, prompts))
    ids_BL = torch.tensor(
        [[pad] * (length - len(prompt)) + prompt for prompt in prompts], device=device
    )
    mask_BL = torch.tensor(
        [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
    )
    given = [image for image in images if image is not None]
    seen = vlm.kind.model_inputs(pixel_values(vlm, given)) if given else {}
    seen = {
        name: value.to(device, vlm.model.dtype if value.is_floating_point() else None)
        for name, value in seen.items()
    }
    if vlm.kind.any_size:
        seen["mm_token_type_ids"] = (ids_BL == vlm.image_token_id).int()
    with _greedy(
        vlm.model, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=pad
    ) as settings:
        forget_lengths(vlm.model)
        out_BL = vlm.model.generate(
            input_ids=ids_BL, attention_mask=mask_BL, generation_config=settings, **seen
        )
        forget_lengths(vlm.model)
    answers = []
    for row in out_BL[:, length:].tolist():
        tokens = list(itertools.takewhile(lambda token: token not in stops, row))
        text = vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        answers.append(Generated(text, len(tokens), ended=len(tokens) < len(row)))
    return answers


@contextlib.contextmanager
def _greedy(model: Any, **limits: Any) -> Iterator[Any]:
    """Plain greedy settings, while the model has none of its own, which would fill what is open."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield GenerationConfig(
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            min_length=0,
            length_penalty=1.0,
            **limits,
        )
    finally:
        model.generation_config = own
