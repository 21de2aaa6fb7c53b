"""The side of a training job that runs in a Ray Train worker: the loop, and what it tells Ray."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.training_record import TrainingRecord
from training.runtime.driver_messages import DriverProgress, send
from training.runtime.environment import LocalEnv


class RayEnv(LocalEnv):
    """One worker of a Ray Train job, in its torch.distributed group; the driver shows its words."""

    def __init__(self, messages: Path) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        super().__init__(
            context.get_world_rank(),
            context.get_world_size(),
            str(ray.train.torch.get_device()),
            say=lambda text: send(messages, kind="say", text=text),
            progress=functools.partial(DriverProgress, messages),
        )

    def report(self, metrics: Mapping[str, float]) -> None:
        """Passes the metrics to Ray Train.

        A call waits for the controller's next poll, so the loop calls it seldom.
        """
        import ray.train

        ray.train.report(dict(metrics))


def train_worker(config: dict[str, Any]) -> TrainingRecord:
    """What each Ray Train worker runs: the loop, on its share of the machine's cores.

    Args:
        config: The `recipe`, and the path of the file that takes `messages` for the driver.
    """
    import ray.train
    import torch

    from training.config import TrainSection
    from training.trainer.loop import fit

    # Ray sets OMP_NUM_THREADS=1 for workers that reserve a fraction of a CPU; take a fair share of
    # the cores instead.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    torch.set_num_threads(max(1, cores // ray.train.get_context().get_local_world_size()))
    return fit(TrainSection.model_validate(config["recipe"]), RayEnv(Path(config["messages"])))
