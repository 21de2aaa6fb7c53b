"""The random models and pairs that bench/step.py and bench/step_trl.py measure, and the work that a
step needs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.models.attention import SPLIT, set_attention
from training.models.packing import PairTokens

TEXT_TOKENS = 128  # to which the official collator pads each text
PROMPT_TOKENS, RESPONSE_TOKENS = 40, 40
IMAGE = 5  # the placeholder's id


@dataclass(frozen=True)
class Shape:
    """A LLaVA's dimensions; 576 features of an image, as LLaVA-1.5 has."""

    width: int
    layers: int
    mlp: int
    vocab: int
    heads: int
    vision_width: int = 128
    vision_layers: int = 4


SHAPES = {
    "trunk": Shape(width=384, layers=6, mlp=1024, vocab=1_000, heads=6),
    "vocabulary": Shape(width=256, layers=2, mlp=768, vocab=32_000, heads=4),
    "7b": Shape(
        width=4096,
        layers=32,
        mlp=11008,
        vocab=32_064,
        heads=32,
        vision_width=1024,
        vision_layers=24,
    ),
}


def make_model(shape: Shape, device: str, dtype: torch.dtype) -> Any:
    """A random LLaVA with a frozen tower."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
    )
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_width // 64,
        image_size=336,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=576
    )
    with torch.device(device):
        model = LlavaForConditionalGeneration(config).to(dtype).eval()
    model.model.vision_tower.requires_grad_(False)
    set_attention(model, SPLIT)
    return model


@dataclass
class Batch:
    """Some pairs, for both sides."""

    pairs: list[PairTokens]
    pixels_a: Tensor
    pixels_b: Tensor


def make_batch(shape: Shape, num_pairs: int, device: str, dtype: torch.dtype) -> Batch:
    """Random pairs of the usual lengths; the answers differ by a few tokens."""
    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        return torch.randint(6, shape.vocab, (count,), generator=generator).tolist()

    pairs = []
    for _ in range(num_pairs):
        question = tokens(PROMPT_TOKENS - 1)
        image = [1, *[IMAGE] * 576, *question]
        pairs.append(
            PairTokens(image, [1, *question], tokens(RESPONSE_TOKENS), tokens(RESPONSE_TOKENS - 4))
        )
    pixels = torch.randn(2, num_pairs, 3, 336, 336, generator=generator).to(device, dtype)
    return Batch(pairs, pixels[0], pixels[1])


def model_flops(shape: Shape, pairs: int) -> float:
    """Floating point operations that a step of ours needs, forward and backward, without
    recomputation.
    """
    prompt, response = 576 + PROMPT_TOKENS, 2 * RESPONSE_TOKENS - 4
    tokens = 2 * (prompt + response) + PROMPT_TOKENS + response
    linear = 2 * shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.mlp) * tokens
    attention = (
        4
        * shape.layers
        * shape.width
        * (
            2 * (prompt**2 / 2 + response * prompt)
            + PROMPT_TOKENS**2 / 2
            + response * PROMPT_TOKENS
        )
    )
    head = 2 * shape.width * shape.vocab * 3 * response
    return 3 * (linear + attention + head) * pairs
