"""How much a score owes to the image: drops, flips, and what finetuning gained. Pure functions.

Two scores are compared over the same questions and the same bootstrap draws, so what they share
cancels.

Shapes: G clusters; D draws.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from eval.parsing.parse import normalize
from eval.question import Metric, Question, Unit, Verdict
from eval.stats.intervals import cluster_counts, interval
from pipeline.core.auc import FloatArray

READABLE = ("exact", "extracted")


class Number(TypedDict):
    """A value with its interval; no interval where one cluster alone was seen."""

    value: float
    low: float | None
    high: float | None


class FlipRate(Number):
    """A number, and over how many units and clusters."""

    n: int
    num_clusters: int


class ScoredNumber(FlipRate):
    """A score with its chance level, None where that is not defined."""

    chance: float | None


@dataclass(frozen=True, slots=True)
class Draws:
    """The bootstrap of one benchmark, the same draws for every score: differences are paired."""

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
                parts = [
                    (unit.cluster, unit.numerator, unit.denominator)
                    for unit in metric.units
                    if unit.term == term
                ]
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
        """A value with its interval; None where there is no value."""
        if value is None or not math.isfinite(value):
            return None
        drawn = interval(draws_D, self.confidence) if num_clusters > 1 else None
        low, high = drawn or (None, None)
        return {"value": value, "low": low, "high": high}


def scored(metric: Metric, draws: Draws) -> ScoredNumber | None:
    """A score with its interval, how many units and clusters it counts, and its chance level."""
    num_clusters = len({unit.cluster for unit in metric.units})
    number = draws.number(metric.value, draws.values(metric), num_clusters)
    if number is None:
        return None
    return {**number, "n": len(metric.units), "num_clusters": num_clusters, "chance": metric.chance}


def _num_shared_clusters(left: Metric, right: Metric) -> int:
    return len({unit.cluster for unit in left.units} & {unit.cluster for unit in right.units})


def change(minuend: Metric, subtrahend: Metric, draws: Draws) -> Number | None:
    """`minuend` minus `subtrahend`, paired."""
    if minuend.value is None or subtrahend.value is None:
        return None
    changes_D = draws.values(minuend) - draws.values(subtrahend)
    shared = _num_shared_clusters(minuend, subtrahend)
    return draws.number(minuend.value - subtrahend.value, changes_D, shared)


def drop(seeing: Metric, ablated: Metric, draws: Draws) -> dict[str, Number | None]:
    """What a score loses with the true image.

        drop       seeing - ablated
        corrected  drop / (1 - chance), on a scale where chance is 0 and perfect is 1
        relative   the same as a share of the score with the image

    corrected exists for shares with a known chance level, relative where the score with the image
    is not 0. A score of which less is better drops where it rises: the signs are turned so that
    positive means "needs the image".
    """
    sign = -1.0 if seeing.higher_is_better is False else 1.0
    plain = change(seeing, ablated, draws) if sign > 0 else change(ablated, seeing, draws)
    if plain is None:
        return {"drop": None, "corrected": None, "relative": None}
    corrected: Number | None = None
    if seeing.unit == "share" and seeing.chance is not None and seeing.chance < 1.0:
        room = 1.0 - seeing.chance
        low, high = (None if end is None else end / room for end in (plain["low"], plain["high"]))
        corrected = {"value": plain["value"] / room, "low": low, "high": high}
    relative = relative_change(seeing, ablated, draws, sign=-sign)
    return {"drop": plain, "corrected": corrected, "relative": relative}


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
    ratio = sign * (after.value - before.value) / before.value
    return draws.number(ratio, sign * ratio_D, _num_shared_clusters(before, after))


def is_flipped(
    question: Question, seeing: tuple[str, Verdict], ablated: tuple[str, Verdict]
) -> bool | None:
    """Whether an answer becomes another one when the image is exchanged.

    None where either cannot be read.

    Args:
        seeing: (response, verdict) with the true image. A free answer is compared as a text, any
            other by its verdict.
        ablated: The same under another condition.
    """
    (said, read), (said_then, read_then) = seeing, ablated
    if question.kind == "free":
        return normalize(said) != normalize(said_then)
    is_readable = read.status in READABLE and read_then.status in READABLE
    return read.value != read_then.value if is_readable else None


def flip_rate(flipped: Sequence[tuple[Question, bool | None]], draws: Draws) -> FlipRate | None:
    """The share of answers that change, of the `n` that can be read under both conditions."""
    units = tuple(
        Unit(question.item_id, question.cluster, float(flip))
        for question, flip in flipped
        if flip is not None
    )
    number = scored(Metric(units=units, chance=None), draws)
    if number is None:
        return None
    return {
        "value": number["value"],
        "low": number["low"],
        "high": number["high"],
        "n": number["n"],
        "num_clusters": number["num_clusters"],
    }
