"""Where a stopped run goes on: weights, optimizer and position in the data, whole or absent.

`<out>/.checkpoints/step-00000100/` holds the tensors (torch.distributed.checkpoint, one part per
worker) and state.json, written last; the folder gets its name when everything in it is on the disk.
Sharded or not, written by any number of workers, it is read by any other number.
"""

import contextlib
import dataclasses
import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from pipeline.core.recipe import UserError
from pipeline.core.storage import read_json, write_json
from training.data.pairs import DataState
from training.run_plan import ATTEMPT, BEST, CHECKPOINTS, STATE
from training.runtime.environment import LocalEnv
from training.trainer.policy import TrainablePolicy

_ONLY_TRAINED = StateDictOptions(ignore_frozen_params=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Everything besides tensors that a run needs to go on as if it had never stopped."""

    step: int  # steps done
    data: DataState
    start: dict[str, float] = field(default_factory=dict)  # validation before training
    latest: dict[str, float] = field(default_factory=dict)  # the last validation
    best_step: int | None = None
    best_loss: float | None = None


def run_folder(out: str | Path) -> Path:
    """Where the checkpoints of a run lie."""
    return Path(out) / CHECKPOINTS


def latest(out: str | Path) -> Path | None:
    """The last complete checkpoint, or None."""
    states = run_folder(out).glob(f"step-*/{STATE}")
    return max((path.parent for path in states if not path.parent.suffix), default=None)


class Checkpoints:
    """Writes and prunes the checkpoints of one run; every worker calls `save` at the same steps."""

    def __init__(self, out: str | Path, env: LocalEnv, num_to_keep: int) -> None:
        self._out, self._env, self._num_to_keep = Path(out), env, num_to_keep
        self._attempt = _attempt(out)

    def save(
        self,
        trained: TrainablePolicy,
        optimizer: torch.optim.Optimizer,
        state: TrainState,
        *,
        as_best: bool = False,
    ) -> None:
        """Makes the run continue from `state` if it is stopped after this call.

        Args:
            as_best: Keep it as the best so far instead.

        Raises:
            UserError: The disk is full, or another run has taken over this folder; the checkpoints
                before are untouched.
        """
        folder = run_folder(self._out)
        final = folder / (BEST if as_best else f"step-{state.step:08d}")
        temporary = folder / f"{final.name}.{self._attempt}"
        if self._env.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._env.barrier()
        try:
            with _without_warnings():
                state_dict_saver.save(
                    _tensors(trained, optimizer),
                    checkpoint_id=temporary,
                    no_dist=self._env.world_size == 1,
                )
            if self._env.rank == 0:
                write_json(temporary / STATE, dataclasses.asdict(state))
        except (OSError, CheckpointException, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise _explained(error, folder) from error
        self._env.barrier()
        if self._env.rank == 0:
            self._commit(temporary, final)
            kept = sorted(path for path in folder.glob("step-*") if not path.suffix)
            for old in kept[: -self._num_to_keep]:
                shutil.rmtree(old, ignore_errors=True)
        self._env.barrier()

    def _commit(self, temporary: Path, final: Path) -> None:
        if _attempt(self._out) != self._attempt:
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(
                f"{final.parent}: another run has taken over this folder; this one, left over from"
                " a killed job, ends"
            )
        replaced = final.with_suffix(".old")
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            os.replace(final, replaced)
        os.replace(temporary, final)
        shutil.rmtree(replaced, ignore_errors=True)
        directory = os.open(final.parent, os.O_RDONLY)
        os.fsync(directory)  # the new name, too, is to survive a power cut
        os.close(directory)


def restore(
    folder: Path, trained: TrainablePolicy, optimizer: torch.optim.Optimizer, env: LocalEnv
) -> TrainState:
    """Puts a checkpoint's tensors into the model and its optimizer; returns the rest.

    Raises:
        UserError: The checkpoint does not fit the model.
    """
    tensors = _tensors(trained, optimizer)
    try:
        with _without_warnings():
            state_dict_loader.load(tensors, checkpoint_id=folder, no_dist=env.world_size == 1)
    except (CheckpointException, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{folder}: the checkpoint does not fit this model"
            f" ({str(error).strip().splitlines()[-1]}); delete {folder.parent} to train anew"
        ) from error
    set_state_dict(
        trained.policy,
        optimizer,
        model_state_dict=tensors["model"],
        optim_state_dict=tensors["optimizer"],
        # the frozen weights are not in it
        options=dataclasses.replace(_ONLY_TRAINED, strict=False),
    )
    facts: dict[str, Any] = read_json(folder / STATE)
    return TrainState(**{**facts, "data": DataState(**facts["data"])})


def _tensors(trained: TrainablePolicy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    model, states = get_state_dict(trained.policy, optimizer, options=_ONLY_TRAINED)
    return {"model": model, "optimizer": states}


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Torch warns that one process is alone, which is what was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _attempt(out: str | Path) -> str:
    path = run_folder(out) / ATTEMPT
    return path.read_text(encoding="utf-8") if path.is_file() else "only"


def _explained(error: BaseException, folder: Path) -> BaseException:
    """A full disk in one line; anything else as it is.

    DCP wraps the system's errors, and its writer reports a short write.
    """
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    free = shutil.disk_usage(folder).free
    if full or "No space left" in str(error) or free < 1_000_000:
        return UserError(
            f"{folder}: the disk is full; the checkpoint before is whole: free some space and run"
            " the same command again"
        )
    return error
