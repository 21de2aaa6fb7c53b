"""How much a score owes to the image: drops, flips, and what finetuning gained where the base
looked. Pure functions.

Two scores are compared over the same questions and the same bootstrap draws, so what they share
cancels.

Shapes: G clusters; D draws.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.parsing.parse import normalise
from eval.question import Metric, Question, Verdict
from eval.stats.intervals import FloatArray, cluster_counts, interval

Number = dict[str, float | int | None]
READABLE = ("exact", "extracted")


@dataclass(frozen=True, slots=True)
class Draws:
    """The bootstrap of one benchmark: the same draws for every score of it, so that differences are
    paired.
    """

    place: Mapping[str, int]  # of each cluster in a draw
    weights_DG: FloatArray  # how often each draw holds each cluster
    confidence: float
    # a score takes part in several comparisons
    _made: dict[int, tuple[Metric, FloatArray]] = field(default_factory=dict)

    @staticmethod
    def of(clusters: Sequence[str], num_draws: int, confidence: float, seed: int) -> "Draws":
        """The draws over these clusters; their order does not matter."""
        names = sorted(set(clusters))
        weights_DG = cluster_counts(len(names), num_draws, seed).astype(np.float64)
        return Draws({name: index for index, name in enumerate(names)}, weights_DG, confidence)

    def values(self, metric: Metric) -> FloatArray:
        """The score in every draw, [D]; NaN where a term of it has nothing to divide by."""
        if id(metric) not in self._made:
            total_D = np.zeros(len(self.weights_DG))
            for term, weight in metric.weights.items():
                units = [unit for unit in metric.units if unit.term == term]
                parts = [(unit.cluster, unit.numerator, unit.denominator) for unit in units]
                total_D += weight * self.ratios(parts)
            # with the metric, so that its id stays its own
            self._made[id(metric)] = metric, total_D
        return self._made[id(metric)][1]

    def ratios(self, parts: Sequence[tuple[str, float, float]]) -> FloatArray:
        """The ratio of sums in every draw, [D], of (cluster, numerator, denominator)."""
        places = np.array([self.place[cluster] for cluster, _, _ in parts], np.int64)
        sums_G2 = np.stack(
            [
                np.bincount(places, [part[side] for part in parts], len(self.place))
                for side in (1, 2)
            ],
            axis=1,
        )
        top_D, bottom_D = (self.weights_DG @ sums_G2).T
        return np.divide(top_D, bottom_D, out=np.full_like(top_D, np.nan), where=bottom_D > 0)

    def number(self, value: float | None, draws_D: FloatArray, num_clusters: int) -> Number | None:
        """A value with its interval; no interval where one cluster alone was seen; None where there
        is no value.
        """
        if value is None or not math.isfinite(value):
            return None
        low, high = (interval(draws_D, self.confidence) if num_clusters > 1 else None) or (
            None,
            None,
        )
        return {"value": value, "low": low, "high": high}


def scored(metric: Metric, draws: Draws) -> Number | None:
    """A score with its interval, how many units and clusters it counts, and its chance level."""
    num_clusters = len({unit.cluster for unit in metric.units})
    found = draws.number(metric.value, draws.values(metric), num_clusters)
    return found and found | {
        "n": len(metric.units),
        "num_clusters": num_clusters,
        "chance": metric.chance,
    }


def change(one: Metric, other: Metric, draws: Draws) -> Number | None:
    """`one` minus `other`, paired."""
    if one.value is None or other.value is None:
        return None
    num_clusters = len(
        {unit.cluster for unit in one.units} & {unit.cluster for unit in other.units}
    )
    return draws.number(
        one.value - other.value, draws.values(one) - draws.values(other), num_clusters
    )


def drop(seeing: Metric, ablated: Metric, draws: Draws) -> dict[str, Number | None]:
    """What a score loses with the true image.

        drop       seeing - ablated
        corrected  the same on a scale where chance is 0 and perfect is 1: (seeing - ablated) / (1 - chance)
        relative   the same as a share of the score with the image

    corrected exists for shares with a known chance level, relative where the score with the image
    is not 0. A score of which less is better drops where it rises: the signs are turned so that
    positive means "needs the image".
    """
    sign = -1.0 if seeing.higher_is_better is False else 1.0
    plain = change(seeing, ablated, draws) if sign > 0 else change(ablated, seeing, draws)
    if plain is None:
        return {"drop": None, "corrected": None, "relative": None}
    has_chance = seeing.unit == "share" and seeing.chance is not None and seeing.chance < 1.0
    corrected = (
        {
            key: None if part is None else part / (1.0 - (seeing.chance or 0.0))
            for key, part in plain.items()
        }
        if has_chance
        else None
    )
    return {
        "drop": plain,
        "corrected": corrected,
        "relative": relative_change(seeing, ablated, draws, sign=-sign),
    }


def relative_change(
    before: Metric, after: Metric, draws: Draws, sign: float = 1.0
) -> Number | None:
    """(after - before) / before, paired; turned round by `sign`; None where `before` is 0."""
    if not before.value or after.value is None:
        return None
    before_D, after_D = draws.values(before), draws.values(after)
    ratio_D = np.divide(
        after_D - before_D, before_D, out=np.full_like(before_D, np.nan), where=before_D != 0
    )
    num_clusters = len(
        {unit.cluster for unit in before.units} & {unit.cluster for unit in after.units}
    )
    return draws.number(
        sign * (after.value - before.value) / before.value, sign * ratio_D, num_clusters
    )


def flips(
    questions: Sequence[Question],
    seeing: Sequence[tuple[str, Verdict]],
    ablated: Sequence[tuple[str, Verdict]],
) -> list[bool | None]:
    """Whether each answer becomes another one when the image is exchanged; None where either cannot
    be read.

    Args:
        seeing: (response, verdict) with the true image. A free answer is compared as a text, any
            other by its verdict.
        ablated: The same under another condition.
    """
    found: list[bool | None] = []
    for question, (said, read), (said_then, read_then) in zip(
        questions, seeing, ablated, strict=True
    ):
        if question.kind == "free":
            found.append(normalise(said) != normalise(said_then))
        elif read.status in READABLE and read_then.status in READABLE:
            found.append(read.value != read_then.value)
        else:
            found.append(None)
    return found


def flip_rate(
    questions: Sequence[Question], flipped: Sequence[bool | None], draws: Draws
) -> Number | None:
    """The share of answers that change, of those that can be read under both conditions; `n` says
    how many those are.
    """
    readable = [
        (question.cluster, bool(flip))
        for question, flip in zip(questions, flipped, strict=True)
        if flip is not None
    ]
    if not readable:
        return None
    rate_D = draws.ratios([(cluster, float(flip), 1.0) for cluster, flip in readable])
    num_clusters = len({cluster for cluster, _ in readable})
    found = draws.number(sum(flip for _, flip in readable) / len(readable), rate_D, num_clusters)
    return found and found | {"n": len(readable), "num_clusters": num_clusters}
