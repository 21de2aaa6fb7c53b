"""Weights spread over workers (FSDP2) follow the trajectory of one worker, and a checkpoint fits
any number of workers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.gloo import two_workers
from tests.training.trainer.test_loop import close, trajectory
from training.config import TrainSection
from training.runtime.environment import LocalEnv
from training.trainer.checkpoint import latest
from training.trainer.loop import fit

Make = Callable[..., Path]

pytestmark = pytest.mark.slow


class _StopsAt(LocalEnv):
    """Ends every worker at the same validation, as if the job had been killed."""

    stop_step: int | None = None

    def report(self, metrics: Any) -> None:
        if metrics["step"] == self.stop_step:
            raise SystemExit(0)


def _work(rank: int, world_size: int, recipe: dict[str, Any], stop_step: int | None = None) -> None:
    env = _StopsAt(rank, world_size)
    env.stop_step = stop_step
    fit(TrainSection.model_validate(recipe), env)


@pytest.fixture
def recipe(vicuna_llava: Path, make_mvc: Make) -> dict[str, Any]:
    return {
        "model": str(vicuna_llava),
        "data": str(make_mvc(9, 3)),
        "eval_every_steps": 2,
        "checkpoint": {"every_steps": 2},
        "optim": {"lr": 1e-3, "batch_pairs": 5, "micro_batch_pairs": 2, "num_epochs": 2},
    }


def test_two_sharded_workers_follow_the_trajectory_of_one(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    # 5 pairs, then 4, in passes of 2: the workers have 3 and 2 pairs, so one makes a pass without
    # any.
    outs = {name: tmp_path / name for name in ("one", "two", "broken")}
    for out in outs.values():
        out.mkdir()
    fit(TrainSection.model_validate({**recipe, "out": str(outs["one"])}), LocalEnv())
    sharded = {"num_workers": 2, "shard": True}
    two_workers(_work, {**recipe, "out": str(outs["two"]), "workers": sharded})
    close(trajectory(outs["one"]), trajectory(outs["two"]))
    _same_model(outs["one"], outs["two"])

    # Stopped at step 4, whose checkpoint is not written yet, two workers leave step 2; one worker
    # goes on from there.
    two_workers(
        _work, {**recipe, "out": str(outs["broken"]), "workers": sharded, "eval_every_steps": 3}, 3
    )
    found = latest(outs["broken"])
    assert found is not None
    assert found.name == "step-00000002"
    fit(
        TrainSection.model_validate({**recipe, "out": str(outs["broken"]), "eval_every_steps": 3}),
        LocalEnv(),
    )
    close(trajectory(outs["one"]), trajectory(outs["broken"]))
    _same_model(outs["one"], outs["broken"])


def _same_model(one: Path, other: Path) -> None:
    from safetensors.torch import load_file

    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6)
