"""Where a run's numbers go: metrics.jsonl, TensorBoard, Weights & Biases; from rank 0 alone."""

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.recipe import RecipeError
from pipeline.core.storage import write_text
from training.config import TrainSection
from training.run_plan import CHECKPOINTS, METRICS, WANDB_ID
from training.runtime.environment import LocalEnv


class Log(contextlib.ExitStack):
    """One line per step and per validation, written at once.

    Args:
        resumed_step: The step that the run goes on from. Lines of later steps, of which the
            checkpoint knows nothing, are taken out: those steps are done again.
    """

    def __init__(
        self, section: TrainSection, env: LocalEnv, resumed_step: int | None = None
    ) -> None:
        super().__init__()
        self._file: Any = None
        self._board: Any = None
        self._wandb: Any = None
        if env.rank == 0:
            out = Path(section.out)
            _forget_after(out / METRICS, -1 if resumed_step is None else resumed_step)
            self._file = self.enter_context((out / METRICS).open("a", encoding="utf-8"))
            if section.log.tensorboard:
                self._board = self.enter_context(_tensorboard(out, resumed_step))
            if section.log.wandb_project:
                self._wandb = _wandb(section, resuming=resumed_step is not None)
                self.callback(self._wandb.finish)

    def write(self, line: Mapping[str, Any]) -> None:
        """Records the numbers of one step or validation; `line` has `step` and `split`."""
        if not self._file:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        step, split = line["step"], line["split"]
        numbers = {
            f"{split}/{name}": value
            for name, value in line.items()
            if isinstance(value, int | float) and name not in ("step", "epoch")
        }
        if self._board:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log({**numbers, "step": step})

    def write_text(self, name: str, text: str, step: int) -> None:
        """Shows a text, such as a generated answer, where texts can be shown."""
        if self._board:
            self._board.add_text(name, text, step)


def _forget_after(path: Path, step: int) -> None:
    if path.is_file():
        kept = [
            f"{line}\n"
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.endswith("}") and json.loads(line)["step"] <= step  # the last may be cut
        ]
        write_text(path, "".join(kept))


def _tensorboard(out: Path, resumed_step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(
        out / "tensorboard", purge_step=None if resumed_step is None else resumed_step + 1
    )


def _wandb(section: TrainSection, *, resuming: bool) -> Any:
    try:
        import wandb  # type: ignore[import-not-found]
    except ImportError as error:
        raise RecipeError(
            "log.wandb_project: needs wandb; pip install --editable '.[wandb]', or set it to null"
        ) from error
    os.environ.setdefault("WANDB_SILENT", "true")
    return wandb.init(
        project=section.log.wandb_project,
        dir=section.out,
        id=_wandb_id(Path(section.out), resuming=resuming),
        resume="allow",
        config=section.model_dump(mode="json"),
    )


def _wandb_id(out: Path, *, resuming: bool) -> str:
    """What W&B knows this run by.

    Kept beside its checkpoints, so that the process that goes on with them goes on with it too.
    """
    kept = out / CHECKPOINTS / WANDB_ID
    if resuming and kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    kept.parent.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex[:16]
    write_text(kept, name)
    return name
