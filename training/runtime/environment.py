"""The seam between the training loop and what runs it: `fit(section, env)` never imports Ray."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from pipeline.core.progress import Progress, say


class ProgressDisplay(Protocol):
    """A progress display."""

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """Reports `n` more units done."""


class _Silence:
    def advance(self, n: int = 1, **facts: float | str) -> None:
        """Shows nothing."""


class LocalEnv:
    """This process alone, or one of several in a torch.distributed group of the caller's."""

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        *,
        say: Callable[[str], None] = say,
        progress: Callable[[str, int, str], AbstractContextManager[ProgressDisplay]] = Progress,
    ) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        self._say, self._progress = say, progress

    def all_reduce(self, tensor: Any) -> None:
        """Replaces `tensor` by its sum over all workers, in place."""
        if self.world_size > 1:
            import torch.distributed as dist

            # NCCL sums only what is on the GPU; tables that stay in main memory travel there and
            # back.
            there = tensor.to(self.device) if self.device.startswith("cuda") else tensor
            dist.all_reduce(there)
            if there is not tensor:
                tensor.copy_(there)

    def barrier(self) -> None:
        """Waits until every worker is here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Tells whoever runs the loop how it stands; every worker calls it equally often.

        Here nobody listens: the metrics are in metrics.jsonl.
        """

    def say(self, text: str) -> None:
        """Shows a line; of all workers only rank 0 is heard."""
        if self.rank == 0:
            self._say(text)

    def progress(
        self, title: str, total: int, unit: str
    ) -> AbstractContextManager[ProgressDisplay]:
        """A progress display; of all workers only that of rank 0 is seen, with a title."""
        return (
            self._progress(title, total, unit)
            if self.rank == 0 and title
            else nullcontext(_Silence())
        )
