"""The seam between the training loop and what runs it: `fit(section, env)` never imports Ray."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self

from pipeline.core.progress import Progress, say
from training.runtime.driver_messages import Messages, RelayedProgress


class Advances(Protocol):
    """A progress display."""

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """Reports `n` more units done."""


class Env(Protocol):
    """What the loop needs to know of the other workers and of whoever watches."""

    rank: int
    world_size: int
    device: str

    def all_reduce(self, tensor: Any) -> None:
        """Replaces `tensor` by its sum over all workers, in place."""

    def barrier(self) -> None:
        """Waits until every worker is here."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Tells whoever runs the loop how it stands; every worker calls it equally often."""

    def say(self, text: str) -> None:
        """Shows a line; of all workers only rank 0 is heard."""

    def progress(self, title: str, total: int, unit: str) -> AbstractContextManager[Advances]:
        """A progress display; of all workers only that of rank 0 is seen, and none without a title."""
        ...


class _Silence:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """Shows nothing."""


class LocalEnv:
    """This process alone, or one of several in a torch.distributed group that the caller has set up."""

    def __init__(self, rank: int = 0, world_size: int = 1, device: str = "cpu") -> None:
        self.rank, self.world_size, self.device = rank, world_size, device

    def all_reduce(self, tensor: Any) -> None:
        """See Env."""
        if self.world_size > 1:
            import torch.distributed as dist

            # NCCL sums only what is on the GPU; tables that stay in main memory travel there and back.
            there = tensor.to(self.device) if self.device.startswith("cuda") else tensor
            dist.all_reduce(there)
            if there is not tensor:
                tensor.copy_(there)

    def barrier(self) -> None:
        """See Env."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Nobody listens: the metrics are in metrics.jsonl."""

    def say(self, text: str) -> None:
        """See Env."""
        if self.rank == 0:
            say(text)

    def progress(self, title: str, total: int, unit: str) -> AbstractContextManager[Advances]:
        """See Env."""
        return Progress(title, total, unit) if self.rank == 0 and title else _Silence()


class RayEnv(LocalEnv):
    """One worker of a Ray Train job, which has set up the torch.distributed group; its words go to the driver."""

    def __init__(self, messages: Messages) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        device = str(ray.train.torch.get_device())
        super().__init__(context.get_world_rank(), context.get_world_size(), device)
        self._messages = messages

    def report(self, metrics: Mapping[str, float]) -> None:
        """Passes the metrics to Ray Train. A call waits for the controller's next poll, so the loop calls it seldom."""
        import ray.train

        ray.train.report(dict(metrics))

    def say(self, text: str) -> None:
        """See Env."""
        if self.rank == 0:
            self._messages.send(kind="say", text=text)

    def progress(self, title: str, total: int, unit: str) -> AbstractContextManager[Advances]:
        """See Env."""
        return RelayedProgress(self._messages, title, total, unit) if self.rank == 0 and title else _Silence()


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What each Ray Train worker runs: the loop, on its share of the machine's cores.

    Args:
        config: The `recipe`, and the path of the file that takes `messages` for the driver.
    """
    import ray.train
    import torch

    from training.config import TrainSection
    from training.trainer.loop import fit

    # Ray sets OMP_NUM_THREADS=1 for workers that reserve a fraction of a CPU; take a fair share of the cores instead.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // ray.train.get_context().get_local_world_size()))
    return fit(TrainSection.model_validate(config["recipe"]), RayEnv(Messages(Path(config["messages"]))))
