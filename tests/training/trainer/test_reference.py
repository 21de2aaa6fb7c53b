"""The reference pass costs a killed run less than one chunk, and another run nothing that is known;
it covers what the run uses and no more.
"""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.config import TrainSection
from training.data.pairs import DataState, batches, pairs_of_run
from training.data.reference_chunks import ReferenceChunks
from training.models.packing import Ints
from training.objectives.terms import ALL_CELLS, OBJECTIVES, Coefficients, reference_cells_of
from training.runtime.environment import LocalEnv
from training.trainer import reference
from training.trainer.loop import fit

Make = Callable[..., Path]
Chunk = tuple[str, int, int]  # split, pairs, cells of each


class _Killed(BaseException):
    """As a signal would."""


class Env(LocalEnv):
    """Keeps what is said, and ends the run in the reference pass after so many pairs."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.stop, self.said, self.done = stop, list[str](), 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, title: str, total: int, unit: str) -> Any:
        return self if title == "reference, train" else super().progress(title, total, unit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, n: int = 1, **_: float | str) -> None:
        self.done += n
        if self.stop is not None and self.done >= self.stop:
            raise _Killed


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Chunk]:
    """The chunks that runs compute; one has 8 pairs."""
    chunks: list[Chunk] = []
    real = ReferenceChunks.write

    def write(self: ReferenceChunks, reader: Any, pairs: Ints, logps_P32: torch.Tensor) -> None:
        num_cells = int(logps_P32[0].isfinite().sum())
        chunks.append((reader.split, len(pairs), num_cells))
        real(self, reader, pairs, logps_P32)

    monkeypatch.setattr(ReferenceChunks, "write", write)
    monkeypatch.setattr(reference, "CHUNK_PAIRS", 8)
    return chunks


@pytest.fixture
def recipe(vicuna_llava: Path, make_mvc: Make) -> dict[str, Any]:
    def tell_apart(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row["question"] = f"What is shown in {number}?"

    return {
        "model": str(vicuna_llava),
        "data": str(make_mvc(40, 4, tell_apart)),
        "eval_every_steps": 0,
        "optim": {"lr": 1e-2, "batch_pairs": 8, "micro_batch_pairs": 2, "num_epochs": 1},
        "log": {"num_samples": 0, "tensorboard": False},
    }


def trained(recipe: dict[str, Any], out: Path, env: Env | None = None, **changes: Any) -> Env:
    out.mkdir(exist_ok=True)
    env = env or Env()
    fit(TrainSection.model_validate({**recipe, **changes, "out": str(out)}), env)
    return env


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(out / "model.safetensors") for out in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_kill_at_half_of_the_pass_repeats_less_than_a_chunk(
    recipe: dict[str, Any],
    tmp_path: Path,
    written: list[Chunk],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained(recipe, tmp_path / "whole")
    assert written == [("train", 8, 6)] * 5 + [("validation", 4, 6)]
    for name, cache in (("kept", "broken"), ("on a disk of its own", "/dev/null")):
        written.clear()
        monkeypatch.setenv("SVCO_CACHE", str(tmp_path / cache))  # the second cannot be written
        with pytest.raises(_Killed):
            trained(recipe, tmp_path / name, Env(stop=20))
        assert sum(num for _, num, _ in written) == 24
        trained(recipe, tmp_path / name)
        assert written == [("train", 8, 6)] * 5 + [("validation", 4, 6)]  # none twice
        assert same_weights(tmp_path / "whole", tmp_path / name)


@pytest.mark.slow
def test_other_runs_read_what_is_known_and_compute_the_cells_that_are_not(
    recipe: dict[str, Any], tmp_path: Path, written: list[Chunk], cache: Path
) -> None:
    few = {**recipe["optim"], "max_steps": 2}
    trained(recipe, tmp_path / "sft", objective={"name": "sft"})
    assert written == [("validation", 4, 6)]  # a likelihood is compared with nothing
    written.clear()
    trained(recipe, tmp_path / "dpo", objective={"name": "dpo"}, optim=few)
    assert written == [("train", 8, 2)] * 2
    written.clear()
    said = trained(recipe, tmp_path / "svco").said
    assert sorted(written) == [("train", 8, 4)] * 2 + [("train", 8, 6)] * 3
    assert "reference, train: 0 of 40 pairs known" not in said
    written.clear()
    said = trained(recipe, tmp_path / "again", seed=1).said
    assert written == []
    assert "reference, train: 40 of 40 pairs known" in said
    _, *lines = (tmp_path / "svco" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)
    # Rows of other cells and pairs differ in their last bits.
    (tmp_path / "dpo" / ".checkpoints").mkdir()
    for path in cache.rglob("reference/*/*.parquet"):
        path.unlink()
    trained(recipe, tmp_path / "alone")
    first, second = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        for name in ("svco", "alone")
    )
    assert first == pytest.approx(second, abs=1e-5)


@pytest.mark.slow
def test_a_broken_chunk_is_made_again_with_a_word(
    recipe: dict[str, Any], tmp_path: Path, written: list[Chunk], cache: Path
) -> None:
    trained(recipe, tmp_path / "whole")
    first, second, *_ = sorted(
        cache.rglob("reference/*/*.parquet"), key=lambda p: -p.stat().st_size
    )
    first.write_bytes(first.read_bytes()[:-50])
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    written.clear()
    said = trained(recipe, tmp_path / "again").said
    assert [line for line in said if "its pairs are computed again" in line]
    assert 1 <= len(written) <= 2
    assert {split for split, _, _ in written} == {"train"}
    assert same_weights(tmp_path / "whole", tmp_path / "again")


def test_the_pairs_of_a_run_are_those_of_its_batches() -> None:
    for num_steps in (1, 2, 3, 4):
        order = batches(10, 4, DataState(seed=3))
        seen = {int(pair) for batch, _ in islice(order, num_steps) for pair in batch}
        assert pairs_of_run(10, 4, num_steps, seed=3).tolist() == sorted(seen)


def test_an_objective_needs_the_reference_where_it_compares() -> None:
    needed = {name: len(reference_cells_of([name], Coefficients())) for name in OBJECTIVES}
    assert needed == {
        "svco": 6,
        "vco": 3,
        "sft": 0,
        "dpo": 2,
        "dpo_symmetric": 4,
        "mdpo": 3,
        "mpo": 2,
        "symmpo": 4,
        "anchor": 2,
    }
    assert reference_cells_of(["sft", "svco"], Coefficients()) == ALL_CELLS
