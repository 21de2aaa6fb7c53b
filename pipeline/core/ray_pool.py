"""Ray as all jobs use it: one session, and one pool of workers through which items are mapped."""

import contextlib
import functools
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from pipeline.core.progress import say
from pipeline.core.recipe import RecipeError, UserError, first_line

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pool:
    """Where items are worked on: by `num_workers` of Ray, or in this process where that is 0."""

    num_workers: int
    # what Ray reserves; fractions keep a small machine from waiting for itself
    cpus_per_worker: float = 1.0
    use_gpu: bool = False

    def map(
        self, work: Callable[..., Any], items: Sequence[Item], arguments: tuple[Any, ...] = ()
    ) -> Iterator[tuple[Item, Any]]:
        """Each item with what `work` makes of it, in any order.

        Args:
            work: A function of an item, run as Ray tasks; or a class whose instances load a model
                and are called with an item: one instance of `work(*arguments)` per worker, on a GPU
                of its own with `use_gpu`.

        Raises:
            UserError: What `work` raised, as it was; also where Ray sees no GPU that is asked for.
        """
        if not items:
            return
        if not self.num_workers:
            if self.use_gpu:
                check_cuda()
            call = work(*arguments) if isinstance(work, type) else work
            for item in items:
                yield item, call(item)
            return
        with ray_session():
            yield from self._map_by_ray(work, items, arguments)

    def _map_by_ray(
        self, work: Callable[..., Any], items: Sequence[Item], arguments: tuple[Any, ...]
    ) -> Iterator[tuple[Item, Any]]:
        import ray.data

        options: dict[str, Any] = {"fn_args": (work,)}
        if isinstance(work, type):
            num_actors = min(self.num_workers, len(items))
            check_resources(gpus=num_actors if self.use_gpu else 0, cpus=self.cpus_per_worker)
            options = {
                "compute": ray.data.ActorPoolStrategy(size=num_actors),
                "fn_constructor_args": (work, arguments, self.num_threads(), self.use_gpu),
                "num_gpus": 1 if self.use_gpu else None,
            }
        # put one by one: this process never holds all items packed
        blocks = [ray.put(_packed(*pair)) for pair in enumerate(items)]
        results = ray.data.from_arrow_refs(blocks).map_batches(
            _Worker if isinstance(work, type) else _run_task,
            batch_size=1,  # Ray refuses whole blocks where GPUs are asked for
            batch_format="pyarrow",
            num_cpus=self.cpus_per_worker,
            **options,
        )
        for row in results.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            result, error = pickle.loads(row["content"][0].as_py())  # noqa: S301 (made below)
            if error is not None:
                raise error
            yield items[row["place"][0].as_py()], result

    def num_threads(self) -> int:
        """Of each worker: Ray gives one to a worker that reserves a fraction of a CPU.

        The pool may use the machines as far as it holds workers.
        """
        return max(1, num_cpus(cluster_resources()) // self.num_workers)


class MapItems(Protocol):
    """`Pool.map` as a function: tests and studies have one of their own."""

    def __call__(
        self, work: Callable[..., Any], items: Sequence[Item], arguments: tuple[Any, ...] = ()
    ) -> Iterator[tuple[Item, Any]]: ...


class _Worker:
    """An actor of the pool: holds an instance of `work`."""

    def __init__(
        self, work: type, arguments: tuple[Any, ...], num_threads: int, use_gpu: bool
    ) -> None:
        import torch

        torch.set_num_threads(num_threads)
        try:
            if use_gpu:
                check_cuda()
            self._work = work(*arguments)
        except UserError as error:
            # Ray makes an actor that fails here again and again; told with the first item instead
            self._work = functools.partial(_fail, error)

    def __call__(self, row: pa.Table) -> pa.Table:
        return _run_task(row, self._work)


def _fail(error: UserError, _item: object) -> None:
    raise error


def _run_task(row: pa.Table, work: Callable[[Any], Any]) -> pa.Table:
    """An item as `_packed` makes it in, (result, error) out: Ray wraps what is raised."""
    answer: tuple[Any, UserError | None]
    try:
        answer = work(pickle.loads(row["content"][0].as_py())), None  # noqa: S301 (made below)
    except UserError as error:
        answer = None, error
    return _packed(row["place"][0].as_py(), answer)


def _packed(place: int, content: object) -> pa.Table:
    """A block of one row: Ray Data then neither joins nor splits items, whatever they are."""
    packed = pa.array([pickle.dumps(content)], pa.large_binary())
    return pa.table({"place": pa.array([place]), "content": packed})


def check_cuda() -> None:
    """Raises UserError, with torch's own reason, where this process is to use a GPU and cannot."""
    import torch

    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:  # the second: a torch that was built without
        raise UserError(
            f"a GPU is asked for, but torch cannot use one here ({first_line(error)}); leave it out"
            " of the recipe, or run `svco doctor` where one should be"
        ) from error


def try_gpu() -> None:
    """As `check_cuda`, on a machine where Ray has a GPU: before many workers are started there."""
    import ray

    try:
        ray.get(ray.remote(num_gpus=1, num_cpus=0, max_retries=0)(check_cuda).remote())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def check_resources(*, gpus: float = 0, cpus: float = 0) -> None:
    """Sees to it that a job does not wait for what no machine will bring.

    Raises:
        RecipeError: Ray has fewer of them, and nothing adds machines to it.
    """
    import ray

    there = cluster_resources()
    for kind, asked in (("GPU", gpus), ("CPU", cpus)):
        if there.get(kind, 0) >= asked:
            continue
        asked_for = f"{asked:g} {kind}{'s are' if asked != 1 else ' is'}"
        seen = f"{there[kind]:g}" if there.get(kind) else "none"
        # `ray up`, KubeRay and others that start machines when they are needed name their groups.
        if not any("ray.io/node-group" in node["Labels"] for node in ray.nodes()):
            place = "in this cluster" if "RAY_ADDRESS" in os.environ else "here"
            raise RecipeError(
                f"{asked_for} asked for by the workers, but Ray sees {seen} {place}; ask for fewer"
                " in the recipe, or start Ray where there are as many"
            )
        say(
            f"{asked_for} asked for by the workers, Ray sees {seen} yet; waiting until the cluster"
            " starts machines that have them"
        )


def num_cpus(resources: Mapping[str, float]) -> int:
    """Of the cluster, or of this machine where it has more than Ray was given."""
    return max(int(resources.get("CPU", 0)), os.cpu_count() or 1)


def cluster_resources() -> dict[str, float]:
    """What the nodes that have joined so far hold."""
    import ray

    return dict(ray.cluster_resources())


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Ray while the body runs: the cluster of RAY_ADDRESS, or one started here and ended after."""
    # Read when Ray Train is imported: how often its controller looks at the workers, which each
    # report waits for.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    say("starting Ray (about 10 s)")
    # A cluster is joined where RAY_ADDRESS names it (inside a submitted job it does; "auto" finds
    # one on this machine). Without an address Ray would join any that happens to run here, a
    # stranger's test among them.
    named = os.environ.get("RAY_ADDRESS")
    options = {} if named else {"address": "local", "include_dashboard": False}
    ray.init(**options, log_to_driver=False, logging_level="ERROR")
    # Our own progress says what matters; Ray Data's plans and timings stay in its log file.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()
