"""Reading ahead changes when data is read, and nothing else: neither order, content, errors nor
what a resumed run computes.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.schema import MvcError
from training.config import TrainSection
from training.data import vision_features as features
from training.data.prefetch import prefetched
from training.runtime.environment import LocalEnv
from training.trainer import loop, scoring
from training.trainer.loop import fit

Make = Callable[..., Path]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_items_come_in_order_each_made_once_and_at_most_one_ahead() -> None:
    made: list[int] = []
    is_made = [threading.Event() for _ in range(6)]

    def make(item: int) -> int:
        made.append(item)
        is_made[item].set()
        return item * item

    with prefetched(iter(range(6)), make) as ahead:
        for number, square in enumerate(ahead):
            last = min(number + 1, 5)
            assert is_made[last].wait(30)  # nobody has asked for it yet
            assert square == number**2 and made == list(range(last + 1))
    assert not threads()


def test_nothing_to_read_ends_at_once() -> None:
    with prefetched([], str) as ahead:
        assert list(ahead) == []
    assert not threads()


def test_the_next_is_made_while_the_last_is_used() -> None:
    is_used, is_made = threading.Event(), threading.Event()

    def make(item: int) -> int:
        if item == 1:  # cannot end before the first item is in use
            assert is_used.wait(30)
            is_made.set()
        return item

    with prefetched(range(2), make) as ahead:
        assert next(ahead) == 0
        is_used.set()
        assert is_made.wait(30)
        assert next(ahead) == 1


def test_an_error_comes_where_its_item_is_due() -> None:
    def make(item: int) -> int:
        if item == 2:
            raise MvcError("pair p: image_a cannot be decoded")
        return item

    with prefetched(range(5), make) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(MvcError, match="pair p: image_a cannot be decoded"):
            next(ahead)
    assert not threads()


def test_a_body_that_raises_leaves_no_thread() -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        prefetched(range(100), lambda item: (time.sleep(0.05), item)[1]) as ahead,
    ):
        next(ahead)
        raise KeyboardInterrupt
    assert not threads()


class OneAfterTheOther:
    """As `prefetched`, without a thread."""

    def __init__(self, items: Iterable[Any], make: Callable[[Any], Any]) -> None:
        self._made: Iterator[Any] = map(make, items)

    def __enter__(self) -> Iterator[Any]:
        return self._made

    def __exit__(self, *_: object) -> None:
        pass


def run(
    model: Path,
    data: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    ahead: bool,
    cached: bool,
) -> tuple[Any, Any]:
    """Weights and metrics of a run, the latter without what depends on the clock."""
    recipe = {
        "model": str(model),
        "data": str(data),
        "out": str(out),
        "eval_every_steps": 2,
        "train": {"cache_vision": cached},
        "optim": {"lr": 1e-2, "batch_pairs": 4, "micro_batch_pairs": 3, "num_epochs": 2},
        "log": {"num_samples": 0},
    }
    out.mkdir()
    with monkeypatch.context() if not ahead else nullcontext() as patch:
        for module in (loop, scoring, features) if patch else ():
            patch.setattr(module, "prefetched", OneAfterTheOther)
        fit(TrainSection.model_validate(recipe), LocalEnv())
    assert not threads()
    timed = ("pairs_per_s", "tokens_per_s", "data_wait_s")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return load_file(out / "model.safetensors"), [
        {k: v for k, v in line.items() if k not in timed} for line in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_training_is_bit_by_bit_what_it_is_without(
    cached: bool,
    vicuna_llava: Path,
    make_mvc: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_mvc(9, 3)
    (weights, lines), (weights_without, lines_without) = (
        run(vicuna_llava, data, tmp_path / str(ahead), monkeypatch, ahead=ahead, cached=cached)
        for ahead in (True, False)
    )
    assert lines == lines_without
    assert all(torch.equal(weights[name], weights_without[name]) for name in weights_without)


@pytest.mark.parametrize("ahead", [True, False])
def test_an_image_that_is_cut_off_is_the_same_error(
    ahead: bool, vicuna_llava: Path, make_mvc: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_mvc(6, 0)
    shard = next((data / "data").glob("train-*"))
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[4]["image_b"]["bytes"] = rows[4]["image_b"]["bytes"][:-30]
    rows[4]["image_b_sha256"] = "0" * 64  # of bytes that no other pair has
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    with pytest.raises(
        MvcError,
        match=(
            rf"^pair {rows[4]['pair_id']}: image_b cannot be decoded .*build the data again"
            r" without it$"
        ),
    ):
        run(vicuna_llava, data, tmp_path / "out", monkeypatch, ahead=ahead, cached=False)
    assert not threads()
