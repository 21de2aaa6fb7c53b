"""The job from the command line: plans without torch, refuses in one line, trains with and without
Ray.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., Path]


def job(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs the job as a user would, in a process of its own."""
    command = [sys.executable, "-m", "training.train_svco", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def job_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """`job_here(*arguments)`: the job's command line in this process, which saves a second of
    imports.
    """
    from pipeline.core.cli import run_command
    from training.train_svco import run as train_command

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["train_svco", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run_command(train_command)
        return subprocess.CompletedProcess(sys.argv, int(end.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def settings(vicuna_llava: Path, make_mvc: Make, tmp_path: Path) -> list[str]:
    return [
        f"model={vicuna_llava}",
        f"data={make_mvc(12, 4)}",
        f"out={tmp_path / 'out'}",
        "workers.num_workers=0",
        "optim.batch_pairs=4",
        "optim.micro_batch_pairs=4",
    ]


@pytest.mark.slow
def test_a_dry_run_shows_the_plan_and_imports_neither_torch_nor_ray(
    lean_command: Callable[..., Any], settings: list[str], tmp_path: Path
) -> None:
    done = lean_command("train", "--dry-run", *settings)
    assert "12 for training, 4 for validation" in done.stderr
    assert "3 of 4 pairs" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_resolved_recipe_has_every_default(settings: list[str], job_here: Here) -> None:
    done = job_here("--print-recipe", *settings)
    assert done.returncode == 0, done.stderr
    assert "max_length_tokens: 2048" in done.stdout
    assert "beta_reject_b: 0.1" in done.stdout


@pytest.mark.slow
def test_a_run_trains_once_and_then_says_so(
    settings: list[str], job_here: Here, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = job(*settings)
    assert first.returncode == 0, first.stderr
    assert "Held-out pairs" in first.stderr
    assert "next    svco eval --recipe eval_contrast" in first.stderr
    assert {"config.json", "model.safetensors", "svco.json", "metrics.jsonl", "recipe.yaml"} <= {
        p.name for p in out.iterdir()
    }
    written = (out / "model.safetensors").stat().st_mtime_ns
    again = job_here(*settings)
    assert again.returncode == 0
    assert "already trained" in again.stderr
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    other = job_here(*settings, "optim.lr=0.5")
    assert other.returncode == 2
    assert "differs in optim; choose another out" in other.stderr


def _refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("optim.learning_rate=1",), ("optim.learning_rate", "unknown key")),
        (
            ("objective.name=ppo",),
            ("objective.name", "'svco', 'vco', 'sft', 'dpo', 'dpo_symmetric'"),
        ),
        (("objective.beta_attend_a=-1",), ("objective.beta_attend_a",)),
        (("data=/nowhere/mvc",), ("/nowhere/mvc", "manifest.json")),
        (("model=./nowhere",), ("model=", "config.json")),
        (("out=s3://bucket/out",), ("local folders only",)),
        (("optim.lr",), ("expected key=value",)),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    settings: list[str], job_here: Here, change: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    _refused(job_here("--dry-run", *settings, *change), *parts)


def test_an_out_that_is_not_ours_is_left_alone(
    settings: list[str], job_here: Here, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("do not touch")
    _refused(job_here(*settings), "earlier training run", "'thesis.txt'")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "do not touch"


def test_relative_paths_are_refused_inside_a_ray_job(
    settings: list[str], job_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.core.recipe import JOB_ENVIRONMENT_VARIABLE

    monkeypatch.setenv(JOB_ENVIRONMENT_VARIABLE, "raysubmit_1")
    _refused(job_here("--dry-run", *settings, "out=results/mine"), "out=results/mine", "absolute")


def test_a_model_that_is_not_supported_is_refused_in_one_line(
    settings: list[str], job_here: Here, tmp_path: Path
) -> None:
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "config.json").write_text(json.dumps({"model_type": "llava_next"}))
    done = job_here(*settings, f"model={tmp_path / 'next'}")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "supported are llava (" in done.stderr.splitlines()[-1]


@pytest.mark.ray
@pytest.mark.slow
def test_two_ray_workers_train_the_model_of_this_process(
    one_ray: None, settings: list[str], job_here: Here, tmp_path: Path
) -> None:
    import ray

    said = ""
    for number in (0, 2):
        done = job_here(
            *settings, f"workers.num_workers={number}", f"out={tmp_path / f'out{number}'}"
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert ray.is_initialized()  # a Ray that was there before is left running
    assert "RayTrainWorker" not in said
    assert said.count("train: 3 steps in") == 2
    losses = []
    for number in (0, 2):
        out = tmp_path / f"out{number}"
        assert json.loads((out / "svco.json").read_text())["workers"] == max(1, number)
        assert not (out / ".ray").exists()
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_error_is_one_line_too(one_ray: None, settings: list[str], job_here: Here) -> None:
    done = job_here(*settings, "max_length_tokens=1", "workers.num_workers=1")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "longer than max_length_tokens=1; raise it" in done.stderr.splitlines()[-1]


def test_what_a_user_has_to_mend_is_not_tried_again_and_a_lost_worker_is() -> None:
    from pipeline.core.schema import MvcError
    from training.train_svco import _no_second_try

    callback = _no_second_try()
    callback.after_exception(
        run_context=None, worker_exceptions={0: RuntimeError("connection closed by peer")}
    )
    with pytest.raises(MvcError, match="pair 7"):
        callback.after_exception(
            run_context=None,
            worker_exceptions={
                0: RuntimeError("connection closed by peer"),
                1: MvcError("pair 7: no question"),
            },
        )


def test_of_several_workers_errors_the_one_that_a_user_can_mend_is_told() -> None:
    from pipeline.core.schema import MvcError
    from training.train_svco import _cause

    lost, mendable, later = (
        RuntimeError("connection closed by peer"),
        MvcError("pair 7: no question"),
        MvcError("pair 9"),
    )
    assert _cause({0: lost, 1: mendable}) is mendable
    assert _cause({2: later, 1: mendable, 0: lost}) is mendable
    assert _cause({1: RuntimeError("other"), 0: lost}) is lost
    wrapped = RuntimeError("ray's words")
    wrapped.cause = mendable  # type: ignore[attr-defined]
    assert _cause({0: lost, 3: wrapped}) is mendable


def test_training_again_over_lost_weights_first_takes_the_record_away(
    settings: list[str], vicuna_llava: Path, tmp_path: Path
) -> None:
    """A run killed half-way over an old record must not look finished."""
    from pipeline.core.recipe import load_recipe
    from pipeline.core.schema import MvcError
    from training.config import TrainSection
    from training.run_plan import plan_training
    from training.train_svco import train

    plan = plan_training(load_recipe("svco_tiny", [*settings, "max_length_tokens=1"], TrainSection))
    plan.out.mkdir()
    (plan.out / "svco.json").write_text("{}")
    with pytest.raises(
        MvcError, match="all 12 pairs of 'train' are longer than max_length_tokens=1"
    ):
        train(plan)
    assert {path.name for path in plan.out.iterdir()} == {
        ".lock",
        ".svco_train",
        ".checkpoints",
        "recipe.yaml",
    }
