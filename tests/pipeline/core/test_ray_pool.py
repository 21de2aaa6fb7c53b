from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.ray_pool import Pool
from pipeline.core.recipe import UserError
from pipeline.core.schema import MvcError


class Scaled:
    """Multiplies by what it was made with; a text is an error of the user's."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, table: pa.Table) -> tuple[pa.Table, Any]:
        import os

        if "broken" in table.column_names:
            raise MvcError("pair 7: image_a cannot be used")
        scaled = pa.table({"n": [n * self.factor for n in table["n"].to_pylist()]})
        return scaled, os.environ.get("CUDA_VISIBLE_DEVICES")


TABLES = [pa.table({"n": [start, start + 1]}) for start in range(0, 8, 2)]


def check(pool: Pool) -> list[Any]:
    """What a pool must do, wherever it works; returns the GPUs that its workers saw."""
    assert sorted(pool.map(lambda n: n * n, [3, 1, 2])) == [(1, 1), (2, 4), (3, 9)]
    assert list(pool.map(Scaled, [], (2,))) == []
    pairs = list(pool.map(Scaled, TABLES, (10,)))
    assert len(pairs) == len(TABLES)
    for table, (scaled, _) in pairs:  # an item comes back with its own result, whatever the order
        assert scaled["n"].to_pylist() == [10 * n for n in table["n"].to_pylist()]
    with pytest.raises(MvcError, match="pair 7: image_a cannot be used"):
        list(pool.map(Scaled, [TABLES[0], pa.table({"broken": [1]})], (10,)))
    return [gpus for _, (_, gpus) in pairs]


def test_without_workers_items_are_mapped_here_in_their_order() -> None:
    check(Pool(0))
    assert [item for item, _ in Pool(0).map(abs, [3, 1, 2])] == [3, 1, 2]


@pytest.mark.ray
def test_ray_maps_whatever_items_and_hands_on_what_a_user_can_mend(one_ray: None) -> None:
    check(Pool(2, 0.5))


@pytest.mark.ray
def test_each_worker_has_a_gpu_of_its_own(one_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The session pretends to have one GPU: Ray's own checks of the plan are the real ones.
    assert set(check(Pool(1, 0.5, use_gpu=True))) == {"0"}
    monkeypatch.setattr("pipeline.core.ray_pool.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="Ray sees none"):
        list(Pool(1, 0.5, use_gpu=True).map(Scaled, TABLES, (10,)))
