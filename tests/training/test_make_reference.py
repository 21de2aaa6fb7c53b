"""A stored reference gives the same training as one made by the run; one that was made for
something else is refused.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.core.recipe import UserError
from tests.training.conftest import mvc_row, write_mvc
from training import make_reference as reference
from training.config import TrainSection
from training.data.reference_table import CELLS
from training.make_reference import make_reference
from training.run_plan import plan_reference
from training.runtime.environment import LocalEnv
from training.trainer.loop import fit

Make = Callable[..., Path]


def section(recipe: dict[str, Any], out: Path, **changes: Any) -> TrainSection:
    return TrainSection.model_validate({**recipe, **changes, "out": str(out)})


def made(recipe: dict[str, Any], out: Path) -> Path:
    make_reference(plan_reference(section(recipe, out)))
    return out


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_training_with_the_stored_table_is_training_without(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHUNK_PAIRS", 4)  # three chunks of the training pairs
    table = made(recipe, tmp_path / "reference")
    assert pq.read_table(table / "train.parquet").column_names == ["pair_id", "digest", *CELLS]
    for name, given in (("with", str(table)), ("without", None)):
        (tmp_path / name).mkdir()
        fit(section(recipe, tmp_path / name, reference=given), LocalEnv())
    # Other passes over the same pairs differ in their last bits.
    torch.testing.assert_close(
        torch.tensor(losses(tmp_path / "with")),
        torch.tensor(losses(tmp_path / "without")),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_a_killed_job_goes_on_with_the_missing_chunks(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHUNK_PAIRS", 4)
    whole = made(recipe, tmp_path / "whole")
    calls: list[int] = []
    real = reference.ReferenceWriter.__call__

    def killed(self: Any, chunk: tuple[str, str, int]) -> None:
        calls.append(chunk[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, chunk)

    monkeypatch.setattr(reference.ReferenceWriter, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        made(recipe, tmp_path / "killed")
    assert not (tmp_path / "killed" / "DONE.json").exists()
    done = made(recipe, tmp_path / "killed")
    assert len(calls) == 3 + 2  # two of four chunks were there
    for split in ("train", "validation"):
        assert pq.read_table(done / f"{split}.parquet") == pq.read_table(whole / f"{split}.parquet")
    calls.clear()
    made(recipe, tmp_path / "killed")
    assert not calls  # a finished table is not made again


@pytest.mark.slow
def test_the_table_of_another_model_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    from training.models.vlm import load_vlm, save_vlm

    table = made(recipe, tmp_path / "reference")
    vlm = load_vlm(recipe["model"])
    with torch.no_grad():
        vlm.model.lm_head.weight[0, 0] += 1
    save_vlm(vlm, tmp_path / "other")
    (tmp_path / "out").mkdir()
    with pytest.raises(
        UserError,
        match=(
            r"made from something else \(model_sha256 is .+\); make it anew with `svco reference`"
        ),
    ):
        fit(
            section(recipe, tmp_path / "out", model=str(tmp_path / "other"), reference=str(table)),
            LocalEnv(),
        )


@pytest.mark.slow
def test_other_words_or_pairs_are_refused_by_number_and_name(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    table = made(recipe, tmp_path / "reference")
    rows = [mvc_row(index) for index in range(10)]
    rows[3]["question"] = "Something else?"
    shutil.rmtree(recipe["data"])
    write_mvc(
        Path(recipe["data"]),
        {"train": rows[:9], "validation": [mvc_row(100 + index) for index in range(3)]},
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(
        UserError,
        match=(
            r"1 of 9 pairs of 'train' have other tokens or images now \(first"
            rf" {rows[3]['pair_id']}\)"
        ),
    ):
        fit(section(recipe, tmp_path / "out", reference=str(table)), LocalEnv())
    shutil.rmtree(recipe["data"])
    write_mvc(Path(recipe["data"]), {"train": [mvc_row(index) for index in range(10)]})
    with pytest.raises(UserError, match="1 of 10 pairs of 'train' are not in it"):
        fit(section(recipe, tmp_path / "out", reference=str(table)), LocalEnv())


def test_a_folder_of_something_else_is_left_alone(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="earlier reference table, found 'notes.txt'"):
        plan_reference(section(recipe, tmp_path / "mine"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    with pytest.raises(
        UserError, match="expected a folder of `svco reference`, found no DONE.json"
    ):
        fit(section(recipe, tmp_path / "out", reference=str(tmp_path / "empty")), LocalEnv())
