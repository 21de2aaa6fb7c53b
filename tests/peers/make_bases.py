"""Makes tiny random models as the Hub has them: written by transformers 4.x, as published.

A program of its own, because it runs with other versions than the tests: `make_bases.py FOLDER`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# The formats of the families' templates.
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %} "
    "{% else %}ASSISTANT: {{ message['content'][0]['text'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
TURNS = (
    "{%% for message in messages %%}<|im_start|>{{ message['role'] }}\n{%% for item in"
    " message['content'] %%}{%% if item['type'] == 'image' %%}%s{%% else %%}{{ item['text'] }}"
    "{%% endif %%}{%% endfor %%}<|im_end|>\n{%% endfor %%}{%% if add_generation_prompt %%}"
    "<|im_start|>assistant\n{%% endif %%}"
)
CHATML = TURNS % "<image>"
QWEN3 = TURNS % "<|vision_start|><|image_pad|><|vision_end|>"
QWEN2_5 = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + QWEN3
QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEXTS = ("What is shown?", "A red square on grey.", "USER: ASSISTANT:", "user\n assistant\n")
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def bpe(special: Sequence[str]) -> Tokenizer:
    """A small byte-level tokenizer, to which no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def qwen_tokenizer(special: Sequence[str], pad: str, more: Sequence[str]) -> Any:
    """A tokenizer of the class that Qwen2 has."""
    return hf.Qwen2TokenizerFast(
        tokenizer_object=bpe(special),
        pad_token=pad,
        eos_token="<|im_end|>",
        unk_token=None,
        bos_token=None,
        additional_special_tokens=list(more),
    )


def llava(folder: Path, language: str, tower: str) -> None:
    """LLaVA-1.5 (llama, clip) or LLaVA-Interleave (qwen2, siglip), or one between."""
    if language == "llama":
        special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
        tokenizer = hf.LlamaTokenizerFast(
            tokenizer_object=bpe(special), pad_token="<pad>", add_bos_token=True, legacy=False
        )
    else:
        special = ["<pad>", "<|im_start|>", "<|im_end|>", "<image>"]
        tokenizer = qwen_tokenizer(special, "<pad>", ["<image>"])
    size = {"height": 28, "width": 28}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = {
        **LANGUAGE,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    strategy = "full" if tower == "siglip" else "default"
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**text)
        if language == "llama"
        else hf.Qwen2Config(**text, rope_theta=1e6),
        vision_config=hf.SiglipVisionConfig(**vision)
        if tower == "siglip"
        else hf.CLIPVisionConfig(**vision, projection_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-2,
    )
    hf.LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = (
        hf.SiglipImageProcessor(size=size)
        if tower == "siglip"
        else hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    )
    hf.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        chat_template=VICUNA if language == "llama" else CHATML,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(tower == "clip"),
    ).save_pretrained(folder)


def qwen(folder: Path, kind: str, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Qwen2.5-VL or Qwen3-VL."""
    tokenizer = qwen_tokenizer(QWEN_TOKENS, QWEN_TOKENS[0], QWEN_TOKENS[3:])
    names = ("vision_start", "vision_end", "image", "video")
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(names, QWEN_TOKENS[3:], strict=True)
    }
    config_class, model_class, processor_class, video_class, image_class = (
        getattr(hf, f"{kind}{part}")
        if hasattr(hf, f"{kind}{part}")
        else getattr(hf, f"Qwen2VL{part}")
        for part in (
            "Config",
            "ForConditionalGeneration",
            "Processor",
            "VideoProcessor",
            "ImageProcessor",
        )
    )
    config = config_class(
        text_config={
            **LANGUAGE,
            "num_hidden_layers": 3,
            "vocab_size": len(tokenizer),
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 2,
            **text,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            **vision,
        },
        **ids,
    )
    model_class(config).save_pretrained(folder)
    side = 2 * vision["patch_size"]  # of the square that becomes one feature
    images = image_class(
        patch_size=vision["patch_size"],
        merge_size=2,
        min_pixels=4 * side**2,
        max_pixels=12 * side**2,
    )
    template = QWEN3 if kind == "Qwen3VL" else QWEN2_5
    processor_class(images, tokenizer, video_class(), chat_template=template).save_pretrained(
        folder
    )


def as_qwen2_5_is_published(folder: Path) -> None:
    """One level of configuration, a rope of type `mrope`, and the template in a JSON file."""
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    text["rope_scaling"] = {"type": "mrope", "mrope_section": text["rope_scaling"]["mrope_section"]}
    kept = {
        name: value for name, value in text.items() if name not in ("model_type", "layer_types")
    }
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps({**kept, **config}, indent=2))
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()


def main(folder: Path) -> None:
    """One model of each kind."""
    torch.manual_seed(0)
    for language, tower in (("llama", "clip"), ("qwen2", "siglip"), ("qwen2", "clip")):
        llava(folder / f"llava-{language}-{tower}", language, tower)
    qwen(
        folder / "qwen2_5_vl",
        "Qwen2_5_VL",
        {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}},
    )
    as_qwen2_5_is_published(folder / "qwen2_5_vl")
    mrope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [2, 1, 1]}
    qwen(
        folder / "qwen3_vl",
        "Qwen3VL",
        {"patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        {"rope_theta": 5e6, "head_dim": 8, "rope_scaling": mrope},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
