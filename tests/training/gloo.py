"""Two workers on this machine that talk by gloo, as Ray Train's would."""

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import torch


def two_workers(work: Callable[..., None], *arguments: Any) -> None:
    """Runs `work(rank, world_size, *arguments)` in two processes that form a group; both must end
    well.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The server imports what takes ten seconds once; every worker of every test is a fork of it.
    multiprocessing.set_forkserver_preload(
        [
            "training.trainer.loop",
            "training.models.vlm",
            "peft",
            "transformers.models.llava.modeling_llava",
        ]
    )
    torch.multiprocessing.start_processes(
        _worker, (2, port, work, arguments), nprocs=2, start_method="forkserver"
    )


def _worker(
    rank: int, world_size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    try:
        work(rank, world_size, *arguments)
    finally:
        torch.distributed.destroy_process_group()
