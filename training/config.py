"""What a training recipe may say. Knows nothing of torch, models or files."""

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.recipe import Section
from training.tiny import TinySection

# The inverse temperatures that each objective heeds; sft has no logistic term and heeds none.
BETAS_OF = {
    "svco": ("beta_attend_a", "beta_reject_a", "beta_attend_b", "beta_reject_b"),
    "vco": ("beta_attend_a", "beta_reject_a"),
    "dpo": ("beta_dpo",),
    "sft": (),
}


class ObjectiveSection(Section):
    """Which loss, and its inverse temperatures; a beta of 0 removes its term, in training and in evaluation alike."""

    name: Literal["svco", "vco", "dpo", "sft"] = "svco"
    beta_attend_a: float = Field(default=0.1, ge=0)
    beta_reject_a: float = Field(default=0.1, ge=0)
    beta_attend_b: float = Field(default=0.1, ge=0)
    beta_reject_b: float = Field(default=0.1, ge=0)
    beta_dpo: float = Field(default=0.1, ge=0)

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        heeded = BETAS_OF[self.name]
        if heeded and not any(getattr(self, beta) for beta in heeded):
            raise ValueError(f"with {', '.join(heeded)} at 0 the objective {self.name} has no term to train; set at least one above 0")
        return self


class OptimSection(Section):
    """AdamW with a cosine schedule; the defaults are the published recipe's."""

    lr: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    warmup_frac: float = Field(default=0.05, ge=0, le=1)
    num_epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)  # if given, the number of steps, whatever num_epochs says
    batch_pairs: int = Field(default=32, ge=1)  # over all workers: the loss of a step is the mean over these
    micro_batch_pairs: int = Field(default=4, ge=1)  # in one forward pass; changes memory and speed, not the result
    clip_norm: float = Field(default=1.0, gt=0)

    def num_steps(self, num_pairs: int) -> int:
        """Steps of a run over `num_pairs` pairs; the last batch of an epoch may be smaller than the others."""
        return self.max_steps or self.num_epochs * math.ceil(num_pairs / self.batch_pairs)


class ModelUseSection(Section):
    """What is trained and what is kept in memory."""

    freeze_vision: bool = True
    cache_vision: bool = True  # keep a frozen tower's features of every image, if they fit
    max_cache_gb: float = Field(default=4.0, ge=0)  # per worker, for those features
    precision: Literal["float32", "bfloat16"] = "float32"  # of the computation; weights are float32


class WorkersSection(Section):
    """Ray Train workers, or this process when `num_workers` is 0."""

    num_workers: int = Field(default=1, ge=0)
    use_gpu: bool = False
    cpus_per_worker: float = Field(default=0.5, gt=0)  # what Ray reserves, below 1 so that two fit beside a driver


class TrainSection(Section):
    """A whole training run."""

    model: str  # "tiny", a Hugging Face folder, or a Hub id
    data: str  # an MVC folder
    out: str
    seed: int = Field(default=0, ge=0)
    objective: ObjectiveSection = ObjectiveSection()
    optim: OptimSection = OptimSection()
    train: ModelUseSection = ModelUseSection()
    workers: WorkersSection = WorkersSection()
    eval_every_steps: int = Field(default=31, ge=0)  # 0: only before and after
    max_length_tokens: int = Field(default=2048, ge=1)  # of one prompt with its response; longer pairs are dropped and counted
    tiny: TinySection = TinySection()

    @property
    def base_model(self) -> str:
        """Where the model that training starts from is; the tiny one is copied into `out`, so that a result is complete."""
        return str(Path(self.out) / "base") if self.model == "tiny" else self.model
