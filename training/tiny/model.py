"""An untrained tiny LLaVA: CLIP vision tower, two-layer projector, Llama.

With its tokenizer, processor and chat template.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.models.vlm import Vlm

if TYPE_CHECKING:
    from transformers import LlavaConfig

    from training.tiny.config import TinySection

# LLaVA-1.5's format: "USER: <image>\n{question} ASSISTANT: {answer}</s>", after the tokenizer's
# <s>.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{{- 'USER: ' -}}{%- for"
    " item in message['content'] if item['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor"
    " -%}{%- for item in message['content'] if item['type'] == 'text' -%}{{- item['text'] -}}{%-"
    " endfor -%}{{- ' ' -}}{%- else -%}{{- 'ASSISTANT: ' -}}{%- for item in message['content'] if"
    " item['type'] == 'text' -%}{{- item['text'] -}}{%- endfor -%}{{- '</s>' -}}{%- endif -%}{%-"
    " endfor -%}{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"
)
# the first of all tokens, in this order
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
PIXEL_MEAN, PIXEL_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
# Position embeddings start with this size (content has about 1): nearness is there from the first
# step.
_POSITION_SCALE = 0.5


def make_tokenizer(texts: Sequence[str], vocab_tokens: int) -> Any:
    """A byte-level BPE tokenizer trained on `texts`.

    Frequent words are one token, and any text at all has tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_tokens,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Answers follow a space; the frame's words come often enough to become tokens.
    frame = ["USER: ", "\n", " ASSISTANT:"] * 100
    tokenizer.train_from_iterator(
        [*(f" {text}" for text in texts), *(f"\n{text}" for text in texts), *frame], trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
    )


def make_processor(tokenizer: Any, section: "TinySection") -> Any:
    """The processor of the tiny model: a centred square of each image, and the chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = section.image_px
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_mean=list(PIXEL_MEAN),
            image_std=list(PIXEL_STD),
        ),
        tokenizer=tokenizer,
        patch_size=section.patch_px,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def untrained_config(section: "TinySection", vocab: int) -> "LlavaConfig":
    """The configuration of the tiny model with a vocabulary of so many tokens."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=section.vision_dim,
            intermediate_size=2 * section.vision_dim,
            num_hidden_layers=section.vision_layers,
            num_attention_heads=max(1, section.vision_dim // 32),
            image_size=section.image_px,
            patch_size=section.patch_px,
            hidden_act="gelu",
        ),
        text_config=LlamaConfig(
            vocab_size=vocab,
            hidden_size=section.text_dim,
            intermediate_size=2 * section.text_dim,
            num_hidden_layers=section.text_layers,
            num_attention_heads=max(1, section.text_dim // 32),
            num_key_value_heads=max(1, section.text_dim // 32),
            max_position_embeddings=1024,
            initializer_range=0.05,  # the usual 0.02 is for widths in the thousands
            bos_token_id=SPECIAL_TOKENS.index("<s>"),
            eos_token_id=SPECIAL_TOKENS.index("</s>"),
            pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        ),
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        image_seq_length=(section.image_px // section.patch_px) ** 2,
        # a tower this small has no layer to spare (LLaVA-1.5 leaves its last one out)
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )


def make_untrained(texts: Sequence[str], section: "TinySection") -> Vlm:
    """The whole model with random weights; torch's global seed decides them."""
    from transformers import LlavaForConditionalGeneration

    tokenizer = make_tokenizer(texts, section.vocab_tokens)
    model = LlavaForConditionalGeneration._from_config(
        untrained_config(section, len(tokenizer)), attn_implementation="sdpa"
    )
    _look_near_first(model.model.vision_tower, section)
    return Vlm(model, make_processor(tokenizer, section), "llava-llama")


@torch.no_grad()
def _look_near_first(tower: Any, section: "TinySection") -> None:
    """Starts the tower with sinusoidal positions, and with queries like keys.

    So at first a patch attends to near ones.

    Learned from scratch in minutes, a tower has no time to find out which patches are neighbours.
    Source: mimetic initialisation (arXiv:2305.09828), reduced to its query-key part.
    """
    vision = getattr(tower, "vision_model", tower)
    vision.embeddings.position_embedding.weight[1:] = _POSITION_SCALE * _sinusoids(
        section.image_px // section.patch_px, section.vision_dim
    )
    for layer in vision.encoder.layers:
        shared = torch.empty(section.vision_dim, section.vision_dim)
        torch.nn.init.orthogonal_(shared)
        layer.self_attn.q_proj.weight.copy_(shared)
        layer.self_attn.k_proj.weight.copy_(shared)


def _sinusoids(grid: int, dim: int) -> Tensor:
    """Positions of the patches in sines and cosines of row and column, [grid * grid, dim].

    The patches are in reading order.
    """
    steps = torch.arange(grid) / grid
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    frequencies = torch.linspace(1, grid, dim // 4) * (math.pi / 2)
    waves = [
        wave(axis.flatten()[:, None] * frequencies)
        for axis in (rows, columns)
        for wave in (torch.sin, torch.cos)
    ]
    return torch.cat(waves, dim=1)
