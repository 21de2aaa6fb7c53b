"""How much a score owes to the image: drops, flips, and what finetuning gained. Pure functions.

Two scores are compared over the same questions and cluster by cluster, so what they share cancels.

Shapes: G clusters.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from eval.parsing.parse import normalize
from eval.question import Metric, Question, Unit, Verdict
from pipeline.core.intervals import (
    SHARE,
    SHARE_DIFFERENCE,
    UNBOUNDED,
    Estimate,
    FloatArray,
    ratio_estimate,
)

READABLE = ("exact", "extracted")


class Number(TypedDict):
    """A value with its interval; no interval where fewer than six clusters were seen."""

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
class Clusters:
    """What is left out as one when a benchmark's intervals are made: pairs, images, people."""

    place: Mapping[str, int]
    confidence: float

    @staticmethod
    def of(clusters: Iterable[str], confidence: float) -> "Clusters":
        """These clusters; their order does not matter."""
        return Clusters(
            {name: index for index, name in enumerate(sorted(set(clusters)))}, confidence
        )

    def sums(self, metric: Metric, term: str) -> tuple[FloatArray, FloatArray]:
        """Numerator and denominator of one term of a score in each cluster, [G] each."""
        units = [unit for unit in metric.units if unit.term == term]
        places = np.array([self.place[unit.cluster] for unit in units], np.int64)
        num = len(self.place)
        return (
            np.bincount(places, [unit.numerator for unit in units], num).astype(float),
            np.bincount(places, [unit.denominator for unit in units], num).astype(float),
        )

    def estimate(self, metric: Metric) -> Estimate | None:
        """A score with what each cluster does to it; None where it is not defined."""
        value, scale = metric.value, math.fsum(map(abs, metric.weights.values()))
        if value is None or not math.isfinite(value) or not scale:
            return None
        pulls_G, shares_G = np.zeros(len(self.place)), np.zeros(len(self.place))
        for term, weight in metric.weights.items():
            part = ratio_estimate(*self.sums(metric, term))
            assert part is not None  # else the metric has no value
            pulls_G += weight * part.pulls_G
            shares_G += abs(weight) / scale * part.shares_G
        return Estimate(value, pulls_G, shares_G)

    def number(
        self, estimate: Estimate | None, bounds: tuple[float, float] = UNBOUNDED
    ) -> Number | None:
        """A value with its interval; None where there is no value."""
        if estimate is None:
            return None
        low, high = estimate.interval(self.confidence, bounds) or (None, None)
        return {"value": estimate.value, "low": low, "high": high}


def scored(metric: Metric, clusters: Clusters) -> ScoredNumber | None:
    """A score with its interval, how many units and clusters it counts, and its chance level."""
    estimate = clusters.estimate(metric)
    number = clusters.number(estimate, SHARE if metric.unit == "share" else UNBOUNDED)
    if estimate is None or number is None:
        return None
    return {
        **number,
        "n": len(metric.units),
        "num_clusters": estimate.num_groups,
        "chance": metric.chance,
    }


def change(minuend: Metric, subtrahend: Metric, clusters: Clusters) -> Number | None:
    """`minuend` minus `subtrahend`, paired."""
    left, right = clusters.estimate(minuend), clusters.estimate(subtrahend)
    if left is None or right is None:
        return None
    bounds = SHARE_DIFFERENCE if minuend.unit == "share" else UNBOUNDED
    return clusters.number(left.minus(right), bounds)


def drop(seeing: Metric, ablated: Metric, clusters: Clusters) -> dict[str, Number | None]:
    """What a score loses with the true image.

        drop       seeing - ablated
        corrected  drop / (1 - chance), on a scale where chance is 0 and perfect is 1
        relative   the same as a share of the score with the image

    corrected exists for shares with a known chance level, relative where the score with the image
    is not 0. A score of which less is better drops where it rises: the signs are turned so that
    positive means "needs the image".
    """
    sign = -1.0 if seeing.higher_is_better is False else 1.0
    plain = change(seeing, ablated, clusters) if sign > 0 else change(ablated, seeing, clusters)
    if plain is None:
        return {"drop": None, "corrected": None, "relative": None}
    corrected: Number | None = None
    if seeing.unit == "share" and seeing.chance is not None and seeing.chance < 1.0:
        room = 1.0 - seeing.chance
        low, high = (None if end is None else end / room for end in (plain["low"], plain["high"]))
        corrected = {"value": plain["value"] / room, "low": low, "high": high}
    relative = relative_change(seeing, ablated, clusters, sign=-sign)
    return {"drop": plain, "corrected": corrected, "relative": relative}


def relative_change(
    before: Metric, after: Metric, clusters: Clusters, sign: float = 1.0
) -> Number | None:
    """(after - before) / before, paired; turned round by `sign`; None where `before` is 0."""
    if not before.value or after.value is None:
        return None
    old, new = clusters.estimate(before), clusters.estimate(after)
    if old is None or new is None:
        return None
    return clusters.number(new.relative_to(old).times(sign))


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


def flip_rate(
    flipped: Sequence[tuple[Question, bool | None]], clusters: Clusters
) -> FlipRate | None:
    """The share of answers that change, of the `n` that can be read under both conditions."""
    units = tuple(
        Unit(question.item_id, question.cluster, float(flip))
        for question, flip in flipped
        if flip is not None
    )
    number = scored(Metric(units=units, chance=None), clusters)
    if number is None:
        return None
    return {
        "value": number["value"],
        "low": number["low"],
        "high": number["high"],
        "n": number["n"],
        "num_clusters": number["num_clusters"],
    }
