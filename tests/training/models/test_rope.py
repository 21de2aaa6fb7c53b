"""Rope types that depend on the length: packed rows are exact up to it, and what is beyond is not
packed.
"""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.training.tiny_families import separate_logps
from training.config import TrainSection
from training.data.pairs import PairReader
from training.estimate.data_size import size_of_data
from training.estimate.known_models import find_shape
from training.models.generation import generate
from training.models.logps import exact_logps, pair_logps
from training.models.packing import pack
from training.models.pair import short_pair
from training.models.rope import max_exact_length
from training.models.vlm import Vlm, load_vlm, pixel_values
from training.plan_cli import more_advice
from training.tiny.config import TinySection

ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
    },
}
QUESTION = "Which shape do you see in the picture?"
SHORT, LONG = "A red bar.", "A red bar on grey. A green cross on grey. A blue circle on grey."


def roped(source: Path, target: Path, kind: str, limit: int) -> Path:
    """A copy of a model whose rope changes beyond a length, and whose words heed where they are."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    for name in tensors:
        if name.endswith(("_proj.weight", "embed_tokens.weight")) and "vision" not in name:
            tensors[name] *= 10
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    text = config["text_config"]
    text["rope_parameters"] = {**text["rope_parameters"], **ROPES[kind]}
    if kind == "longrope":
        text["rope_parameters"]["original_max_position_embeddings"] = limit
    else:
        text["max_position_embeddings"] = limit
    (target / "config.json").write_text(json.dumps(config))
    return target


def images(number: int) -> list[Image.Image]:
    return [Image.new("RGB", (40, 30 + 4 * index), "red") for index in range(number)]


def logps(vlm: Vlm, texts: list[tuple[str, str, str]], **how: Any) -> torch.Tensor:
    """By `exact_logps`, or by one packed row for all."""
    sides = images(len(texts)), images(len(texts))
    pairs = [
        short_pair(vlm, text, (a.size, b.size)).tokens(vlm)
        for text, a, b in zip(texts, *sides, strict=True)
    ]
    pixels = [pixel_values(vlm, side) for side in sides]
    with torch.inference_mode():
        if how:
            return pair_logps(vlm.model, pack(pairs, vlm.image_token_id), *pixels)
        return exact_logps(vlm.model, pairs, vlm.image_token_id, *pixels)


def oracle(folder: Path, texts: list[tuple[str, str, str]]) -> torch.Tensor:
    """Six plain passes of each pair, each by rotary positions that have seen nothing before."""
    vlm = load_vlm(folder)
    words = vlm.model.model.language_model
    unused = copy.deepcopy(words.rotary_emb)

    def renew(*_: Any) -> None:
        words.rotary_emb = copy.deepcopy(unused)

    vlm.model.register_forward_pre_hook(renew)
    space = " " if vlm.family == "llava-llama" else ""  # which its format has before an answer
    texts = [(question, space + a, space + b) for question, a, b in texts]
    with torch.inference_mode():
        return separate_logps(vlm, texts, images(len(texts)), images(len(texts)))


def longest(vlm: Vlm, text: tuple[str, str, str]) -> int:
    size = images(1)[0].size
    return short_pair(vlm, text, (size, size)).longest


@pytest.mark.parametrize("kind", sorted(ROPES))
def test_a_row_of_many_short_sequences_is_exact_though_it_is_long(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    texts = [(QUESTION, SHORT, "A blue cross.")] * 3
    limit = longest(load_vlm(tiny_model), texts[0]) + 8  # images differ in size
    folder = roped(tiny_model, tmp_path / "m", kind, limit)
    vlm = load_vlm(folder)
    assert max_exact_length(vlm.model.config) == limit
    row = logps(vlm, texts, packed=True)
    assert torch.allclose(row, oracle(folder, texts), rtol=1e-5, atol=1e-5)
    assert torch.equal(row, logps(vlm, texts))


@pytest.mark.parametrize("kind", sorted(ROPES))
def test_sequences_beyond_the_length_are_scored_apart(
    vicuna_llava: Path, tmp_path: Path, kind: str
) -> None:
    texts = [(QUESTION, SHORT, SHORT), (QUESTION, SHORT, LONG), (QUESTION, LONG, LONG)]
    limit = longest(load_vlm(vicuna_llava), texts[0])
    folder = roped(vicuna_llava, tmp_path / "m", kind, limit)
    expected, vlm = oracle(folder, texts), load_vlm(folder)
    wrong = logps(vlm, texts, packed=True)
    assert (wrong - expected).abs().max() > 1e-2  # in one row
    assert torch.allclose(logps(vlm, texts), expected, rtol=1e-4, atol=1e-4)
    # whatever came before, and whoever is beside it
    assert torch.allclose(logps(vlm, texts[:1]), expected[:1], rtol=1e-4, atol=1e-4)


def test_a_sequence_of_just_that_length_may_share_a_row(vicuna_llava: Path, tmp_path: Path) -> None:
    plain = load_vlm(vicuna_llava)
    text = (QUESTION, SHORT, LONG)
    for kind in ROPES:
        for more, is_kept in ((0, True), (-1, False)):
            limit = longest(plain, text) + more
            folder = roped(vicuna_llava, tmp_path / f"{kind}{more}", kind, limit)
            vlm = load_vlm(folder)
            close = torch.allclose(
                logps(vlm, [text], packed=True), oracle(folder, [text]), rtol=1e-4, atol=1e-4
            )
            assert close == is_kept


def test_what_was_answered_before_changes_no_answer(vicuna_llava: Path, tmp_path: Path) -> None:
    folder = roped(vicuna_llava, tmp_path / "m", "dynamic", 24)
    fresh, used = load_vlm(folder), load_vlm(folder)
    generate(used, [None], [f"{QUESTION} {LONG} {LONG}"], max_new_tokens=20)
    for question in ("?", QUESTION, f"{QUESTION} {LONG}"):
        asked = ([None], [question])
        assert generate(used, *asked, max_new_tokens=8) == generate(
            load_vlm(folder), *asked, max_new_tokens=8
        )
    texts = [(QUESTION, SHORT, SHORT)]
    assert torch.equal(logps(used, texts), logps(fresh, texts))


def test_training_leaves_out_what_is_beyond_the_length(
    vicuna_llava: Path, make_mvc: Callable[..., Path], tmp_path: Path
) -> None:
    data, plain = make_mvc(8, 2), load_vlm(vicuna_llava)
    every = PairReader(data, "train", plain)
    lengths = sorted(pair.longest for pair in every._pairs)
    for kind in ROPES:
        folder = roped(vicuna_llava, tmp_path / kind, kind, lengths[3])
        reader = PairReader(data, "train", load_vlm(folder), max_length_tokens=2048)
        assert len(reader) == sum(length <= lengths[3] for length in lengths)
        assert reader.left_out.counts == {"beyond_rope_length": 8 - len(reader)}
        shape, _ = find_shape(str(folder), TinySection())
        size = size_of_data(data, str(folder), shape)
        section = TrainSection(model=str(folder), data=str(data), out="o")
        (line,) = [line for line in more_advice(section, shape, size) if "rope" in line]
        assert f"beyond the {lengths[3]} tokens from which the model's rope changes" in line


@pytest.mark.parametrize(
    ("stated", "limit"),
    [
        (None, None),
        ({"rope_type": "default", "rope_theta": 1e4}, None),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, None),
        ({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}, None),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 256),
        ({"type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 256),
        (
            {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 64,
            },
            64,
        ),
    ],
)
def test_which_ropes_depend_on_the_length(
    vicuna_llava: Path, stated: dict[str, Any] | None, limit: int | None
) -> None:
    from transformers import AutoConfig

    config = json.loads((vicuna_llava / "config.json").read_text())
    for name in ("rope_parameters", "rope_scaling"):  # as transformers 5 and 4 call it
        text = {k: v for k, v in config["text_config"].items() if k != "rope_parameters"}
        if stated:
            text[name] = dict(stated)
        made = AutoConfig.for_model(
            "llava",
            **{k: v for k, v in config.items() if k not in ("model_type", "text_config")},
            text_config=text,
        )
        assert max_exact_length(made) == limit
