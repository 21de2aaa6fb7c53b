"""`bench/real_weights.py` needs a GPU and the Hub; here its commands are read by the very code that
would run them.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.config import BuildSection
from pipeline.core.recipe import load_recipe
from training.config import TrainSection

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "real_weights", ROOT / "bench" / "real_weights.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dry_run_prints_each_command_and_runs_none(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "bench" / "real_weights.py"),
        "--dry-run",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = [line for line in done.stdout.splitlines() if line.startswith("$ python ")]
    assert [line.split()[2] for line in shown] == [
        "-m",
        "pipeline/build_mvc.py",
        "-m",
        "training/make_reference.py",
        "training/train_svco.py",
        "eval/run_eval.py",
    ]
    assert not (tmp_path / "out").exists()


def test_every_command_names_a_file_a_recipe_and_keys_that_are_there(
    bench: ModuleType, tmp_path: Path
) -> None:
    from eval.config import EvalSection

    shapes: dict[str, Any] = {
        "build_mvc.py": BuildSection,
        "reference.py": TrainSection,
        "train_svco.py": TrainSection,
        "run_eval.py": EvalSection,
    }
    for _, arguments in bench.commands(tmp_path, bench.MODEL):
        assert arguments[0] == "-m" or (ROOT / arguments[0]).is_file()
        shape = shapes.get(Path(arguments[0]).name)
        if shape is not None:
            assert arguments[1] == "--recipe"
            load_recipe(ROOT / arguments[2], arguments[3:], shape)


def test_the_check_wants_a_loss_that_starts_at_4_ln_2_and_falls(
    bench: ModuleType, tmp_path: Path
) -> None:
    def measured(*losses: float) -> Any:
        (tmp_path / "model").mkdir(exist_ok=True)
        lines = [
            json.dumps({"split": "train", "loss": loss, "pairs_per_s": 2.0, "memory_gb": 30.0})
            for loss in losses
        ]
        (tmp_path / "model" / "metrics.jsonl").write_text("\n".join(lines))
        return bench.check(tmp_path)

    assert measured(2.7726, 2.7, 2.5, 2.1) == {
        "first_loss": 2.7726,
        "last_loss": 2.1,
        "pairs_per_s": 2.0,
        "memory_gb": 30.0,
    }
    with pytest.raises(SystemExit, match="the reference is not the model's own"):
        measured(3.5, 2.0)
    with pytest.raises(SystemExit, match="expected it to fall"):
        measured(2.7726, 2.9)
