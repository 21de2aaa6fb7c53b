"""What is trained is what the recipe says: adapters where they belong, frozen parts frozen, memory
traded without a change.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.quantizers.quantizers_utils import should_convert_module

from pipeline.core.recipe import UserError
from training.config import TrainSection
from training.models.generation import generate
from training.models.vlm import load_vlm
from training.runtime.environment import LocalEnv
from training.trainer.loop import fit
from training.trainer.policy import (
    NOT_IN_4_BITS,
    build_policy,
    check_frozen,
    parameter_table,
    part_of,
    trained_parts,
)

Make = Callable[..., Path]


@pytest.fixture
def recipe(tiny_llava: Path, make_mvc: Make, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "out").mkdir()
    return {
        "model": str(tiny_llava),
        "data": str(make_mvc(8, 2)),
        "out": str(tmp_path / "out"),
        "eval_every_steps": 0,
        "optim": {"lr": 1e-2, "batch_pairs": 4, "micro_batch_pairs": 2},
        "log": {"num_samples": 1},
    }


def section(recipe: dict[str, Any], **changes: Any) -> TrainSection:
    return TrainSection.model_validate({**recipe, **changes})


def losses(out: str) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if line["split"] == "train"]


def test_adapters_go_on_the_language_model_alone(recipe: dict[str, Any]) -> None:
    trained = build_policy(section(recipe, lora={"rank": 2}), "cpu", 1)
    names = [name for name, p in trained.vlm.model.named_parameters() if p.requires_grad]
    assert {part_of(trained.vlm.model, name) for name in names} == {"adapters", "projector"}
    # The vision tower has layers of the same names.
    assert any(
        "vision_tower" in name and "q_proj" in name for name, _ in trained.vlm.model.named_modules()
    )
    assert all("language_model" in name for name in names if "lora_" in name)
    table = {part: (total, moving) for part, total, moving in parameter_table(trained.vlm.model)}
    assert table["vision tower"][1] == table["language model"][1] == "0"
    assert table["projector"][0] == table["projector"][1]


def test_in_4_bits_are_layers_of_the_language_model_alone(tiny_model: Path) -> None:
    model = load_vlm(tiny_model).model
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in layers if should_convert_module(name, NOT_IN_4_BITS)]
    assert {part_of(model, f"{name}.weight") for name in chosen} == {"language model"}
    inner = [name for name in layers if part_of(model, f"{name}.weight") == "language model"]
    assert set(inner) - set(chosen) == {"lm_head"}


def test_a_pattern_that_fits_no_layer_is_refused_with_the_names_that_are_there(
    recipe: dict[str, Any],
) -> None:
    with pytest.raises(
        UserError,
        match=(
            r"lora.targets='c_attn' fits no layer .*linear layers are down_proj, gate_proj, k_proj"
        ),
    ):
        build_policy(section(recipe, lora={"targets": "c_attn"}), "cpu", 1)


def test_a_frozen_part_that_would_be_trained_is_an_error(recipe: dict[str, Any]) -> None:
    asked = section(recipe, train={"train_projector": False})
    trained = build_policy(asked, "cpu", 1)
    check_frozen(trained.vlm.model, trained_parts(asked))
    next(trained.vlm.model.model.vision_tower.parameters()).requires_grad_(True)
    with pytest.raises(
        UserError, match=r"only language model to be trained, but so would be model\.vision_tower"
    ):
        check_frozen(trained.vlm.model, trained_parts(asked))


@pytest.mark.slow
def test_recomputing_activations_changes_memory_and_nothing_else(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    saved = {}
    for recompute in (False, True):
        trained = build_policy(
            section(recipe, train={"checkpoint_activations": recompute}), "cpu", 1
        )
        saved[recompute] = _saved_bytes(trained, section(recipe))
    assert saved[True] < 0.7 * saved[False]
    fit(section(recipe), LocalEnv())
    (tmp_path / "again").mkdir()
    fit(
        section(recipe, out=str(tmp_path / "again"), train={"checkpoint_activations": True}),
        LocalEnv(),
    )
    torch.testing.assert_close(
        torch.tensor(losses(recipe["out"])),
        torch.tensor(losses(str(tmp_path / "again"))),
        rtol=1e-5,
        atol=1e-6,
    )


def _saved_bytes(trained: Any, asked: TrainSection) -> int:
    """What a forward pass keeps for the backward pass."""
    import numpy as np

    from training.data.pairs import PairReader
    from training.data.vision_features import VisionFeatures

    reader = PairReader(asked.data, "train", trained.vlm)
    features = VisionFeatures(reader, trained.vlm, LocalEnv(), frozen=True, max_cache_bytes=1e9)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    pairs = np.arange(4)
    weights = {p.untyped_storage().data_ptr() for p in trained.policy.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trained.policy(reader.packed(pairs), *features.get(pairs))
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.slow
def test_adapters_start_as_the_base_and_merge_into_what_was_trained(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    from peft import PeftModel  # takes seconds to import

    record = fit(section(recipe, lora={"rank": 4, "alpha": 8, "merge": True}), LocalEnv())
    assert record["start"]["loss"] == pytest.approx(2.7725887)  # the base, so 4 log 2
    out = Path(recipe["out"])
    merged = AutoModelForImageTextToText.from_pretrained(out)
    base = AutoModelForImageTextToText.from_pretrained(recipe["model"])
    adapted = PeftModel.from_pretrained(base, out / "adapter")
    changed = (
        merged.model.language_model.layers[0].self_attn.q_proj.weight
        - load_vlm(recipe["model"]).model.model.language_model.layers[0].self_attn.q_proj.weight
    )
    assert changed.abs().max() > 1e-4
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert f"finetuned from `{Path(recipe['model']).name}`" in (out / "README.md").read_text()


@pytest.mark.slow
def test_adapters_alone_are_a_folder_that_transformers_loads(recipe: dict[str, Any]) -> None:
    asked = section(
        recipe, lora={"rank": 4, "alpha": 8, "merge": False}, train={"train_projector": False}
    )
    fit(asked, LocalEnv())
    out = Path(recipe["out"])
    assert not (out / "model.safetensors").exists()
    assert (
        json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
        == recipe["model"]
    )
    model = AutoModelForImageTextToText.from_pretrained(out)
    names = [name for name, _ in model.named_parameters() if "lora_B" in name]
    assert names
    assert all(dict(model.named_parameters())[name].abs().max() > 0 for name in names)
    assert isinstance(generate(load_vlm(out), [None], ["What is it?"], max_new_tokens=3)[0], str)


@pytest.mark.slow
def test_low_precision_follows_full_precision(recipe: dict[str, Any], tmp_path: Path) -> None:
    fit(section(recipe), LocalEnv())
    (tmp_path / "low").mkdir()
    fit(
        section(
            recipe,
            out=str(tmp_path / "low"),
            train={"precision": "bfloat16", "weights": "bfloat16"},
        ),
        LocalEnv(),
    )
    full, low = (torch.tensor(losses(out))[:, 0] for out in (recipe["out"], str(tmp_path / "low")))
    torch.testing.assert_close(low, full, rtol=0.05, atol=0.02)
    kept = AutoModelForImageTextToText.from_pretrained(tmp_path / "low", dtype="auto")
    # no larger than its base
    assert (
        kept.dtype
        == AutoModelForImageTextToText.from_pretrained(recipe["model"], dtype="auto").dtype
    )


@pytest.mark.slow
def test_answers_are_sampled_at_each_validation(recipe: dict[str, Any]) -> None:
    fit(section(recipe), LocalEnv())
    samples = [
        json.loads(line)
        for line in (Path(recipe["out"]) / "samples.jsonl").read_text().splitlines()
    ]
    assert [sample["step"] for sample in samples] == [0, 2]
    assert all(sample["answer_a"] is not None and sample["question"] for sample in samples)
    assert list((Path(recipe["out"]) / "tensorboard").glob("events*"))


@pytest.mark.slow
def test_every_family_trains_in_full_and_by_adapters(
    tiny_model: Path, make_mvc: Make, tmp_path: Path
) -> None:
    data = make_mvc(5, 2)
    for lora in (None, {"rank": 2, "alpha": 4}):
        out = tmp_path / ("adapters" if lora else "full")
        out.mkdir()
        optim = {"lr": 1e-2, "batch_pairs": 3, "micro_batch_pairs": 2, "num_epochs": 2}
        recipe = {
            "model": str(tiny_model),
            "data": str(data),
            "out": str(out),
            "optim": optim,
            "lora": lora,
            "log": {"num_samples": 1},
        }
        record = fit(TrainSection.model_validate(recipe), LocalEnv())
        assert record["start"]["loss"] == pytest.approx(2.7725887)
        assert record["steps"] == 4
        before, after = (load_vlm(folder).model.state_dict() for folder in (tiny_model, out))
        moved = {
            part_of(load_vlm(out).model, name)
            for name in before
            if not torch.equal(before[name], after[name])
        }
        # the merged adapters are the language model's
        assert moved == {"projector", "language model"}
