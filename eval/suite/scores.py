"""What a run says about one benchmark: a table of every answer, and its scores with intervals."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from eval.benchmarks.table import answer_table
from eval.config import EvalSection
from eval.inputs import EvaluatedModel, Role
from eval.parsing.parse import num_words
from eval.question import Metric
from eval.stats.dependency import (
    Clusters,
    FlipRate,
    Number,
    ScoredNumber,
    change,
    drop,
    flip_rate,
    is_flipped,
    relative_change,
    scored,
)
from eval.suite.requests import BenchmarkRun, Responses, ResponsesByCondition


class MetricNumber(ScoredNumber):
    """A score, its unit, and whether more of it is better (None: neither)."""

    unit: str
    higher_is_better: bool | None


class RoleScores(TypedDict):
    """What one model reached under one condition, and what its answers are like."""

    metrics: dict[str, MetricNumber | None]
    answers: dict[str, Any]  # see `answer_facts`


class Difference(TypedDict):
    """After minus before with the image, and as a share of before."""

    plain: Number | None
    relative: Number | None


class Dependence(TypedDict):
    """What one model loses under a condition, how often its answers change, of how many."""

    metrics: dict[str, dict[str, Number | None]]
    flip_rate: FlipRate | None
    n: int


class BenchmarkScores(TypedDict):
    """benchmarks/NAME.json: every number of one benchmark under one recipe."""

    benchmark: str
    label: str
    source: str
    options: dict[str, str]
    parser: str
    max_new_tokens: int | None
    dtype: str | None
    limit: int | None
    num_questions: int
    expected_size: int
    headline: str  # the metric that stands for the benchmark
    models: dict[Role, str]
    scores: dict[str, dict[Role, RoleScores]]  # by condition
    difference: dict[str, Difference] | None  # by metric
    dependency: dict[str, dict[Role, Dependence]]  # by condition
    judge: NotRequired[dict[str, Any] | None]


STATUSES = ("exact", "extracted", "ambiguous", "failed", "unfinished", "missing")


def answers_table(run: BenchmarkRun, responses: ResponsesByCondition) -> pa.Table:
    """One row per question, condition and model.

    The columns of a table of answers, and: `model_role` (before | after), `num_tokens` and `ended`
    (null where no answer came), `fault` (what an endpoint said instead of an answer).
    """
    parts = []
    for (role, condition), heard in responses.items():
        texts = ["" if answer is None else answer.text for answer in heard.answers]
        names = [image.name for image in heard.image_inputs]
        part = answer_table(run.benchmark, condition, heard.questions, texts, heard.verdicts, names)
        part = part.append_column("model_role", pa.array([role] * part.num_rows))
        for name, kind in (
            ("num_tokens", pa.int64()),
            ("ended", pa.bool_()),
            ("fault", pa.string()),
        ):
            values = [None if answer is None else getattr(answer, name) for answer in heard.answers]
            part = part.append_column(name, pa.array(values, kind))
        parts.append(part)
    return pa.concat_tables(parts)


def benchmark_scores(
    run: BenchmarkRun,
    responses: ResponsesByCondition,
    models: Mapping[Role, EvaluatedModel],
    section: EvalSection,
) -> BenchmarkScores:
    """Every number of one benchmark.

    Scores under a condition that exists for some questions only ("counterpart") are compared over
    those questions.
    """
    clusters = Clusters.of(
        (question.cluster for question in run.questions), section.intervals.confidence
    )
    metrics = {
        key: run.benchmark.metrics(heard.questions, heard.verdicts)
        for key, heard in responses.items()
    }
    scores: dict[str, dict[Role, RoleScores]] = defaultdict(dict)
    for (role, condition), heard in responses.items():
        scores[condition][role] = {
            "metrics": {
                name: _number(metric, clusters) for name, metric in metrics[role, condition].items()
            },
            "answers": answer_facts(heard),
        }
    return {
        "benchmark": run.entry.name,
        "label": run.entry.display_name,
        "source": run.entry.source,
        "options": dict(run.entry.options),
        "parser": run.entry.parser,
        "max_new_tokens": section.answers.max_new_tokens,
        "dtype": section.dtype if section.endpoint is None else None,
        "limit": run.entry.limit,
        "num_questions": len(run.questions),
        "expected_size": run.entry.expected_size or run.benchmark.expected_size,
        "headline": run.benchmark.headline,
        "models": {role: model.name for role, model in models.items()},
        "scores": scores,
        "difference": _differences(metrics, clusters) if "before" in models else None,
        "dependency": {
            condition: {
                role: _dependence(run, responses, metrics, role, condition, clusters)
                for role in models
            }
            for condition in run.image_inputs
            if condition != "image"
        },
    }


def answer_facts(responses: Responses) -> dict[str, Any]:
    """How answers could be read, how long they are, how many did not end or did not come."""
    given = [answer for answer in responses.answers if answer is not None]
    counts: Counter[str] = Counter(verdict.status for verdict in responses.verdicts)
    num_read = len(responses.answers) - counts["missing"]
    return {
        "num_asked": len(responses.answers),
        "num_without_answer": len(responses.answers) - len(given),
        "statuses": {status: counts[status] for status in STATUSES},
        "frac_unreadable": _share(counts["failed"] + counts["ambiguous"], num_read),
        "frac_unfinished": _share(counts["unfinished"], num_read),
        "num_empty": sum(not answer.text.strip() for answer in given),
        "num_not_ended": sum(not answer.ended for answer in given),
        "num_faults": dict(Counter(answer.fault for answer in given if answer.fault)),
        "mean_words": (
            float(np.mean([num_words(answer.said) for answer in given])) if given else None
        ),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _number(metric: Metric, clusters: Clusters) -> MetricNumber | None:
    number = scored(metric, clusters)
    if number is None:
        return None
    return {**number, "unit": metric.unit, "higher_is_better": metric.higher_is_better}


def _differences(
    metrics: Mapping[tuple[Role, str], Mapping[str, Metric]], clusters: Clusters
) -> dict[str, Difference]:
    before, after = metrics["before", "image"], metrics["after", "image"]
    return {
        name: {
            "plain": change(after[name], before[name], clusters),
            "relative": relative_change(before[name], after[name], clusters),
        }
        for name in after
        if name in before
    }


def _dependence(
    run: BenchmarkRun,
    responses: ResponsesByCondition,
    metrics: Mapping[tuple[Role, str], Mapping[str, Metric]],
    role: Role,
    condition: str,
    clusters: Clusters,
) -> Dependence:
    seeing, ablated = responses[role, "image"], responses[role, condition]
    rows = run.rows(condition)
    answers = [seeing.answers[row] for row in rows]
    verdicts = [seeing.verdicts[row] for row in rows]
    with_image = (
        metrics[role, "image"]
        if len(rows) == len(run.questions)
        else run.benchmark.metrics(ablated.questions, verdicts)
    )
    drops = {
        name: drop(with_image[name], metric, clusters)
        for name, metric in metrics[role, condition].items()
        if name in with_image and metric.higher_is_better is not None
    }
    flipped = [
        (question, is_flipped(question, (said.said, verdict), (said_then.said, verdict_then)))
        for question, said, verdict, said_then, verdict_then in zip(
            ablated.questions, answers, verdicts, ablated.answers, ablated.verdicts, strict=True
        )
        if said is not None and said_then is not None
    ]
    return {"metrics": drops, "flip_rate": flip_rate(flipped, clusters), "n": len(rows)}


def dependency_points(
    results: Sequence[BenchmarkScores], condition: str = "none"
) -> list[dict[str, Any]]:
    """One point per benchmark: did finetuning gain most where the base depends on the image most?

    {"label", "dependency": number, "improvement": number}: what the base's headline score loses
    without an image, as a share of it, and by what share finetuning improved it. Benchmarks on
    which either is not defined are left out.

    Source: S-VCO (arXiv:2502.13928), figure 6, which shows the drop of the base without an image
    against the improvement.
    """
    points = []
    for result in results:
        name = result["headline"]
        base = result["dependency"].get(condition, {}).get("before")
        if base is None or result["difference"] is None or name not in result["difference"]:
            continue
        dependency = base["metrics"].get(name, {}).get("relative")
        improvement = result["difference"][name]["relative"]
        if dependency and improvement:
            score = result["scores"]["image"]["after"]["metrics"][name]
            if score is not None and score["higher_is_better"] is False:
                improvement = {
                    "value": -improvement["value"],
                    "low": _minus(improvement["high"]),
                    "high": _minus(improvement["low"]),
                }
            points.append(
                {"label": result["label"], "dependency": dependency, "improvement": improvement}
            )
    return points


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
