"""Scores as ratios over questions, pairs or other units; what a missing judgement or an unreadable
answer counts.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

from eval.question import Metric, Question, Unit, Verdict


def chance_of(question: Question) -> float:
    """How often a guess among the offered answers is right; 0 where answers are open."""
    if question.kind == "choice":
        return 1.0 / max(1, len(question.choices))
    return 0.5 if question.kind == "yes_no" else 0.0


def equals_truth(question: Question, verdict: Verdict) -> float | None:
    """1 if the answer says the truth, 0 if it says anything else or nothing that can be read; None
    if nobody judged.
    """
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
    level = (
        None
        if chance is None or not kept
        else math.fsum(chance(question) for question, _ in kept) / len(kept)
    )
    return Metric(units=units, chance=level, unit=unit, higher_is_better=higher_is_better)


def all_right(
    questions: Sequence[Question],
    scores: Sequence[float | None],
    unit_of: Callable[[Question], Hashable],
) -> Metric:
    """The share of units (pairs, figures) whose every question is right; a unit with a missing
    judgement is left out.

    All questions of a unit must share a cluster. Chance is the product over a unit's questions,
    averaged over units.
    """
    members: dict[Hashable, list[tuple[Question, float | None]]] = {}
    for question, score in zip(questions, scores, strict=True):
        members.setdefault(unit_of(question), []).append((question, score))
    units, levels = [], []
    for name, held in members.items():
        if any(score is None for _, score in held):
            continue
        units.append(
            Unit(str(name), held[0][0].cluster, float(all(score == 1.0 for _, score in held)))
        )
        levels.append(math.prod(chance_of(question) for question, _ in held))
    return Metric(units=tuple(units), chance=math.fsum(levels) / len(levels) if levels else None)


def weighted(parts: Sequence[tuple[str, float, Metric]]) -> Metric:
    """The weighted sum of plain ratios, kept apart as terms so that a draw can resample all of them
    at once.
    """
    units = tuple(
        Unit(unit.unit_id, unit.cluster, unit.numerator, unit.denominator, term)
        for term, _, metric in parts
        for unit in metric.units
    )
    levels = [metric.chance for _, _, metric in parts]
    known = [level for level in levels if level is not None]
    weights = {term: weight for term, weight, _ in parts}
    chance = (
        math.fsum(weight * level for weight, level in zip(weights.values(), known, strict=True))
        if len(known) == len(parts)
        else None
    )
    return Metric(
        units=units,
        chance=chance,
        weights=weights,
        unit=parts[0][2].unit,
        higher_is_better=parts[0][2].higher_is_better,
    )


def by_slice(
    prefix: str,
    questions: Sequence[Question],
    scores: Sequence[float | None],
    slice_of: Callable[[Question], str],
) -> dict[str, Metric]:
    """`prefix/NAME` -> the mean score of each slice, in the order in which the slices first occur."""
    names = dict.fromkeys(slice_of(question) for question in questions)
    found = {}
    for name in names:
        inside = [slice_of(question) == name for question in questions]
        held = [question for question, kept in zip(questions, inside, strict=True) if kept]
        found[f"{prefix}/{name}"] = mean_score(
            held, [score for score, kept in zip(scores, inside, strict=True) if kept]
        )
    return found
