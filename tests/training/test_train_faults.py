"""A killed worker, driver or node costs no step: the weights are those of an undisturbed run, bit by bit."""

import subprocess
from pathlib import Path

import pytest

from bench.soak_train import ROOT, command, killed_run, prepare, same_weights

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, data, and the result of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    model, data = prepare(folder)
    subprocess.run(command(model, data, folder / "out"), cwd=ROOT, check=True, capture_output=True, timeout=400)
    return model, data, folder / "out"


@pytest.mark.parametrize(("victim", "step"), [("worker", 13), ("driver", 26), ("node", 39)])
def test_what_is_killed_in_the_middle_costs_nothing(victim: str, step: int, trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, data, whole = trained
    line = killed_run(model, data, tmp_path / "out", victim, step)
    assert line, "the kill was meant to hit the middle of training"
    assert same_weights(whole, tmp_path / "out")
