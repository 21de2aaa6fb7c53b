"""The loop learns, and neither workers, micro-batches nor caches change what it computes."""

import json
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.config import TrainSection
from training.env import LocalEnv
from training.loop import DivergedError, fit
from training.vlm import load_vlm

Make = Callable[..., Path]


def section(model: Path, data: Path, out: Path, **changes: Any) -> TrainSection:
    out.mkdir(parents=True, exist_ok=True)
    recipe: dict[str, Any] = {
        "model": str(model), "data": str(data), "out": str(out), "eval_every_steps": 0,
        "optim": {"lr": 1e-3, "batch_pairs": 5, "micro_batch_pairs": 5, "num_epochs": 2},
    }  # fmt: skip
    for key, value in changes.items():
        recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, dict) else value
    return TrainSection.model_validate(recipe)


def trajectory(out: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if line["split"] == "train"]


def close(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-5, atol=1e-6)


def test_it_learns_to_prefer_the_matching_image(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    optim = {"lr": 5e-3, "batch_pairs": 8, "micro_batch_pairs": 8, "num_epochs": 30}
    record = fit(section(vicuna_llava, make_mvc(24, 6), tmp_path / "out", optim=optim, eval_every_steps=30), LocalEnv())
    assert record["start"]["loss"] == pytest.approx(4 * math.log(2))
    losses = [loss for loss, _ in trajectory(tmp_path / "out")]
    assert losses[0] == pytest.approx(4 * math.log(2), rel=1e-6)
    assert len(losses) == record["steps"] == 90
    assert losses[-1] < 2.0
    assert record["final"]["margin_attend_a"] > 0.5


def test_the_result_is_a_model_folder_with_its_record(tiny_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
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
        (0, "validation"), (1, "train"), (2, "train"), (3, "train"), (4, "train"), (4, "validation"),
    ]  # fmt: skip
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


def test_no_micro_batch_and_no_cache_changes_the_trajectory(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
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


def test_a_trained_vision_tower_changes(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(section(vicuna_llava, make_mvc(6, 2), out, train={"freeze_vision": False}), LocalEnv())
    before, after = load_vlm(vicuna_llava).model, load_vlm(out).model
    name = "model.vision_tower.embeddings.patch_embedding.weight"
    assert not torch.equal(before.state_dict()[name], after.state_dict()[name])


def _gloo_worker(rank: int, world_size: int, port: int, recipe: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    try:
        fit(TrainSection.model_validate(recipe), LocalEnv(rank, world_size))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_follow_the_trajectory_of_one(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    # 11 pairs in batches of 5: the last batch of an epoch has one pair, so the second worker has none.
    data = make_mvc(11, 3)
    fit(section(vicuna_llava, data, tmp_path / "one"), LocalEnv())
    recipe = section(vicuna_llava, data, tmp_path / "two", optim={"micro_batch_pairs": 2}).model_dump(mode="json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_gloo_worker, args=(2, port, recipe), nprocs=2)
    close(trajectory(tmp_path / "two"), trajectory(tmp_path / "one"))
    one, two = (json.loads((tmp_path / name / "svco.json").read_text()) for name in ("one", "two"))
    assert two["final"] == pytest.approx(one["final"], rel=1e-4, abs=1e-5)
    weights = [load_vlm(tmp_path / name).model.state_dict() for name in ("one", "two")]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "at_start"), [("vco", 2 * math.log(2)), ("dpo", math.log(2)), ("sft", None)])
def test_every_objective_trains(name: str, at_start: float | None, vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = fit(section(vicuna_llava, make_mvc(10, 2), out, objective={"name": name}), LocalEnv())
    losses = [loss for loss, _ in trajectory(out)]
    if at_start is not None:
        assert losses[0] == pytest.approx(at_start, rel=1e-6)
    assert losses[-1] < losses[0]
    assert record["objective"]["name"] == name


def test_a_loss_that_is_no_number_stops_with_step_and_pairs(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step \d+: the (loss of \d+ of \d+ pairs|gradient) is not finite"):
        fit(section(vicuna_llava, make_mvc(10, 2), tmp_path / "out", optim={"lr": 1e30, "num_epochs": 5}), LocalEnv())
    assert not (tmp_path / "out" / "svco.json").exists()


def test_data_without_a_validation_split_trains_without_validation(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    record = fit(section(vicuna_llava, make_mvc(6, 0), tmp_path / "out", eval_every_steps=1), LocalEnv())
    assert (record["start"], record["final"]) == ({}, {})


def test_max_steps_goes_on_into_later_epochs(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> None:
    fit(section(vicuna_llava, make_mvc(6, 2), tmp_path / "out", optim={"max_steps": 5}), LocalEnv())
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["split"] == "train"] == [0, 0, 1, 1, 2]
