"""One run of the study: finetune a world's base with the product's loop in this process, then score
what came out.

No Ray: `training.trainer.loop.fit` with the local environment. A run is described by plain values,
so that it can be sent to another process, and its row says all that the report needs.
"""

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.recipe import fingerprint
from pipeline.core.storage import read_json

if TYPE_CHECKING:
    from training.config import TrainSection

CODE_VERSION = 1  # raise when the same run would give other numbers
STEPS, BATCH_PAIRS = 60, 16  # 960 pair presentations, the same for every objective
BASE = "base"
BETAS = (
    "beta_attend_a",
    "beta_reject_a",
    "beta_attend_b",
    "beta_reject_b",
    "beta_dpo",
    "beta_image",
    "beta_anchor",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What an objective trains with; `beta` sets every inverse temperature, `zero` removes some,
    `plus` adds objectives.
    """

    name: str
    lr: float
    beta: float = 0.1
    zero: tuple[str, ...] = ()
    plus: dict[str, float] = field(default_factory=dict)

    def objective(self) -> dict[str, Any]:
        """The recipe's `objective` section."""
        betas = {name: 0.0 if name in self.zero else self.beta for name in BETAS}
        return {"name": self.name, "plus": dict(self.plus), **betas}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row to be: which world, trained on which of its folders, measured on which, with what.

    `objective` is its name in the study ("svco+sft"); `setting` is None for the base itself.
    """

    world: str
    stage: str  # base | tune | test | ablation
    train: str
    measured: str
    objective: str
    setting: Setting | None = None
    seed: int = 0
    steps: int = STEPS

    @property
    def key(self) -> str:
        """The row's name."""
        setting = f"lr{self.setting.lr:g}-beta{self.setting.beta:g}" if self.setting else "-"
        return f"{self.world}/{self.stage}/{self.train}/{self.objective}/{setting}/seed{self.seed}"

    def fingerprint(self, world: str) -> str:
        """Changes whenever the row would: of the run, the study's code version, and the world's
        fingerprint.
        """
        return fingerprint("study", CODE_VERSION, BATCH_PAIRS, asdict(self), world)


def execute(
    run: Run, root: Path, facts: dict[str, Any], device: str = "cpu", num_threads: int = 1
) -> dict[str, Any]:
    """Trains and scores; returns the run's row.

    Args:
        root: Where the worlds are.
        facts: The world's facts, as `study_worlds.world_facts` gives them.
    """
    import torch

    from studies.objectives.score import plan_of, score

    torch.set_num_threads(num_threads)
    folder, started_s = root / run.world, time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="run-", dir=root))
    try:
        model, extra = folder / BASE, dict[str, Any]()
        if run.setting is not None:
            model = work / "model"
            extra = _train(run, folder, model, device)
        trained_s = time.monotonic()
        prior = read_json(folder / BASE / "prior.json")["favoured"]
        scored = score(model, folder / run.measured, prior, facts["slices"], plan_of(device))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = {
        "train": round(trained_s - started_s, 1),
        "score": round(time.monotonic() - trained_s, 1),
    }
    return {
        "key": run.key,
        "fingerprint": run.fingerprint(facts["fingerprint"]),
        **{name: value for name, value in asdict(run).items() if name != "setting"},
        "setting": asdict(run.setting) if run.setting else None,
        **extra,
        "seconds": seconds,
        "measures": scored.measures,
        # settings are chosen by the measures alone
        "outcomes": scored.outcomes if run.measured == "test" else {},
    }


def _train(run: Run, folder: Path, out: Path, device: str) -> dict[str, Any]:
    """Finetunes into `out`; says how far the weights went from the base's."""
    from training.runtime.environment import LocalEnv
    from training.trainer.loop import fit

    out.mkdir()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        fit(section_of(run, folder, out), LocalEnv(device=device))
    return {"step_size": step_size(folder / BASE, out)}


def section_of(run: Run, folder: Path, out: Path) -> "TrainSection":
    """The run as a training recipe."""
    from training.config import TrainSection

    assert run.setting is not None, "the base is not trained"
    return TrainSection.model_validate(
        {
            "model": str(folder / BASE),
            "data": str(folder / run.train),
            "out": str(out),
            "reference": str(reference_of(folder, run.train)),
            "seed": run.seed,
            "objective": run.setting.objective(),
            "optim": {
                "lr": run.setting.lr,
                "max_steps": run.steps,
                "batch_pairs": BATCH_PAIRS,
                "micro_batch_pairs": BATCH_PAIRS,
            },
            "checkpoint": {"every_steps": 0},
            "workers": {"num_workers": 0},
            "log": {"tensorboard": False, "num_samples": 0},
            "eval_every_steps": 0,
        }
    )


def reference_of(folder: Path, part: str) -> Path:
    """Where the base's log-probabilities of a training folder are."""
    return folder / f"reference-{part}"


def make_references(world: str, folder: Path, parts: Sequence[str]) -> None:
    """The base's log-probabilities of every training folder, once for all runs."""
    from training.make_reference import make_reference
    from training.run_plan import plan_reference

    for part in parts:
        any_run = Run(
            world=world,
            stage="test",
            train=part,
            measured="test",
            objective="svco",
            setting=Setting(name="svco", lr=1e-4),
        )
        section = section_of(any_run, folder, reference_of(folder, part))
        make_reference(plan_reference(section.model_copy(update={"reference": None})))


def step_size(base: Path, model: Path) -> float:
    """How far the weights went, relative to the base's: |w - w_base| / |w_base| over all that both
    hold, 5 decimals.
    """
    from safetensors.torch import load_file

    before, after = load_file(base / "model.safetensors"), load_file(model / "model.safetensors")
    shared = before.keys() & after.keys()
    moved = sum(
        float((after[name].double() - before[name].double()).square().sum()) for name in shared
    )
    whole = sum(float(before[name].double().square().sum()) for name in shared)
    return round(float((moved / whole) ** 0.5), 5)
