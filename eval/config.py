"""What an evaluation recipe may say. Knows nothing of models, Ray or files."""

from typing import Literal

from pydantic import Field

from pipeline.recipe import Section


class GenerateSection(Section):
    """Greedy answers to each pair's question, once per image.

    Without them there is no hallucination rate; the log-likelihood scores need none.
    """

    enabled: bool = True
    max_new_tokens: int = Field(default=48, ge=1)
    batch_images: int = Field(default=16, ge=1)


class IntervalSection(Section):
    """Bootstrap intervals, clustered on the `group` column."""

    num_draws: int = Field(default=2000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)


class WorkerSection(Section):
    """Where the scoring runs: an actor pool of Ray Data, or this process when `num_workers` is 0."""

    num_workers: int = Field(default=1, ge=0)
    cpus_per_worker: float = Field(default=0.5, gt=0.0)  # below 1, so that a two-core machine has room for the reader
    use_gpu: bool = False


class PageSettings(Section):
    """How much the page shows."""

    max_cards: int = Field(default=9, ge=0)  # of each kind: fixed, still wrong, broken


class EvalSection(Section):
    """One evaluation: one model (and the model it was finetuned from) on one split of one MVC folder."""

    model: str
    data: str
    out: str
    split: Literal["validation", "train"] = "validation"
    base: str = "auto"  # auto: what the model's svco.json names; none: no comparison; otherwise a folder or a Hub id
    seed: int = 0
    max_pairs: int | None = Field(default=None, ge=1)  # the first rows of the split; None is all
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_pairs: int = Field(default=8, ge=1)  # pairs in one packed forward pass
    pairs_per_chunk: int = Field(default=32, ge=1)  # the unit of work and of resuming
    generate: GenerateSection = GenerateSection()
    intervals: IntervalSection = IntervalSection()
    workers: WorkerSection = WorkerSection()
    page: PageSettings = PageSettings()
    overwrite: bool = False
