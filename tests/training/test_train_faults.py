"""A killed worker, driver or node costs no step: the weights are those of an undisturbed run, bit
by bit.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.soak_train import command, killed_run, prepare, same_weights

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_worker_node_and_driver_killed_in_the_middle_cost_nothing(
    one_ray: None, command_here: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    from training.train_svco import run

    model, data = prepare(tmp_path)
    code, said = command_here(run, *command(model, data, tmp_path / "whole")[2:])
    assert code == 0, said
    lines = killed_run(
        model, data, tmp_path / "killed", [("worker", 13), ("node", 26), ("driver", 39)]
    )
    assert len(lines) == 3, "each kill was meant to hit the middle of training"
    assert same_weights(tmp_path / "whole", tmp_path / "killed")
