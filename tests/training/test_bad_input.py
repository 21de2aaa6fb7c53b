"""What cannot be trained on is refused in one line that names it; what goes wrong later leaves the
last checkpoint.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core.recipe import RecipeError, UserError
from pipeline.core.schema import MvcError
from training.config import TrainSection
from training.run_plan import RUN, plan_training, run_facts
from training.runtime.environment import LocalEnv
from training.trainer.checkpoint import latest, run_folder
from training.trainer.loop import DivergedError, fit

Make = Callable[..., Path]
Rows = list[dict[str, Any]]


@pytest.fixture
def recipe(vicuna_llava: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(vicuna_llava),
        "out": str(tmp_path / "out"),
        "eval_every_steps": 0,
        "log": {"num_samples": 0},
        "optim": {"lr": 1e-2, "batch_pairs": 4, "micro_batch_pairs": 4, "num_epochs": 4},
        "checkpoint": {"every_steps": 2},
    }


def section(recipe: dict[str, Any], data: Path, **changes: Any) -> TrainSection:
    made = TrainSection.model_validate({**recipe, "data": str(data), **changes})
    Path(made.out).mkdir(parents=True, exist_ok=True)
    return made


def rewritten(data: Path, change: Callable[[Any], Any]) -> Path:
    """The same folder with another training shard."""
    shard = next((data / "data").glob("train-*"))
    pq.write_table(change(pq.read_table(shard)), shard)
    return data


def test_a_folder_that_is_not_mvc(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MvcError, match=r"manifest\.json"):
        plan_training(section(recipe, tmp_path))


def test_an_older_schema(recipe: dict[str, Any], make_mvc: Make) -> None:
    data = make_mvc(4, 0)
    (data / "manifest.json").write_text(json.dumps({"schema_version": 0}))
    with pytest.raises(MvcError, match="expected schema version 1, got 0"):
        plan_training(section(recipe, data))


def test_a_missing_column(recipe: dict[str, Any], make_mvc: Make) -> None:
    data = rewritten(make_mvc(4, 0), lambda table: table.drop_columns(["answer_b"]))
    with pytest.raises(MvcError, match="answer_b"):
        fit(section(recipe, data), LocalEnv())


def test_an_empty_split(recipe: dict[str, Any], make_mvc: Make) -> None:
    data = rewritten(make_mvc(4, 0), lambda table: table.slice(0, 0))
    with pytest.raises(
        MvcError, match="split 'train' has no rows, so there is nothing to train on"
    ):
        plan_training(section(recipe, data))


def test_an_image_that_does_not_decode_is_named_by_its_pair(
    recipe: dict[str, Any], make_mvc: Make
) -> None:
    names: list[str] = []

    def breaks(rows: Rows) -> None:
        names.append(rows[2]["pair_id"])
        rows[2]["image_b"] = {"bytes": b"no image", "path": None}
        rows[2]["image_b_sha256"] = "0" * 64

    with pytest.raises(
        MvcError,
        match=r"pair \w+: image_b cannot be decoded .+; mend these pairs, or build the data",
    ) as caught:
        fit(section(recipe, make_mvc(4, 0, breaks)), LocalEnv())
    assert names[0] in str(caught.value)


def test_an_unfinished_run_of_another_recipe_is_not_gone_on_with(
    recipe: dict[str, Any], make_mvc: Make
) -> None:
    asked = section(recipe, make_mvc(8, 0))
    run_folder(asked.out).mkdir()
    (run_folder(asked.out) / RUN).write_text(json.dumps(run_facts(asked)))
    (Path(asked.out) / ".svco_train").write_text("")
    # the same result
    plan_training(
        section(recipe, Path(asked.data), workers={"num_workers": 2}, checkpoint={"every_steps": 5})
    )
    with pytest.raises(
        RecipeError,
        match=r"an unfinished run that differs in seed, objective; go on with its own recipe",
    ):
        plan_training(section(recipe, Path(asked.data), seed=1, objective={"name": "dpo"}))


@pytest.mark.slow
def test_a_loss_that_is_no_number_names_step_pairs_and_terms_and_keeps_the_checkpoint(
    recipe: dict[str, Any], make_mvc: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.trainer import step as updates

    asked = section(recipe, make_mvc(8, 0))
    real, calls = updates.Measure.__call__, []

    def breaks(self: Any, scores: Any) -> Any:
        loss_P, values_PK = real(self, scores)
        calls.append(1)
        if len(calls) == 5:  # of the fifth step, one pair's reject_a
            values_PK[1, 0] = values_PK[1, 1 + self.names.index("loss_reject_a")] = torch.nan
        return loss_P, values_PK

    monkeypatch.setattr(updates.Measure, "__call__", breaks)
    with pytest.raises(
        DivergedError,
        match=(
            r"^step 5: the loss of 1 of 4 pairs \(\w+\) is not finite \(terms: reject_a\); lower"
            r" optim.lr"
        ),
    ):
        fit(asked, LocalEnv())
    found = latest(asked.out)
    assert found is not None
    assert found.name == "step-00000004"
    monkeypatch.undo()
    assert fit(asked, LocalEnv())["steps"] == 8  # and from there it goes on


def test_a_full_disk_while_saving_is_one_line_and_the_checkpoint_before_is_whole(
    recipe: dict[str, Any], make_mvc: Make, small_disk: Callable[[str], Path]
) -> None:
    asked = section(recipe, make_mvc(8, 0), log={"num_samples": 0, "tensorboard": False})
    disk = small_disk("900k")  # holds one checkpoint of this model, of about 520 kB, and not two
    run_folder(asked.out).symlink_to(disk)
    with pytest.raises(
        UserError, match="the disk is full; the checkpoint before is whole: free some space"
    ) as caught:
        fit(asked, LocalEnv())
    assert isinstance(caught.value, UserError)
    assert caught.value.exit_code == 2
    found = latest(asked.out)
    assert found is not None
    assert found.name == "step-00000002"
    # nothing half written is left
    assert [path.name for path in disk.glob("step-*")] == ["step-00000002"]
