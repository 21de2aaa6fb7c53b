"""The loop learns, and neither workers, micro-batches nor caches change what it computes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core.images import decode_rgb
from pipeline.core.recipe import UserError
from pipeline.core.schema import mvc_schema, read_mvc
from tests.training.gloo import two_workers
from tests.training.objectives.probe import loss_at_start
from training.config import TrainSection
from training.models.packing import PairTokens
from training.models.vlm import (
    encode_prompt,
    encode_response,
    load_vlm,
    pixel_values,
    save_vlm,
)
from training.objectives.losses import Objective
from training.objectives.terms import OBJECTIVES
from training.runtime.environment import LocalEnv
from training.trainer.loop import DivergedError, fit

Make = Callable[..., Path]


def section(model: Path, data: Path, out: Path, **changes: Any) -> TrainSection:
    out.mkdir(parents=True, exist_ok=True)
    recipe: dict[str, Any] = {
        "model": str(model),
        "data": str(data),
        "out": str(out),
        "eval_every_steps": 0,
        "optim": {"lr": 1e-3, "batch_pairs": 5, "micro_batch_pairs": 5, "num_epochs": 2},
    }
    for key, value in changes.items():
        recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, dict) else value
    return TrainSection.model_validate(recipe)


def trajectory(out: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if line["split"] == "train"]


def close(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_it_learns_to_prefer_the_matching_image(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    optim = {"lr": 5e-3, "batch_pairs": 8, "micro_batch_pairs": 8, "num_epochs": 30}
    record = fit(
        section(vicuna_llava, make_mvc(24, 6), tmp_path / "out", optim=optim, eval_every_steps=30),
        LocalEnv(),
    )
    assert record["start"]["loss"] == pytest.approx(4 * math.log(2))
    losses = [loss for loss, _ in trajectory(tmp_path / "out")]
    assert losses[0] == pytest.approx(4 * math.log(2), rel=1e-6)
    assert len(losses) == record["steps"] == 90
    assert losses[-1] < 2.0
    assert record["final"]["margin_attend_a"] > 0.5


@pytest.mark.slow
def test_the_result_is_a_model_folder_with_its_record(
    tiny_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    record = fit(section(tiny_llava, make_mvc(6, 2), out), LocalEnv())
    assert json.loads((out / "svco.json").read_text()) == record
    assert record["base_model"] == str(tiny_llava)
    before, after = load_vlm(tiny_llava).model.state_dict(), load_vlm(out).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)  # frozen
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [
        (0, "validation"),
        (1, "train"),
        (2, "train"),
        (3, "train"),
        (4, "train"),
        (4, "validation"),
    ]
    assert lines[1].keys() >= {
        "loss",
        "loss_attend_a",
        "margin_reject_b",
        "accuracy_attend_b",
        "lr",
        "grad_norm",
        "pairs_per_s",
        "data_wait_s",
    }


@pytest.mark.slow
def test_no_micro_batch_and_no_cache_changes_the_trajectory(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    data = make_mvc(12, 3)
    variants: list[dict[str, Any]] = [
        {},
        {"optim": {"micro_batch_pairs": 2}},
        {"train": {"cache_vision": False}},
        {"train": {"max_cache_gb": 1e-9}},
    ]
    found = []
    for index, changes in enumerate(variants):
        out = tmp_path / f"out{index}"
        fit(section(vicuna_llava, data, out, **changes), LocalEnv())
        found.append(trajectory(out))
    assert len(found[0]) == 6
    for other in found[1:]:
        close(other, found[0])


@pytest.mark.slow
def test_a_trained_vision_tower_changes(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(section(vicuna_llava, make_mvc(6, 2), out, train={"freeze_vision": False}), LocalEnv())
    before, after = load_vlm(vicuna_llava).model, load_vlm(out).model
    name = "model.vision_tower.embeddings.patch_embedding.weight"
    assert not torch.equal(before.state_dict()[name], after.state_dict()[name])


@pytest.mark.slow
def test_what_never_gets_a_gradient_is_left_as_it_was(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    # vision_feature_layer is -2: of the tower's two layers the second, and the norm after it, are
    # never seen.
    out, optim = tmp_path / "out", {"weight_decay": 10.0, "max_steps": 2}
    fit(
        section(vicuna_llava, make_mvc(6, 2), out, train={"freeze_vision": False}, optim=optim),
        LocalEnv(),
    )
    before, after = (
        load_vlm(folder).model.model.vision_tower.state_dict() for folder in (vicuna_llava, out)
    )
    weights = [name for name in before if name.endswith("weight") and "layer" in name]
    changed = {name for name in weights if not torch.equal(before[name], after[name])}
    seen = {name for name in weights if "layers.0." in name or "pre_layrnorm" in name}
    assert changed == seen
    assert len(seen) < len(weights)


@pytest.mark.slow
def test_weights_after_some_steps_are_those_of_the_loop_written_out(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path, plain_logps: Callable[..., Any]
) -> None:
    """Six separate passes per pair, the loss of the paper, AdamW as published, the rates of four
    steps by hand.
    """
    data, out = make_mvc(6, 0), tmp_path / "out"
    optim = {
        "lr": 2e-3,
        "batch_pairs": 3,
        "micro_batch_pairs": 2,
        "num_epochs": 2,
        "warmup_frac": 0.5,
        "clip_norm": 0.05,
        "weight_decay": 5.0,
        "adam_beta2": 0.95,
    }
    fit(section(vicuna_llava, data, out, optim=optim, seed=3), LocalEnv())
    expected = _four_steps_by_hand(load_vlm(vicuna_llava), data, plain_logps)

    before, ours = load_vlm(vicuna_llava).model.state_dict(), load_vlm(out).model.state_dict()
    for name, weights in expected.items():
        if "vision_tower" not in name:
            # Adam turns rounding in the smallest gradients into whole steps, so each tensor's
            # change is compared as a whole.
            off, moved = (ours[name] - weights).norm(), (weights - before[name]).norm()
            assert off < 0.002 * moved, (name, (off / moved).item())


def _four_steps_by_hand(
    vlm: Any, data: Path, plain_logps: Callable[..., Any]
) -> dict[str, torch.Tensor]:
    rows = read_mvc(data, "train").to_pylist()
    prompt = {
        (q, i): encode_prompt(vlm, q, with_image=i)
        for q in {row["question"] for row in rows}
        for i in (True, False)
    }
    pairs = [
        PairTokens(
            *(prompt[row["question"], i] for i in (True, False)),
            *(encode_response(vlm, row[f"answer_{s}"]) for s in "ab"),
        )
        for row in rows
    ]
    pixels = {
        s: pixel_values(vlm, [decode_rgb(row[f"image_{s}"]["bytes"]) for row in rows]) for s in "ab"
    }

    def logps(chosen: list[int]) -> torch.Tensor:
        return plain_logps(
            vlm.model,
            [pairs[i] for i in chosen],
            vlm.image_token_id,
            pixels["a"][chosen],
            pixels["b"][chosen],
        )

    with torch.no_grad():
        reference_N32 = logps(list(range(6)))
    vlm.model.model.vision_tower.requires_grad_(False)
    trained = [p for p in vlm.model.parameters() if p.requires_grad]
    mean, square = [torch.zeros_like(p) for p in trained], [torch.zeros_like(p) for p in trained]
    orders = [np.random.default_rng((3, epoch)).permutation(6).tolist() for epoch in (0, 1)]
    batches = [order[start : start + 3] for order in orders for start in (0, 3)]
    for step, (batch, rate) in enumerate(
        zip(batches, (1e-3, 2e-3, 2e-3, 1e-3), strict=True), start=1
    ):
        D = logps(batch) - reference_N32[batch]
        margins = (
            D[:, 0, 0] - D[:, 2, 0],
            D[:, 2, 0] - D[:, 1, 0],
            D[:, 1, 1] - D[:, 2, 1],
            D[:, 2, 1] - D[:, 0, 1],
        )
        gradients = torch.autograd.grad(
            sum(torch.log1p(torch.exp(-0.1 * margin)) for margin in margins).mean(), trained
        )
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        assert norm > 0.05  # clipping is at work
        with torch.no_grad():
            for p, g, m, v in zip(trained, gradients, mean, square, strict=True):
                g = g * (0.05 / norm)
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.95).add_(0.05 * g * g)
                p.mul_(1 - rate * (5.0 if p.ndim >= 2 else 0.0))
                p.sub_(rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8))
    return vlm.model.state_dict()


def _work(rank: int, world_size: int, recipe: dict[str, Any]) -> None:
    fit(TrainSection.model_validate(recipe), LocalEnv(rank, world_size))


@pytest.mark.slow
def test_two_workers_follow_the_trajectory_of_one(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    # 11 pairs in batches of 5: the last batch of an epoch has one pair, so the second worker has
    # none.
    data = make_mvc(11, 3)
    fit(section(vicuna_llava, data, tmp_path / "one"), LocalEnv())
    recipe = section(
        vicuna_llava, data, tmp_path / "two", optim={"micro_batch_pairs": 2}
    ).model_dump(mode="json")
    two_workers(_work, recipe)
    close(trajectory(tmp_path / "two"), trajectory(tmp_path / "one"))
    one, two = (json.loads((tmp_path / name / "svco.json").read_text()) for name in ("one", "two"))
    assert two["final"] == pytest.approx(one["final"], rel=1e-4, abs=1e-5)
    weights = [load_vlm(tmp_path / name).model.state_dict() for name in ("one", "two")]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("svco", "anchor")])
def test_every_objective_trains(
    name: str, vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    out, at_start = tmp_path / "out", loss_at_start(Objective(name))
    record = fit(section(vicuna_llava, make_mvc(10, 2), out, objective={"name": name}), LocalEnv())
    losses = [loss for loss, _ in trajectory(out)]
    if at_start is not None:
        assert losses[0] == pytest.approx(at_start, rel=1e-6)
    assert losses[-1] < losses[0]
    assert record["objective"]["name"] == name


def test_a_loss_that_is_no_number_stops_with_step_and_pairs(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    with pytest.raises(
        DivergedError,
        match=r"^step \d+: the (loss of \d+ of \d+ pairs \(.+\)|gradient) is not finite",
    ):
        fit(
            section(
                vicuna_llava, make_mvc(10, 2), tmp_path / "out", optim={"lr": 1e30, "num_epochs": 5}
            ),
            LocalEnv(),
        )
    assert not (tmp_path / "out" / "svco.json").exists()


def test_divergence_at_validation_names_the_step_that_was_done(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    with pytest.raises(
        DivergedError,
        match=(
            r"^validation after step 1: the loss of 2 of 2 pairs \(\w+, \w+\) is not finite"
            r" \(terms: attend_a, .+\); lower"
        ),
    ):
        fit(
            section(
                vicuna_llava, make_mvc(10, 2), tmp_path / "out", optim={"lr": 1e30, "max_steps": 1}
            ),
            LocalEnv(),
        )


def test_a_broken_base_is_not_blamed_on_the_learning_rate(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    broken = load_vlm(vicuna_llava)
    with torch.no_grad():
        broken.model.lm_head.weight[5, 5] = math.nan
    save_vlm(broken, tmp_path / "base")
    with pytest.raises(
        UserError,
        match="the base model's own log-probabilities of 4 of 4 pairs .* before any training",
    ) as raised:
        fit(section(tmp_path / "base", make_mvc(4, 2), tmp_path / "out"), LocalEnv())
    assert "optim.lr" not in str(raised.value)


class Listening(LocalEnv):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def _with_long_answers(data: Path, split: str, rows: list[int]) -> Path:
    path = data / "data" / f"{split}-00000-of-00001.parquet"
    table = pq.read_table(path).to_pylist()
    for row in rows:
        table[row]["answer_b"] = "A red circle on grey. " * 20
    pq.write_table(pa.Table.from_pylist(table, schema=mvc_schema()), path)
    return data


@pytest.mark.slow
def test_pairs_dropped_from_either_split_are_said_and_recorded(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    data = _with_long_answers(
        _with_long_answers(make_mvc(6, 3), "validation", [1]), "train", [0, 5]
    )
    env = Listening()
    record = fit(
        section(vicuna_llava, data, tmp_path / "out", max_length_tokens=60, optim={"max_steps": 1}),
        env,
    )
    assert record["pairs"] == {"train": 4, "validation": 2}
    assert record["pairs_dropped_too_long"] == {"train": 2, "validation": 1}
    assert env.said[0].startswith(
        "4 pairs (2 too long and left out), 2 pairs (1 too long and left out) for validation; 1"
        " steps"
    )


def test_a_validation_split_of_long_pairs_only_is_skipped_with_a_line(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    data, env = _with_long_answers(make_mvc(4, 2), "validation", [0, 1]), Listening()
    record = fit(
        section(vicuna_llava, data, tmp_path / "out", max_length_tokens=60, optim={"max_steps": 1}),
        env,
    )
    assert (record["start"], record["final"], record["pairs"]) == (
        {},
        {},
        {"train": 4, "validation": 0},
    )
    assert any(
        line.startswith("no validation: all its pairs are longer than max_length_tokens")
        for line in env.said
    )


def test_data_without_a_validation_split_trains_without_validation(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    record = fit(
        section(vicuna_llava, make_mvc(6, 0), tmp_path / "out", eval_every_steps=1), LocalEnv()
    )
    assert (record["start"], record["final"]) == ({}, {})


@pytest.mark.slow
def test_max_steps_goes_on_into_later_epochs(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path
) -> None:
    fit(section(vicuna_llava, make_mvc(6, 2), tmp_path / "out", optim={"max_steps": 5}), LocalEnv())
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["epoch"] for line in lines if line["split"] == "train"] == [0, 0, 1, 1, 2]
