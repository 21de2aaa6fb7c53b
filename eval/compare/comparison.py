"""Several models over the same questions: their scores, and what differs by more than luck.

Every named model is compared with every other one, or all with one, and each with the one that it
was finetuned from. Values in, plain values out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

from eval.compare.columns import Column, columns_of, metrics_of
from eval.compare.runs import (
    Answered,
    Run,
    restricted,
    said_differently,
    shared_items,
)
from eval.parsing.parse import status_rates
from eval.question import Metric
from eval.stats.dependency import Clusters, Number, ScoredNumber, drop, relative_change, scored
from eval.stats.significance import (
    TestedDifference,
    adjust,
    average_relative_improvement,
    difference,
    least_p,
)
from pipeline.core.intervals import MIN_GROUPS, caution
from pipeline.core.recipe import UserError

ASKED_OTHERWISE = {
    "prompt": "asked in other words",
    "truth": "graded by other truths",
    "image": "shown other images",
}


class ModelName(TypedDict):
    """A compared model: its short label, and where it lies."""

    label: str
    model: str


class Pairing(TypedDict):
    """One model minus another, by the key of the column."""

    minuend: str
    subtrahend: str
    differences: dict[str, TestedDifference | None]


class Comparison(TypedDict):
    """The whole comparison as it is written: models by label, scores by the key of their column.

    unreadable: The share of answers that could not be read, by model and benchmark.
    average: The paper's average relative improvement over the first model.
    pairings: All that is tested; p is adjusted by Holm over all of it together.
    num_tested: Over how many differences that is.
    differences: Each model minus the first, of the pairings.
    dependency: The share of the first model's score that it loses without images.
    improvement: By what share another model scores better than the first. Both are positive where
        the image is needed and the model is better; the paper's figure 6 shows one against the
        other.
    """

    models: list[ModelName]
    columns: list[Column]
    scores: dict[str, dict[str, ScoredNumber | None]]
    unreadable: dict[str, dict[str, float]]
    average: dict[str, float | None]
    pairings: list[Pairing]
    num_tested: int
    differences: dict[str, dict[str, TestedDifference | None]]
    dependency: dict[str, Number | None]
    improvement: dict[str, dict[str, Number | None]]
    notes: list[str]


def compare_runs(
    runs: Sequence[Run],
    pairs: Sequence[tuple[str, str]],
    *,
    num_draws: int,
    confidence: float,
    seed: int,
) -> Comparison:
    """The whole comparison.

    Args:
        runs: The models; shares and averages are of the first.
        pairs: The labels of those to compare, the one that is subtracted second.

    Raises:
        UserError: Fewer than two models, or no benchmark that all of them answered.
    """
    if len(runs) < 2:
        raise UserError(
            "expected at least two models to compare, got one; give another folder, or one"
            " evaluated with its base"
        )
    notes: list[str] = []
    aligned = {
        label: answers
        for label in _labels(runs, notes)
        if (answers := _aligned(label, runs, notes)) is not None
    }
    if not aligned:
        raise UserError(
            "no benchmark was answered by all of these models; evaluate them on the same benchmarks"
        )
    metrics = {label: [_metrics(answered) for answered in of] for label, of in aligned.items()}
    columns = columns_of(aligned, metrics, notes)
    of_models = {column["key"]: metrics_of(column["key"], metrics) for column in columns}
    names = [run.label for run in runs]
    comparison = _empty(runs, pairs, columns, of_models, aligned, notes)
    # enough flips that the least p can be significant among as many tests
    num_flips = max(num_draws, math.ceil(2 * len(pairs) * len(columns) / (1.0 - confidence)))
    num_clusters = dict[str, int]()
    for label, answers in aligned.items():
        clusters = Clusters.of((question.cluster for question in answers[0].questions), confidence)
        num_clusters[label] = len(clusters.place)
        if warning := caution(num_clusters[label], "clusters (images, pairs or people)"):
            notes.append(f"{label}: {warning}")
        for key in (key for key in of_models if key.startswith(f"{label}/")):
            by_name = dict(zip(names, of_models[key], strict=True))
            dependency = _dependency(key, answers[0], runs[0].unseeing.get(label), clusters)
            comparison["dependency"][key] = dependency
            _enter_scores(comparison, key, by_name, clusters)
            _enter_differences(comparison, key, by_name, clusters, num_flips, seed)
    _adjust(comparison, 1.0 - confidence)
    notes += _never_significant(num_clusters, comparison["num_tested"], 1.0 - confidence)
    return comparison


def _never_significant(
    num_clusters: Mapping[str, int], num_tested: int, level: float
) -> Iterator[str]:
    """Of which benchmarks no difference can be significant among so many tests, and what can be."""
    for label, num in num_clusters.items():
        if num >= MIN_GROUPS and least_p(num) * num_tested > level:
            yield (
                f"{label}: {num} clusters give no p below {least_p(num):.2g}, so none of"
                f" {num_tested} tests can be significant; that takes"
                f" {math.ceil(1.0 + math.log2(num_tested / level))} clusters, or fewer tests at"
                " once"
            )


def _empty(
    runs: Sequence[Run],
    pairs: Sequence[tuple[str, str]],
    columns: list[Column],
    of_models: Mapping[str, Sequence[Metric]],
    aligned: Mapping[str, Sequence[Answered]],
    notes: list[str],
) -> Comparison:
    """What is known before any score is entered."""
    names = [run.label for run in runs]
    return {
        "models": [{"label": run.label, "model": run.model} for run in runs],
        "columns": columns,
        "scores": {name: {} for name in names},
        "unreadable": {
            name: {label: _unreadable(of[place]) for label, of in aligned.items()}
            for place, name in enumerate(names)
        },
        "average": {
            name: _average(columns, of_models, place, name, notes)
            for place, name in enumerate(names)
        },
        "pairings": [
            {"minuend": minuend, "subtrahend": subtrahend, "differences": {}}
            for minuend, subtrahend in pairs
        ],
        "num_tested": 0,
        "differences": {},
        "dependency": {},
        "improvement": {name: {} for name in names[1:]},
        "notes": notes,
    }


def _enter_scores(
    comparison: Comparison, key: str, by_name: Mapping[str, Metric], clusters: Clusters
) -> None:
    """Every model's score, and of all but the first by what share it is better than the first's."""
    base = next(iter(by_name.values()))
    sign = -1.0 if base.higher_is_better is False else 1.0
    for name, metric in by_name.items():
        comparison["scores"][name][key] = scored(metric, clusters)
        if name in comparison["improvement"]:
            comparison["improvement"][name][key] = relative_change(
                base, metric, clusters, sign=sign
            )


def _enter_differences(
    comparison: Comparison,
    key: str,
    by_name: Mapping[str, Metric],
    clusters: Clusters,
    num_flips: int,
    seed: int,
) -> None:
    for pairing in comparison["pairings"]:
        pairing["differences"][key] = difference(
            by_name[pairing["minuend"]],
            by_name[pairing["subtrahend"]],
            clusters,
            num_flips=num_flips,
            seed=seed,
        )


def _adjust(comparison: Comparison, level: float) -> None:
    """Enters what Holm makes of all p values together."""
    tested = [
        entry
        for pairing in comparison["pairings"]
        for entry in pairing["differences"].values()
        if entry is not None
    ]
    adjust(tested, level)
    comparison["num_tested"] = sum(entry["p"] is not None for entry in tested)
    first = comparison["models"][0]["label"]
    comparison["differences"] = {
        pairing["minuend"]: pairing["differences"]
        for pairing in comparison["pairings"]
        if pairing["subtrahend"] == first
    }


def _labels(runs: Sequence[Run], notes: list[str]) -> list[str]:
    everywhere = [label for label in runs[0].answered if all(label in run.answered for run in runs)]
    for label in dict.fromkeys(label for run in runs for label in run.answered):
        if label not in everywhere:
            lacking = ", ".join(run.label for run in runs if label not in run.answered)
            notes.append(f"{label}: not answered by {lacking}; left out")
    return everywhere


def _aligned(label: str, runs: Sequence[Run], notes: list[str]) -> list[Answered] | None:
    """Each run's answers over the questions that all have; notes what is not comparable."""
    answers = [run.answered[label] for run in runs]
    items = shared_items(answers)
    sizes = [len(answered.questions) for answered in answers]
    if any(size != len(items) for size in sizes):
        counts = ", ".join(f"{run.label} {size:,}" for run, size in zip(runs, sizes, strict=True))
        notes.append(
            f"{label}: the models answered different questions ({counts}); compared over the"
            f" {len(items):,} that all answered"
        )
    if not items:
        notes.append(f"{label}: no question in common; left out")
        return None
    for name, count in said_differently(answers, items).items():
        if count:
            notes.append(
                f"{label}: {count:,} of {len(items):,} questions were {ASKED_OTHERWISE[name]}; the"
                " scores are not strictly comparable"
            )
    for name in dict.fromkeys(name for answered in answers for name in answered.settings):
        values = [answered.settings.get(name) for answered in answers]
        if any(value != values[0] for value in values):
            shown = ", ".join(
                f"{run.label} {value!r}" for run, value in zip(runs, values, strict=True)
            )
            notes.append(f"{label}: scored under different settings, {name}: {shown}")
    unjudged = {
        question.item_id
        for answered in answers
        for question, verdict in zip(answered.questions, answered.verdicts, strict=True)
        if verdict.status == "missing" and question.item_id in items
    }
    if unjudged:
        notes.append(
            f"{label}: {len(unjudged):,} of {len(items):,} answers have no judgement in at least"
            " one model; left out of all"
        )
    return [restricted(answered, items, unjudged) for answered in answers]


