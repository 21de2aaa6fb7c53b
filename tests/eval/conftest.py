"""A real, tiny, random LLaVA and a small MVC folder of drawn scenes, in which half of the rows have
no exact truth.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.schema import SCHEMA_VERSION, mvc_schema, pair_id, sha256_hex
from pipeline.sources.scenes.source import ScenesSection, ScenesSource

TEMPLATE = (
    "{% for message in messages %}USER: {% for item in message['content'] %}{% if item['type'] =="
    " 'image' %}<image>\n{% else %}{{ item['text'] }}{% endif %}{% endfor %} {% endfor %}{% if"
    " add_generation_prompt %}ASSISTANT:{% endif %}"
)
NUM_PAIRS = 12
IMAGE_PX = 32


def scene_rows(num_pairs: int) -> list[dict[str, Any]]:
    """Valid MVC rows; every second one comes from a source without exact truth, and pairs 2i and
    2i+1 share a group.
    """
    section = ScenesSection(kind="scenes", num_pairs=num_pairs, seed=3)
    rows = []
    for index, pair in enumerate(ScenesSource(section).read(0, num_pairs)):
        hashes = sha256_hex(pair.image_a), sha256_hex(pair.image_b)
        row = {
            "pair_id": pair_id(hashes[0], pair.caption_a, hashes[1], pair.caption_b),
            "source": ("scenes", "untold")[index % 2],
            "source_id": pair.source_id,
            "category": pair.category,
            "operation": "render",
            "group": f"group-{index // 2}",
            "image_a": {"bytes": pair.image_a, "path": None},
            "image_b": {"bytes": pair.image_b, "path": None},
            "question": pair.question,
            "answer_a": pair.caption_a,
            "answer_b": pair.caption_b,
            "caption_a": pair.caption_a,
            "caption_b": pair.caption_b,
            "rewrite_status": "template",
            "rewrite_model": "",
            "license": "Apache-2.0",
            "image_a_sha256": hashes[0],
            "image_b_sha256": hashes[1],
            "meta": pair.meta if index % 2 == 0 else "{}",
        }
        if index == 1:  # what a page must show as text
            row |= {
                "question": "What <script>alert(1)</script> is this?",
                "answer_a": "A <b>star</b> & more.",
            }
        rows.append(row)
    return rows


def write_mvc(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """An MVC folder whose validation split is `rows`."""
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows), schema=mvc_schema())
    pq.write_table(table, folder / "data" / "validation-00000-of-00001.parquet")
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    return folder


def write_llava(folder: Path, texts: Sequence[str], seed: int) -> Path:
    """Saves a random LLaVA (Llama and CLIP) of some 20 thousand parameters for Hugging Face."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*texts, "USER: ASSISTANT:"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_PX,
        patch_size=16,
    )
    words = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=words,
            image_token_index=3,
            image_seq_length=4,
            vision_feature_layer=-2,
        )
    )
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_PX}, crop_size=size)
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Answers are kept where the next run of the tests does not find them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVCO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """The rows of `mvc`."""
    return scene_rows(NUM_PAIRS)


@pytest.fixture(scope="session")
def mvc(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    """An MVC folder of 12 validation pairs in 6 groups."""
    return write_mvc(tmp_path_factory.mktemp("data") / "mvc", rows)


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    """A model folder as the trainer leaves it: another random model, its base beside it with a
    stated prior.
    """
    texts = [row[name] for row in rows for name in ("question", "answer_a", "answer_b")]
    folder = write_llava(tmp_path_factory.mktemp("model") / "tuned", texts, seed=1)
    write_llava(folder / "base", texts, seed=0)
    (folder / "svco.json").write_text(json.dumps({"base_model": "base"}))
    prior = {row["question"]: [row["answer_a"]] for row in rows[:6]}
    (folder / "base" / "prior.json").write_text(json.dumps({"favoured": prior}))
    return folder


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """`write_rows(folder, rows)`: an MVC folder of other rows."""
    return write_mvc
