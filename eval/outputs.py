"""What an evaluation leaves in `out`: names and forms of files, and whether it was done before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from eval.config import EvalSection
from eval.inputs import Role
from eval.stats.dependency import Number, ScoredNumber
from pipeline.core.recipe import RecipeError, fingerprint
from pipeline.core.storage import Owner, read_json, remove_stale

CODE_VERSION = 3  # raise when the same inputs would give other numbers
DONE, RESULT, PAGE = "DONE.json", "result.json", "report.html"
SCORES, ITEMS = "scores.json", "items.parquet"  # of pairs
BENCHMARK_FOLDER = "benchmarks"
OWNER = Owner("evaluation", (".svco_eval",), never=("manifest.json",))


class PairNumber(Number):
    """A measure of one model, over how many of what it counts, and in how many groups of pairs."""

    n: int
    num_groups: int


class Entry(TypedDict):
    """One measure: what chance gives, each model, and what finetuning changed."""

    chance: float | None
    before: PairNumber | None
    after: PairNumber | None
    difference: Number | None


Entries = dict[str, Entry]  # by measure


class PairScores(TypedDict):
    """scores.json: every measure of all pairs, and of each category and source."""

    overall: Entries
    category: dict[str, Entries]
    source: dict[str, Entries]
    measures: dict[str, dict[str, Any]]  # how each is called and read


class BenchmarkSummary(TypedDict):
    """The headline score of a benchmark, and by how much image and finetuning change it."""

    headline: str
    num_questions: int
    limit: int | None
    before: NotRequired[ScoredNumber | None]
    after: NotRequired[ScoredNumber | None]
    difference: Number | None
    drop_without_image: dict[Role, dict[str, Number | None] | None]
    frac_unreadable: dict[Role, float | None]
    frac_unfinished: dict[Role, float | None]


class RunFacts(TypedDict):
    """How the answers to benchmarks came about."""

    num_requests: NotRequired[int]
    num_without_answer: int
    batch_agreement: NotRequired[dict[str, int] | None]


class Result(RunFacts):
    """result.json: where everything is, and the most important numbers."""

    out: str
    page: str
    models: dict[Role, str]
    data: str | None
    num_pairs: int
    num_pairs_left_out: dict[str, int]  # that a model cannot take, by reason
    headline: Entries
    benchmarks: dict[str, BenchmarkSummary]
    seconds: float


def identity(
    section: EvalSection,
    hashes: Mapping[Role, str],
    data: str,
    benchmarks: Mapping[str, str],
    prior: dict[str, list[str]] | None,
) -> dict[str, Any]:
    """All that the numbers depend on; where it ran and where it was written is left out.

    Args:
        hashes: Of what answers, by role.
        data: Hash of the evaluated split.
        benchmarks: Hash of each benchmark's questions.
    """
    return {
        "version": CODE_VERSION,
        "models": dict(hashes),
        "data": data,
        "benchmarks": dict(benchmarks),
        "prior": fingerprint(prior),
        "recipe": section.content(),
    }


def scoring_fingerprint(section: EvalSection, weights: str, data: str) -> str:
    """Names the scores of one model: other intervals or another page leave them as they are."""
    parts = ("split", "max_pairs", "dtype", "batch_pairs", "pairs_per_chunk", "generate")
    return fingerprint(
        CODE_VERSION,
        weights,
        data,
        section.workers.use_gpu,
        "left_out",
        {k: section.model_dump(mode="json")[k] for k in parts},
    )


def outputs_of(section: EvalSection) -> list[str]:
    """The files that an evaluation leaves in `out`, relative to it."""
    pairs = (SCORES, ITEMS) if section.data else ()
    files = [
        f"{BENCHMARK_FOLDER}/{entry.display_name}.{kind}"
        for entry in section.benchmarks
        for kind in ("parquet", "json")
    ]
    return [RESULT, PAGE, *pairs, *files]


def is_finished(section: EvalSection, wanted: dict[str, Any]) -> bool:
    """Whether `out` already holds exactly this evaluation, with everything that it writes.

    Raises:
        UserError: It holds files of something else.
        RecipeError: It holds another evaluation and `overwrite` is false.
    """
    out = Path(section.out)
    OWNER.check(out)
    done = out / DONE
    if not done.is_file():
        return False
    finished = read_json(done).get("identity", {})
    if finished == wanted:
        return all((out / name).is_file() for name in outputs_of(section))
    if not section.overwrite:
        recipe, other = wanted["recipe"], finished.get("recipe", {})
        different = [
            *(name for name in wanted if name != "recipe" and finished.get(name) != wanted[name]),
            *(f"recipe.{name}" for name in recipe if other.get(name) != recipe[name]),
        ]
        raise RecipeError(
            f"out={out}: holds a finished evaluation that differs in {', '.join(different)}; "
            "choose another out, or give overwrite=true to replace it"
        )
    return False


def begin(out: Path) -> None:
    """Marks `out` as this job's, and removes an earlier result.

    What a killed run leaves must not look like its own.
    """
    remove_stale(out, DONE, RESULT, PAGE, SCORES, ITEMS, f"{BENCHMARK_FOLDER}/*.*")
    OWNER.claim(out, "The folder of an evaluation; a new one may replace what is in it.\n")