def _metrics(answered: Answered) -> dict[str, Metric]:
    return answered.benchmark.metrics(answered.questions, answered.verdicts)


def _dependency(
    key: str, seeing: Answered, unseeing: Answered | None, clusters: Clusters
) -> Number | None:
    """The share of a score that is lost without images, over the questions asked both ways."""
    items = shared_items([seeing, unseeing]) if unseeing else set()
    if not unseeing or not items:
        return None
    with_image, without = (
        _metrics(restricted(answered, items, set()))[key.partition("/")[2]]
        for answered in (seeing, unseeing)
    )
    return drop(with_image, without, clusters)["relative"]


def _unreadable(run: Answered) -> float:
    rates = status_rates(run.verdicts)
    return rates.get("failed", 0.0) + rates.get("ambiguous", 0.0)


def _average(
    columns: Sequence[Column],
    of_models: Mapping[str, Sequence[Metric]],
    place: int,
    model: str,
    notes: list[str],
) -> float | None:
    counted = {column["key"]: column for column in columns if column["in_average"]}
    base, other = (
        {key: value for key in counted if (value := of_models[key][which].value) is not None}
        for which in (0, place)
    )
    unusable = [
        column["heading"]
        for key, column in counted.items()
        if not base.get(key) or key not in other
    ]
    if unusable and place > 0:
        notes.append(
            f"{model}: {', '.join(unusable)} not in its average (no score, or nothing to divide by)"
        )
    lower = frozenset(key for key in counted if counted[key]["higher_is_better"] is False)
    return average_relative_improvement(base, other, lower)
