"""A real, tiny LLaVA with a trained tokenizer in either prompt format, and a small MVC folder."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.schema import SCHEMA_VERSION, mvc_schema, pair_id, sha256_hex

# The two documented prompt formats: LLaVA-1.5 (Vicuna), and the chatml format of LLaVA-Interleave.
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %} "
    "{% else %}ASSISTANT: {{ message['content'][0]['text'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for item in message['content'] if item['type'] == 'image' %}<image>{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ '\n' + item['text'] }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SHAPES = ("square", "circle", "bar", "cross")
QUESTIONS = ("What is shown?", "Which shape do you see in the picture?", "Describe the picture.")
IMAGE_PX = 28  # four patches of 14 pixels


def _texts() -> list[str]:
    answers = [f"A {colour} {shape} on grey." for colour in COLOURS for shape in SHAPES]
    return [*answers, *QUESTIONS, "USER: ASSISTANT:", "user\n assistant\n"]


def _tokenizer(chatml: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<|im_start|>", "<|im_end|>", "<image>"] if chatml else ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_texts(), trainer)
    if chatml:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _vision(chatml: bool) -> Any:
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    kind = SiglipVisionConfig if chatml else CLIPVisionConfig
    return kind(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=IMAGE_PX, patch_size=14)


def _image_processor(chatml: bool) -> Any:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    if chatml:
        return SiglipImageProcessor(size=size)
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_PX}, crop_size=size)


def write_tiny_llava(folder: Path, *, chatml: bool) -> Path:
    """Saves a random LLaVA of some 30 thousand parameters in Hugging Face format: Llama and CLIP, or Qwen2 and SigLIP."""
    import torch
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen2Config

    tokenizer = _tokenizer(chatml)
    strategy = "full" if chatml else "default"
    text = (Qwen2Config if chatml else LlamaConfig)(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=_vision(chatml), text_config=text, image_token_index=image_token_id, image_seq_length=4,
        vision_feature_select_strategy=strategy, vision_feature_layer=-2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=_image_processor(chatml), tokenizer=tokenizer, patch_size=14, chat_template=CHATML if chatml else VICUNA,
        vision_feature_select_strategy=strategy, num_additional_image_tokens=0 if chatml else 1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session", params=["vicuna", "chatml"])
def tiny_llava(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA, once in each prompt format."""
    return write_tiny_llava(tmp_path_factory.mktemp(request.param), chatml=request.param == "chatml")


@pytest.fixture(scope="session")
def vicuna_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA in the LLaVA-1.5 format, where one format is enough."""
    return write_tiny_llava(tmp_path_factory.mktemp("vicuna-only"), chatml=False)


def draw(colour: str, shape: str, shift: int = 0) -> bytes:
    """A 32 pixel PNG of one coloured shape on grey."""
    canvas = np.full((32, 32, 3), 128, np.uint8)
    y, x = np.mgrid[:32, :32] - 16 + shift
    masks = {
        "square": (abs(y) < 9) & (abs(x) < 9),
        "circle": y**2 + x**2 < 100,
        "bar": abs(y) < 4,
        "cross": (abs(y) < 4) | (abs(x) < 4),
    }
    canvas[masks[shape]] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()


def mvc_row(index: int) -> dict[str, Any]:
    """A valid MVC row: two pictures that differ in colour."""
    colours, shape = list(COLOURS), SHAPES[index % 4]
    a, b = colours[index % 4], colours[(index // 4 + index + 1 + (index // 4 % 3 == 2)) % 4]
    image_a, image_b = draw(a, shape, index % 3), draw(b, shape, index % 3)
    caption_a, caption_b = f"A {a} {shape} on grey {index}.", f"A {b} {shape} on grey {index}."
    hashes = sha256_hex(image_a), sha256_hex(image_b)
    return {
        "pair_id": pair_id(hashes[0], caption_a, hashes[1], caption_b), "source": "drawn", "source_id": str(index),
        "category": "attribute", "operation": "render", "group": str(index), "image_a": {"bytes": image_a, "path": None},
        "image_b": {"bytes": image_b, "path": None}, "question": QUESTIONS[index % 3], "answer_a": caption_a[: -len(f" {index}.")] + ".",
        "answer_b": caption_b[: -len(f" {index}.")] + ".", "caption_a": caption_a, "caption_b": caption_b,
        "rewrite_status": "template", "rewrite_model": "", "license": "CC0-1.0", "image_a_sha256": hashes[0],
        "image_b_sha256": hashes[1], "meta": json.dumps({"index": index}),
    }  # fmt: skip


def write_mvc(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """Writes an MVC folder of given rows, one shard per split."""
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        table = pa.Table.from_pylist(rows, schema=mvc_schema())
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    return folder


@pytest.fixture
def make_mvc(tmp_path: Path) -> Callable[..., Path]:
    """Makes an MVC folder of `num_train` and `num_validation` pairs; `change` may edit the training rows."""

    def make(num_train: int = 12, num_validation: int = 4, change: Callable[[list[dict[str, Any]]], None] | None = None) -> Path:
        train = [mvc_row(index) for index in range(num_train)]
        if change:
            change(train)
        validation = [mvc_row(100 + index) for index in range(num_validation)]
        splits = {"train": train, "validation": validation} if validation else {"train": train}
        return write_mvc(tmp_path / "mvc", splits)

    return make


def _plain_logps(model: Any, pairs: Any, image_token_id: int, pixels_a: Any, pixels_b: Any) -> Any:
    """The slow oracle: six separate unpadded passes per pair, the model's own forward and nothing shared."""
    import torch

    rows = []
    for index, pair in enumerate(pairs):
        for pixels in (pixels_a[index : index + 1], pixels_b[index : index + 1], None):
            prompt = pair.prompt_text if pixels is None else pair.prompt_image
            for response in (pair.response_a, pair.response_b):
                ids = torch.tensor([prompt + response])
                logits = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[0].float()
                logp = logits[len(prompt) - 1 : -1].log_softmax(-1)
                rows.append(logp.gather(1, torch.tensor(response)[:, None]).sum())
    return torch.stack(rows).view(len(pairs), 3, 2)


@pytest.fixture(scope="session")
def plain_logps() -> Callable[..., Any]:
    """`plain_logps(model, pairs, image_token_id, pixels_a, pixels_b)`: the six log-probabilities, the slow clear way."""
    return _plain_logps
