"""What a training recipe may say. Knows nothing of torch, models or files."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.recipe import Section
from training.objectives.terms import (
    OBJECTIVES,
    Cell,
    Coefficients,
    active_terms,
    cells_of,
    coefficients_of,
    reference_cells_of,
)
from training.tiny.config import TinySection

if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(OBJECTIVES)]


class ObjectiveNames(Section):
    """Which objectives make the loss."""

    name: ObjectiveName = "svco"
    # other objectives to add, by weight: {sft: 0.1}
    plus: dict[ObjectiveName, float] = Field(default_factory=dict)


class ObjectiveSection(Coefficients, ObjectiveNames):
    """Which loss, its inverse temperatures and weights; a 0 removes its term, in training and in
    evaluation alike.
    """

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        for name in (self.name, *self.plus):
            if not active_terms(name, self):
                zeros = [key for key in coefficients_of(name) if not getattr(self, key)]
                raise ValueError(
                    f"with {', '.join(zeros)} at 0 the objective {name} has no term to train; set"
                    " at least one above 0"
                )
        if any(weight <= 0 for weight in self.plus.values()):
            raise ValueError(
                f"plus: expected weights above 0, got {dict(self.plus)}; leave out what is not to"
                " be added"
            )
        return self

    @property
    def cells(self) -> frozenset[Cell]:
        """The log-probabilities of a pair that the loss depends on."""
        return cells_of((self.name, *self.plus), self)

    @property
    def reference_cells(self) -> frozenset[Cell]:
        """Those of them that the reference's numbers are needed of."""
        return reference_cells_of((self.name, *self.plus), self)


class OptimSection(Section):
    """AdamW with a cosine schedule; the defaults are the published recipe's."""

    lr: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    adam_beta2: float = Field(default=0.95, gt=0, lt=1)
    warmup_frac: float = Field(default=0.05, ge=0, le=1)
    num_epochs: int = Field(default=1, ge=1)
    # if given, the number of steps, whatever num_epochs says
    max_steps: int | None = Field(default=None, ge=1)
    # over all workers: the loss of a step is the mean over these
    batch_pairs: int = Field(default=32, ge=1)
    # in one forward pass; changes memory and speed, not the result
    micro_batch_pairs: int = Field(default=4, ge=1)
    clip_norm: float = Field(default=1.0, gt=0)

    def num_steps(self, num_pairs: int) -> int:
        """Steps of a run over `num_pairs` pairs; an epoch's last batch may be smaller."""
        return self.max_steps or self.num_epochs * math.ceil(num_pairs / self.batch_pairs)


class ModelUseSection(Section):
    """What is trained and what is kept in memory."""

    freeze_vision: bool = True
    train_projector: bool = True  # the layers between the vision tower and the language model
    cache_vision: bool = True  # keep a frozen tower's features of every image, if they fit
    max_cache_gb: float = Field(default=4.0, ge=0)  # per worker, for those features
    # as kept in memory; what is trained stays float32
    weights: Literal["float32", "bfloat16"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"  # of the computation
    # recompute them in the backward pass: a third more work for far less memory
    checkpoint_activations: bool = False
    # dense builds the whole mask: slow, for comparison
    attention: Literal["split", "dense"] = "split"


class LoraSection(Section):
    """Low-rank adapters on the language model instead of its weights. Without dropout: two
    responses share a prompt.
    """

    rank: int = Field(default=64, ge=1)
    alpha: float = Field(default=128, gt=0)
    # a regular expression for the last part of a layer's name
    targets: str = r"(q|k|v|o|gate|up|down)_proj"
    # keep the frozen weights in 4 bits (QLoRA); needs bitsandbytes and a GPU
    quantize: Literal["nf4"] | None = None
    merge: bool = True  # write a whole model; otherwise the adapter alone


class CheckpointSection(Section):
    """From what a run goes on after it was stopped."""

    every_steps: int = Field(default=100, ge=0)  # 0: none, so that a stopped run starts again
    num_to_keep: int = Field(default=2, ge=1)
    keep_best: bool = False  # write the model with the lowest validation loss instead of the last


class WorkersSection(Section):
    """Ray Train workers, or this process when `num_workers` is 0."""

    num_workers: int = Field(default=1, ge=0)
    # if given, start with as few, and grow when the cluster does
    min_workers: int | None = Field(default=None, ge=1)
    use_gpu: bool = False
    # what Ray reserves, below 1 so that two fit beside a driver
    cpus_per_worker: float = Field(default=0.5, gt=0)
    shard: bool = False  # FSDP2: weights, gradients and optimiser are spread over the workers
    # workers or nodes that may die before the run ends; -1: any number
    max_failures: int = Field(default=3, ge=-1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers={self.min_workers}: expected at most num_workers={self.num_workers}"
            )
        if self.shard and self.num_workers == 0:
            raise ValueError(
                "shard: spreads a model over Ray workers; set num_workers to at least 1"
            )
        return self


class LogSection(Section):
    """Where the numbers go besides metrics.jsonl."""

    tensorboard: bool = True  # event files in <out>/tensorboard
    # Weights & Biases, where a run that goes on stays one; the key: its login or WANDB_API_KEY
    wandb_project: str | None = None
    # validation pairs whose answers are generated at each evaluation
    num_samples: int = Field(default=2, ge=0)
    sample_tokens: int = Field(default=48, ge=1)


class TrainSection(Section):
    """A whole training run."""

    model: str  # "tiny", a Hugging Face folder, or a Hub id
    data: str  # an MVC folder
    out: str
    # a folder of `svco reference`; without one the run computes what no other run has left
    reference: str | None = None
    # `svco reference` keeps what the frozen tower sees of each image too, so that no run needs it
    store_features: bool = False
    seed: int = Field(default=0, ge=0)
    objective: ObjectiveSection = ObjectiveSection()
    optim: OptimSection = OptimSection()
    train: ModelUseSection = ModelUseSection()
    lora: LoraSection | None = None
    checkpoint: CheckpointSection = CheckpointSection()
    workers: WorkersSection = WorkersSection()
    log: LogSection = LogSection()
    eval_every_steps: int = Field(default=31, ge=0)  # 0: only before and after
    # of one prompt with its response; longer pairs are dropped and counted
    max_length_tokens: int = Field(default=2048, ge=1)
    tiny: TinySection = TinySection()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        lora, use, shard = self.lora, self.train, self.workers.shard
        conflicts = {
            "lora: adapters go on the language model only; set train.freeze_vision=true, or leave"
            " out lora": lora and not use.freeze_vision,
            "lora: adapters are small and frozen weights better whole on each worker; set"
            " workers.shard=false": lora and shard,
            "lora.merge=false keeps the adapters alone; set train.train_projector=false, or"
            " lora.merge=true": lora and not lora.merge and use.train_projector,
            "train.weights=bfloat16 cannot be computed with in float32; set"
            " train.precision=bfloat16": use.weights == "bfloat16" and use.precision == "float32",
            "workers.shard: the vision tower is not sharded; set train.freeze_vision=true": (
                shard and not use.freeze_vision
            ),
        }
        for message, is_there in conflicts.items():
            if is_there:
                raise ValueError(message)
        return self

    @property
    def base_model(self) -> str:
        """Where the model that training starts from is.

        The tiny one is copied into `out`, so that a result is complete.
        """
        return str(Path(self.out) / "base") if self.model == "tiny" else self.model
