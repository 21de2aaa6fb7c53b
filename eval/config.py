"""What an evaluation recipe may say. Knows nothing of models, Ray or files."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.core.recipe import RecipeError, Section
from pipeline.llm.config import EndpointSection, check_budget

Ablation = Literal["none", "blank", "shuffled", "counterpart"]
ABLATIONS: tuple[Ablation, ...] = ("none", "blank", "shuffled", "counterpart")


class GenerateSection(Section):
    """Greedy answers to each pair's question, once per image.

    Without them there is no hallucination rate; the log-likelihood scores need none.
    """

    enabled: bool = True
    max_new_tokens: int = Field(default=48, ge=1)
    batch_images: int = Field(default=16, ge=1)


class AnswerEndpoint(EndpointSection):
    """A server whose answers are evaluated; each benchmark sets how long an answer may be."""

    temperature: float | None = Field(default=0.0, ge=0)
    max_tokens: None = None
    timeout_s: float = Field(default=120.0, gt=0)


class JudgeEndpoint(EndpointSection):
    """A server whose model judges answers."""

    temperature: float | None = Field(default=0.0, ge=0)
    max_tokens: int | None = Field(default=600, gt=0)


class JudgeSection(Section):
    """Who rates free answers, from texts only.

    It is told the question, what is known of the image, the reference and the answer.
    """

    endpoint: JudgeEndpoint
    # also: is the answer of the model or of its base better? Asked in both orders
    pairwise: bool = False
    ablations: bool = False  # also rate what was said without the image, or with another one
    max_usd: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_budget(self.max_usd, self.endpoint)
        return self


class BenchmarkSection(Section):
    """One benchmark: where its files are, and its own switches.

    `label` names its outputs where one benchmark is run in several ways; `limit` takes the first so
    many questions, and the published size is then not expected; `expected_size` is for a set of
    another size than the published one; `parser` reads answers as another harness does ("default"
    never guesses).
    """

    name: str
    source: str  # a folder, a file or a Hub id
    label: str = ""
    limit: int | None = Field(default=None, ge=1)
    expected_size: int | None = Field(default=None, ge=1)
    options: dict[str, str] = Field(default_factory=dict)
    parser: str = "default"

    @field_validator("label")
    @classmethod
    def _is_a_file_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}", value):
            raise ValueError("names files, so expected letters, digits, '_', '-' and '.'")
        return value

    @property
    def display_name(self) -> str:
        """What it is called."""
        return self.label or self.name


class AnswerSection(Section):
    """How answers to benchmark questions are made, and where all answers are kept.

    `cache` is the file that keeps every answer (default $SVCO_CACHE/answers.sqlite), on a local
    disk. `ablations` are the conditions beside the true image. In anything but fp32 on a CPU an
    answer may depend on the others of its batch: then `num_checked` of them are also made alone,
    and the share that is the same is reported.
    """

    batch: int = Field(default=8, ge=1)
    cache: str | None = None
    ablations: tuple[Ablation, ...] = ABLATIONS
    # instead of the benchmark's own bound; more where a model reasons before it answers
    max_new_tokens: int | None = Field(default=None, ge=1)
    num_checked: int = Field(default=16, ge=0)


class IntervalSection(Section):
    """Intervals over whole groups: `group` of pairs, of benchmarks the pair or the image."""

    # without effect: intervals are computed without draws; kept for recipes that name it
    num_draws: int = Field(default=2000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)


class WorkerSection(Section):
    """Where the scoring runs: a pool of Ray workers, or this process with `num_workers` 0."""

    num_workers: int = Field(default=1, ge=0)
    # below 1, so that a two-core machine has room for the reader
    cpus_per_worker: float = Field(default=0.5, gt=0.0)
    use_gpu: bool = False


class PageSettings(Section):
    """How much the page shows."""

    max_cards: int = Field(default=9, ge=0)  # of each kind: fixed, still wrong, broken


class EvalSection(Section):
    """One evaluation of a model and its base: on a split of an MVC folder, benchmarks, or both.

    `endpoint` instead of `model`: the model behind a server. It gives answers and no
    log-likelihoods, so `data` is refused.
    """

    out: str
    model: str = ""
    data: str = ""
    endpoint: AnswerEndpoint | None = None
    split: Literal["validation", "train"] = "validation"
    # auto: what the model's svco.json names; none: no comparison; otherwise a folder or a Hub id
    base: str = "auto"
    seed: int = 0
    max_pairs: int | None = Field(default=None, ge=1)  # the first rows of the split; None is all
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_pairs: int = Field(default=8, ge=1)  # pairs in one packed forward pass
    pairs_per_chunk: int = Field(default=32, ge=1)  # the unit of work and of resuming
    generate: GenerateSection = GenerateSection()
    benchmarks: tuple[BenchmarkSection, ...] = ()
    answers: AnswerSection = AnswerSection()
    judge: JudgeSection | None = None
    intervals: IntervalSection = IntervalSection()
    workers: WorkerSection = WorkerSection()
    page: PageSettings = PageSettings()
    overwrite: bool = False

    def check(self) -> None:
        """Whether its parts go together.

        Raises:
            RecipeError: They do not; the message says which.
        """
        if bool(self.model) == (self.endpoint is not None):
            raise RecipeError(
                "model: expected model=FOLDER or an endpoint, got "
                + ("both" if self.model else "neither")
            )
        if not self.data and not self.benchmarks:
            raise RecipeError(
                "data: nothing to evaluate; give data=MVC_FOLDER, or benchmarks, or both"
            )
        if self.endpoint is not None and self.data:
            raise RecipeError(
                "data: an endpoint gives no log-likelihoods, so pairs cannot be scored with it;"
                " leave data out"
            )
        names = [entry.display_name for entry in self.benchmarks]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"benchmarks: {name!r} occurs twice; give each its own label")

    def content(self) -> dict[str, Any]:
        """What the numbers depend on.

        Not where things lie, how fast they are made, and what is hashed by content.
        """
        places = {
            "model",
            "base",
            "data",
            "out",
            "workers",
            "overwrite",
            "endpoint",
            "judge",
            "benchmarks",
            "answers",
        }
        judge = self.judge and {
            **self.judge.model_dump(mode="json", exclude={"endpoint", "max_usd"}),
            **self.judge.endpoint.content(),
        }
        return {
            **self.model_dump(
                mode="json", exclude=dict.fromkeys(places, True) | {"intervals": {"num_draws"}}
            ),
            "benchmarks": [
                entry.model_dump(mode="json", exclude={"source"}) for entry in self.benchmarks
            ],
            "answers": self.answers.model_dump(mode="json", exclude={"batch", "cache"}),
            "judge": judge,
        }
