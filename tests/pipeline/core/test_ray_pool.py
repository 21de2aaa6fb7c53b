import pyarrow as pa
import pytest
import torch

from pipeline.core.ray_pool import Pool, check_resources
from pipeline.core.recipe import UserError
from pipeline.core.schema import MvcError


class Scaled:
    """Multiplies by what it was made with; a text is an error of the user's."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, table: pa.Table) -> pa.Table:
        if "broken" in table.column_names:
            raise MvcError("pair 7: image_a cannot be used")
        return pa.table({"n": [n * self.factor for n in table["n"].to_pylist()]})


class Broken:
    """What cannot be used fails where it is made."""

    def __init__(self) -> None:
        raise MvcError("model: no such folder")


TABLES = [pa.table({"n": [start, start + 1]}) for start in range(0, 8, 2)]


def check(pool: Pool) -> None:
    """What a pool must do, wherever it works."""
    assert sorted(pool.map(lambda n: n * n, [3, 1, 2])) == [(1, 1), (2, 4), (3, 9)]
    assert list(pool.map(Scaled, [], (2,))) == []
    pairs = list(pool.map(Scaled, TABLES, (10,)))
    assert len(pairs) == len(TABLES)
    for table, scaled in pairs:  # an item comes back with its own result, whatever the order
        assert scaled["n"].to_pylist() == [10 * n for n in table["n"].to_pylist()]
    with pytest.raises(MvcError, match="pair 7: image_a cannot be used"):
        list(pool.map(Scaled, [TABLES[0], pa.table({"broken": [1]})], (10,)))


def test_without_workers_items_are_mapped_here_in_their_order() -> None:
    check(Pool(0))
    assert [item for item, _ in Pool(0).map(abs, [3, 1, 2])] == [3, 1, 2]


@pytest.mark.ray
def test_ray_maps_whatever_items_and_hands_on_what_a_user_can_mend(one_ray: None) -> None:
    check(Pool(2, 0.5))
    with pytest.raises(MvcError, match="model: no such folder"):
        list(Pool(1, 0.5).map(Broken, TABLES))


@pytest.mark.ray
def test_each_worker_has_a_gpu_of_its_own_and_nobody_waits_for_one_that_does_not_come(
    one_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The session pretends to have one GPU: Ray's own checks of the plan are the real ones.
    with pytest.raises(UserError, match="torch cannot use one here"):
        list(Pool(1, 0.5, use_gpu=True).map(Scaled, TABLES, (10,)))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="2 GPUs are asked for by the workers, but Ray sees 1"):
        list(Pool(2, 0.5, use_gpu=True).map(Scaled, TABLES, (10,)))
    with pytest.raises(UserError, match="4096 CPUs are asked for by the workers, but Ray sees"):
        list(Pool(1, 4096).map(Scaled, TABLES, (10,)))
    # A cluster that starts machines when they are needed says of each node of which group it is.
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: [{"Labels": {"ray.io/node-group": "head"}}])
    check_resources(gpus=2)
    assert (
        "2 GPUs are asked for by the workers, Ray sees 1 yet; waiting until"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_workers_a_gpu_that_is_not_there_is_refused_with_the_reason_of_torch() -> None:
    with pytest.raises(UserError, match="torch cannot use one here .*(NVIDIA|CUDA).*; leave"):
        list(Pool(0, use_gpu=True).map(abs, [1]))
