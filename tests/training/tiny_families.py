"""Tiny random models of the real classes, with real processors, trained tokenizers and templates in
each family's format.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The two documented prompt formats: LLaVA-1.5 (Vicuna), and the chatml format of LLaVA-Interleave.
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %} "
    "{% else %}ASSISTANT: {{ message['content'][0]['text'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for item in"
    " message['content'] if item['type'] == 'image' %}<image>{% endfor %}{% for item in"
    " message['content'] if item['type'] == 'text' %}{{ '\n' + item['text'] }}{% endfor"
    " %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 60, 220),
    "yellow": (230, 210, 40),
}
SHAPES = ("square", "circle", "bar", "cross")
QUESTIONS = ("What is shown?", "Which shape do you see in the picture?", "Describe the picture.")
IMAGE_PX = 28  # four patches of 14 pixels


def _texts() -> list[str]:
    answers = [f"A {colour} {shape} on grey." for colour in COLOURS for shape in SHAPES]
    return [*answers, *QUESTIONS, "USER: ASSISTANT:", "user\n assistant\n"]


def _bpe(special: Sequence[str], **names: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _tokenizer(chatml: bool) -> Any:
    from tokenizers import processors

    if chatml:
        return _bpe(
            ["<pad>", "<|im_start|>", "<|im_end|>", "<image>"],
            pad_token="<pad>",
            eos_token="<|im_end|>",
        )
    tokenizer = _bpe(
        ["<pad>", "<s>", "</s>", "<image>"], pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _vision(chatml: bool) -> Any:
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    kind = SiglipVisionConfig if chatml else CLIPVisionConfig
    return kind(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_PX,
        patch_size=14,
    )


def _image_processor(chatml: bool) -> Any:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    if chatml:
        return SiglipImageProcessor(size=size)
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_PX}, crop_size=size)


def write_tiny_llava(folder: Path, *, chatml: bool) -> Path:
    """Saves a random LLaVA of some 30 thousand parameters in Hugging Face format: Llama and CLIP,
    or Qwen2 and SigLIP.
    """
    import torch
    from transformers import (
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
    )

    tokenizer = _tokenizer(chatml)
    strategy = "full" if chatml else "default"
    text = (Qwen2Config if chatml else LlamaConfig)(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=_vision(chatml),
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=4,
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=_image_processor(chatml),
        tokenizer=tokenizer,
        patch_size=14,
        chat_template=CHATML if chatml else VICUNA,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=0 if chatml else 1,
    ).save_pretrained(folder)
    return folder


QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The chatml format of Qwen-VL: a system turn in Qwen2.5-VL, none in Qwen3-VL, and images between
# their own two tokens.
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
QWEN_TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for item in"
    " message['content'] %}{% if item['type'] == 'image'"
    " %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ item['text'] }}{% endif %}{% endfor"
    " %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_qwen2_5_vl(folder: Path) -> Path:
    """Saves a random Qwen2.5-VL: windows of 2 x 2 features in two of its tower's three layers."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
    )

    vision = {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    classes = (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
    )
    return _write_qwen(folder, classes, vision, QWEN_SYSTEM + QWEN_TURNS)


def write_tiny_qwen3_vl(folder: Path) -> Path:
    """Saves a random Qwen3-VL: features of two inner layers of its tower go to the language model's
    first two layers.
    """
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    vision = {"patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    classes = (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )
    return _write_qwen(folder, classes, vision, QWEN_TURNS)


def _write_qwen(
    folder: Path, classes: Sequence[Any], vision: dict[str, Any], template: str
) -> Path:
    import torch
    from transformers import Qwen2VLImageProcessor

    config_class, model_class, processor_class, video_class = classes
    tokenizer = _bpe(QWEN_SPECIAL, pad_token=QWEN_SPECIAL[0], eos_token=QWEN_SPECIAL[2])
    names = ("vision_start", "vision_end", "image", "video")
    token_ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(names, QWEN_SPECIAL[3:], strict=True)
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        **({"head_dim": 8} if model_class.__name__.startswith("Qwen3") else {}),
    }
    tower = {
        "depth": 3,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        **vision,
    }
    torch.manual_seed(0)
    model_class(config_class(text_config=text, vision_config=tower, **token_ids)).save_pretrained(
        folder
    )
    side = 2 * vision["patch_size"]  # of the square that becomes one feature
    size = {"shortest_edge": 4 * side**2, "longest_edge": 12 * side**2}
    image_processor = Qwen2VLImageProcessor(
        patch_size=vision["patch_size"], merge_size=2, size=size
    )
    processor_class(
        image_processor, tokenizer, video_class(), chat_template=template
    ).save_pretrained(folder)
    return folder


MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "llava-llama": lambda folder: write_tiny_llava(folder, chatml=False),
    "llava-qwen2": lambda folder: write_tiny_llava(folder, chatml=True),
    "qwen2_5_vl": write_tiny_qwen2_5_vl,
    "qwen3_vl": write_tiny_qwen3_vl,
}


def inference_inputs(vlm: Any, question: str, image: Any) -> dict[str, Any]:
    """What transformers itself makes of a question about an image, or None, for generation."""
    content = [
        *([] if image is None else [{"type": "image", "image": image}]),
        {"type": "text", "text": question},
    ]
    conversation = [{"role": "user", "content": content}]
    inputs = vlm.processor.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


def separate_logps(
    vlm: Any,
    texts: Sequence[tuple[str, str, str]],
    images_a: Sequence[Any],
    images_b: Sequence[Any],
) -> Any:
    """The slow oracle: six plain forward passes per pair, on inputs as transformers makes them for
    generation, [P, 3, 2].
    """
    import torch

    rows = []
    for (question, *answers), image_a, image_b in zip(texts, images_a, images_b, strict=True):
        for image in (image_a, image_b, None):
            for answer in answers:
                inputs = inference_inputs(vlm, question, image)
                response = [
                    *vlm.processor.tokenizer(answer, add_special_tokens=False)["input_ids"],
                    vlm.end_of_turn_id,
                ]
                start = inputs["input_ids"].shape[1]
                inputs["input_ids"] = torch.cat(
                    (inputs["input_ids"], torch.tensor([response])), dim=1
                )
                if "mm_token_type_ids" in inputs:
                    inputs["mm_token_type_ids"] = torch.nn.functional.pad(
                        inputs["mm_token_type_ids"], (0, len(response))
                    )
                logits = vlm.model(**inputs, use_cache=False).logits[0, start - 1 : -1].float()
                rows.append(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum())
    return torch.stack(rows).view(-1, 3, 2)
