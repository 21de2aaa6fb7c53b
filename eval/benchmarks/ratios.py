"""Scores as ratios over questions, pairs or other units; what counts as right, wrong or neither."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal

from eval.question import Metric, Question, Unit, Verdict


def chance_of(question: Question) -> float:
    """How often a guess among the offered answers is right; 0 where answers are open."""
    if question.kind == "choice":
        return 1.0 / max(1, len(question.choices))
    return 0.5 if question.kind == "yes_no" else 0.0


def equals_truth(question: Question, verdict: Verdict) -> float | None:
    """1 if the answer says the truth, otherwise 0, also if unreadable; None if nobody judged."""
    if verdict.status == "missing":
        return None
    return float(verdict.value is not None and verdict.value == question.truth)


def mean_score(
    questions: Sequence[Question],
    scores: Sequence[float | None],
    *,
    chance: Callable[[Question], float] | None = chance_of,
    unit: Literal["share", "points"] = "share",
    higher_is_better: bool | None = True,
) -> Metric:
    """The mean over the questions that have a score; chance is the mean over the same questions."""
    kept = [
        (question, score)
        for question, score in zip(questions, scores, strict=True)
        if score is not None
    ]
    units = tuple(Unit(question.item_id, question.cluster, score) for question, score in kept)
    return Metric(
        units=units,
        chance=_mean([chance(question) for question, _ in kept]) if chance else None,
        unit=unit,
        higher_is_better=higher_is_better,
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def all_right(
    questions: Sequence[Question],
    scores: Sequence[float | None],
    unit_of: Callable[[Question], Hashable],
) -> Metric:
    """The share of units (pairs, figures) whose every question is right.

    A unit with a missing judgement is left out. All questions of a unit must share a cluster.
    Chance is the product over a unit's questions, averaged over units.
    """
    members: dict[Hashable, list[tuple[Question, float | None]]] = defaultdict(list)
    for question, score in zip(questions, scores, strict=True):
        members[unit_of(question)].append((question, score))
    judged = {
        str(name): asked
        for name, asked in members.items()
        if all(score is not None for _, score in asked)
    }
    units = tuple(
        Unit(name, asked[0][0].cluster, float(all(score == 1.0 for _, score in asked)))
        for name, asked in judged.items()
    )
    levels = [math.prod(chance_of(question) for question, _ in asked) for asked in judged.values()]
    return Metric(units=units, chance=_mean(levels))


def weighted(parts: Sequence[tuple[str, float, Metric]]) -> Metric:
    """The weighted sum of plain ratios, apart as terms, so that a draw resamples all at once."""
    units = tuple(replace(unit, term=term) for term, _, metric in parts for unit in metric.units)
    levels = [weight * metric.chance for _, weight, metric in parts if metric.chance is not None]
    chance = math.fsum(levels) if len(levels) == len(parts) else None
    return replace(
        parts[0][2], units=units, chance=chance, weights={term: weight for term, weight, _ in parts}
    )


def by_slice(
    prefix: str,
    questions: Sequence[Question],
    scores: Sequence[float | None],
    slice_of: Callable[[Question], str],
) -> dict[str, Metric]:
    """`prefix/NAME` -> the mean score of each slice, in the order in which they first occur."""
    slices = defaultdict(list)
    for row, question in enumerate(questions):
        slices[f"{prefix}/{slice_of(question)}"].append(row)
    return {
        name: mean_score([questions[row] for row in rows], [scores[row] for row in rows])
        for name, rows in slices.items()
    }
