"""A run that is stopped anywhere goes on to the same weights, bit by bit; what stops it leaves the
last checkpoint whole.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from pipeline.core.recipe import UserError
from pipeline.core.storage import write_text
from training.config import TrainSection
from training.models.vlm import load_vlm
from training.run_plan import ATTEMPT
from training.runtime.environment import LocalEnv
from training.trainer.checkpoint import latest, run_folder
from training.trainer.loop import fit

# Everything here trains several times.
pytestmark = pytest.mark.slow

Make = Callable[..., Path]


class _Killed(BaseException):
    """As a signal would: nothing in the loop catches it."""


class _KilledAt(LocalEnv):
    """An environment that ends the run while it says that a step was done."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def progress(self, title: str, total: int, unit: str) -> Any:
        return _Count(self.step) if title == "train" else super().progress(title, total, unit)


class _Count:
    def __init__(self, stop: int) -> None:
        self.done, self.stop = 0, stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, n: int = 1, **_: float | str) -> None:
        self.done += n
        if self.done >= self.stop:
            raise _Killed


@pytest.fixture
def recipe(vicuna_llava: Path, make_mvc: Make) -> dict[str, Any]:
    return {
        "model": str(vicuna_llava),
        "data": str(make_mvc(9, 3)),
        "eval_every_steps": 4,
        "optim": {"lr": 1e-2, "batch_pairs": 4, "micro_batch_pairs": 3, "num_epochs": 4},
        "checkpoint": {"every_steps": 2},
        "log": {"num_samples": 1},
    }


def section(recipe: dict[str, Any], out: Path, **changes: Any) -> TrainSection:
    out.mkdir(parents=True, exist_ok=True)
    return TrainSection.model_validate({**recipe, **changes, "out": str(out)})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def lines(out: Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    timed = ("pairs_per_s", "tokens_per_s", "data_wait_s", "mfu")
    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in read]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": {"rank": 2, "alpha": 4}}, {"train": {"cache_vision": False}}],
    ids=["weights", "adapters", "images read ahead"],
)
def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_weights(
    changes: dict[str, Any], recipe: dict[str, Any], tmp_path: Path
) -> None:
    undisturbed = fit(section(recipe, tmp_path / "whole", **changes), LocalEnv())
    broken = section(recipe, tmp_path / "broken", **changes)
    for stop in (5, 9):  # of 12 steps, 3 per epoch
        with pytest.raises(_Killed):
            fit(broken, _KilledAt(stop))
        found = latest(broken.out)
        assert found is not None
        assert found.name == f"step-{stop - 1:08d}"
    again = fit(broken, LocalEnv())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "broken")
    assert [again[name] for name in ("start", "final", "steps")] == [
        undisturbed[name] for name in ("start", "final", "steps")
    ]
    assert not run_folder(broken.out).exists()  # a finished run needs none


class _Wandb(ModuleType):
    """Stands for Weights & Biases: records how runs were begun and which of them got how many
    lines.
    """

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.num_lines = Counter[str]()

    def init(self, **options: Any) -> Any:
        self.begun.append(options)
        return SimpleNamespace(
            log=lambda _: self.num_lines.update([options["id"]]), finish=lambda: None
        )


def test_a_run_that_goes_on_is_the_same_run_at_weights_and_biases(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = _Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    broken = section(recipe, tmp_path / "broken", log={"num_samples": 0, "wandb_project": "p"})
    with pytest.raises(_Killed):
        # before the first checkpoint: what follows is another run from the start
        fit(broken, _KilledAt(1))
    with pytest.raises(_Killed):
        fit(broken, _KilledAt(5))
    fit(broken, LocalEnv())
    given_up, first, second = [options["id"] for options in wandb.begun]
    assert first == second != given_up
    assert {options["resume"] for options in wandb.begun} == {"allow"}
    # each step, those after the checkpoint again, and each validation
    assert wandb.num_lines[first] == 5 + 1 + 1 + (12 - 4) + 2
    fit(
        section(recipe, tmp_path / "other", log={"num_samples": 0, "wandb_project": "p"}),
        LocalEnv(),
    )
    assert wandb.begun[-1]["id"] not in (given_up, first)


def test_without_checkpoints_a_stopped_run_starts_anew(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    fit(section(recipe, tmp_path / "whole"), LocalEnv())
    broken = section(recipe, tmp_path / "broken", checkpoint={"every_steps": 0})
    with pytest.raises(_Killed):
        fit(broken, _KilledAt(5))
    assert latest(broken.out) is None
    fit(broken, LocalEnv())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_only_the_last_checkpoints_are_kept(recipe: dict[str, Any], tmp_path: Path) -> None:
    broken = section(recipe, tmp_path / "out", checkpoint={"every_steps": 1, "num_to_keep": 2})
    with pytest.raises(_Killed):
        fit(broken, _KilledAt(8))
    assert [path.name for path in sorted(run_folder(broken.out).glob("step-*"))] == [
        "step-00000006",
        "step-00000007",
    ]


def test_a_half_written_checkpoint_is_passed_over(recipe: dict[str, Any], tmp_path: Path) -> None:
    fit(section(recipe, tmp_path / "whole"), LocalEnv())
    broken = section(recipe, tmp_path / "broken")
    with pytest.raises(_Killed):
        fit(broken, _KilledAt(5))
    (run_folder(broken.out) / "step-00000006.other").mkdir()  # killed before it got its name
    (run_folder(broken.out) / "step-00000008").mkdir()  # and one that is no checkpoint
    fit(broken, LocalEnv())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_the_worker_of_a_killed_job_cannot_write_into_its_successor(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    class _Overtaken(_KilledAt):
        def report(self, metrics: Any) -> None:  # noqa: ARG002
            write_text(run_folder(tmp_path / "out") / ATTEMPT, "the successor")

    with pytest.raises(UserError, match="another run has taken over this folder"):
        fit(section(recipe, tmp_path / "out", checkpoint={"every_steps": 3}), _Overtaken(99))
    found = latest(tmp_path / "out")
    assert found is not None
    assert found.name == "step-00000003"  # of before the successor began


def test_the_best_model_by_validation_is_kept_if_asked_for(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    # The rate is so high that the validation loss rises after some steps.
    optim = {"lr": 0.1, "batch_pairs": 4, "micro_batch_pairs": 4, "num_epochs": 4}
    asked = section(
        recipe,
        tmp_path / "out",
        checkpoint={"every_steps": 0, "keep_best": True},
        optim=optim,
        eval_every_steps=1,
    )
    record = fit(asked, LocalEnv())
    losses = [line["loss"] for line in lines(tmp_path / "out") if line["split"] == "validation"]
    assert (
        record["best_step"] == min(range(1, len(losses)), key=losses.__getitem__) < len(losses) - 1
    )
    # The checkpoint of that step, of the same run without keep_best, holds the same weights.
    same_run = section(
        recipe, tmp_path / "same", checkpoint={"every_steps": 1}, optim=optim, eval_every_steps=1
    )
    with pytest.raises(_Killed):
        fit(same_run, _KilledAt(record["best_step"] + 1))
    found = latest(same_run.out)
    assert found is not None
    dcp_to_torch_save(found, tmp_path / "flat.pt")
    flat = torch.load(tmp_path / "flat.pt", weights_only=True)["model"]
    kept = load_vlm(tmp_path / "out").model.state_dict()
    assert len(flat) > 10
    assert all(
        torch.equal(kept[name.removeprefix("model.")], tensor) for name, tensor in flat.items()
    )
