"""Is one model better than another, or was it luck? Tests on paired outcomes. Pure functions.

Without a difference it is a matter of chance which of two models did better in a cluster (an image,
a pair, a person). So the difference is held against those that arise when the signs of the
clusters' own differences are flipped. Where every question is a cluster and right or wrong this is
McNemar's test, which is computed exactly. Several tests are several chances to be lucky: Holm's
procedure bounds the chance of a single false claim among all of them.

Shapes: G clusters; F flips; M differences.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal

import numpy as np

from eval.question import Metric
from eval.stats.dependency import Clusters, Number, change
from pipeline.core.intervals import MIN_GROUPS, FloatArray

Test = Literal["mcnemar", "sign_flips"]

MAX_EXACT = 12  # so many clusters that differ have all their flips tried, 4,096
NUM_FLIPS = 4_999
_FLIPS_AT_ONCE = 500  # bounds the memory: 500 flips x 10,000 clusters are 40 MB


class TestedDifference(Number):
    """One score of a model minus that of another over the same questions.

    num_better / num_worse: units on which only this model, or only the other, does well; None where
    scores are no yes or no. p: two-sided, of `test`; None below six clusters, where nothing can be
    tested. p_holm and significant are what `adjust` makes of several differences.
    """

    num_clusters: int
    p: float | None
    p_holm: float | None
    test: Test
    num_better: int | None
    num_worse: int | None
    significant: bool


def mcnemar(num_better: int, num_worse: int) -> float:
    """The exact two-sided p of McNemar's test: a fair coin for each unit on which models differ.

        8 and 2  ->  2 (1 + 10 + 45) / 2^10 = 0.109375
        0 and 0  ->  1

    Source: McNemar, Psychometrika 12 (1947); the exact form is the sign test on discordant pairs.
    """
    from scipy.stats import binomtest

    num = num_better + num_worse
    return float(binomtest(num_better, num).pvalue) if num else 1.0


def sign_flip_p(
    differences_GM: FloatArray, num_flips: int = NUM_FLIPS, seed: int = 0
) -> FloatArray:
    """Two-sided p of no difference, [M]: how often flipped signs make a sum as far from 0.

    All flips are tried of up to 12 clusters that differ at all, beyond them `num_flips` random ones
    and the one that was seen.

        six clusters, all better  ->  2 / 2^6 = 0.03125, the least that six can say
    """
    held_GM = differences_GM[(differences_GM != 0.0).any(axis=1)]
    num = len(held_GM)
    # what differs by rounding alone is as far
    seen_M = np.abs(held_GM.sum(axis=0)) - 1e-9 * np.abs(held_GM).sum(axis=0)
    generator = np.random.default_rng(seed) if num > MAX_EXACT else None
    total = num_flips if generator else 2**num
    as_far_M = np.zeros(held_GM.shape[1], np.int64)
    for first in range(0, total, _FLIPS_AT_ONCE):
        flips_F = np.arange(first, min(first + _FLIPS_AT_ONCE, total))
        bits_FG = (
            generator.integers(0, 2, (len(flips_F), num), np.int8)
            if generator
            else flips_F[:, None] >> np.arange(num) & 1
        )
        as_far_M += (np.abs((1.0 - 2.0 * bits_FG) @ held_GM) >= seen_M).sum(axis=0)
    return (as_far_M + 1) / (total + 1) if generator else as_far_M / total


def least_p(num_clusters: int) -> float:
    """The least p that so many clusters can give, all for one side: 6 -> 2 / 2^6 = 0.03125."""
    return 2.0 ** (1 - num_clusters)


def exchangeable(minuend: Metric, subtrahend: Metric, clusters: Clusters) -> FloatArray:
    """The part of each cluster in a difference, [G]; models exchanged turn every sign round.

    Their sum is the difference. Where models count other things (claims), each is held against the
    mean of both ratios, so that a cluster in which one of them counts more is no difference.
    """
    total_G = np.zeros(len(clusters.place))
    for term, weight in minuend.weights.items():
        ours, theirs = clusters.sums(minuend, term), clusters.sums(subtrahend, term)
        middle = (ours[0].sum() / ours[1].sum() + theirs[0].sum() / theirs[1].sum()) / 2.0
        for (top_G, bottom_G), sign in ((ours, 1.0), (theirs, -1.0)):
            total_G += sign * weight * (top_G - middle * bottom_G) / bottom_G.sum()
    return total_G


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values: of claims with one below 0.05 the chance that any is false is below 5 %.

    {"a": 0.01, "b": 0.04, "c": 0.03}  ->  {"a": 0.03, "b": 0.06, "c": 0.06}

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    names = sorted(p_values, key=lambda name: p_values[name])
    raised = (
        min(1.0, p_values[name] * num)
        for num, name in zip(range(len(names), 0, -1), names, strict=True)
    )
    return dict(zip(names, accumulate(raised, max), strict=True))


def outcomes(metric: Metric) -> dict[str, bool] | None:
    """Right or wrong by unit, or None where a score is a weighted mean or counts in parts."""
    if len(metric.weights) != 1 or any(
        unit.denominator != 1.0 or unit.numerator not in (0.0, 1.0) for unit in metric.units
    ):
        return None
    return {unit.unit_id: unit.numerator == 1.0 for unit in metric.units}


def difference(
    minuend: Metric,
    subtrahend: Metric,
    clusters: Clusters,
    *,
    num_flips: int = NUM_FLIPS,
    seed: int = 0,
) -> TestedDifference | None:
    """`minuend` minus `subtrahend`, paired; None where either has no value.

    The test is McNemar's where every unit is a cluster of its own and right or wrong, otherwise
    signs of clusters are flipped.
    """
    left, right = clusters.estimate(minuend), clusters.estimate(subtrahend)
    number = change(minuend, subtrahend, clusters)
    if left is None or right is None or number is None:
        return None
    tested: TestedDifference = {
        **number,
        "num_clusters": left.minus(right).num_groups,
        "p": None,
        "p_holm": None,
        "test": "sign_flips",
        "num_better": None,
        "num_worse": None,
        "significant": False,
    }
    ours, theirs = outcomes(minuend), outcomes(subtrahend)
    if ours is not None and theirs is not None:
        shared = ours.keys() & theirs.keys()
        good = minuend.higher_is_better is not False
        tested["num_better"] = sum(ours[unit] == good != theirs[unit] for unit in shared)
        tested["num_worse"] = sum(theirs[unit] == good != ours[unit] for unit in shared)
        is_apart = ours.keys() == theirs.keys() and all(
            len({unit.cluster for unit in metric.units}) == len(metric.units)
            for metric in (minuend, subtrahend)
        )
        tested["test"] = "mcnemar" if is_apart else "sign_flips"
    if tested["num_clusters"] < MIN_GROUPS:
        return tested
    better, worse = tested["num_better"], tested["num_worse"]
    if tested["test"] == "mcnemar" and better is not None and worse is not None:
        tested["p"] = mcnemar(better, worse)
    else:
        parts_G = exchangeable(minuend, subtrahend, clusters)
        tested["p"] = float(sign_flip_p(parts_G[:, None], num_flips, seed)[0])
    return tested


def adjust(tested: Sequence[TestedDifference], level: float) -> None:
    """Enters the p values adjusted over all differences that are tested together, and a verdict."""
    raw = {str(place): claim["p"] for place, claim in enumerate(tested)}
    for place, p in holm({name: p for name, p in raw.items() if p is not None}).items():
        tested[int(place)]["p_holm"] = p
        tested[int(place)]["significant"] = p <= level


def average_relative_improvement(
    base: Mapping[str, float], other: Mapping[str, float], lower_is_better: frozenset[str]
) -> float | None:
    """The mean over the shared columns of (other - base) / base; None without a column.

    The sign is turned where lower is better. The mean weighs a change by how low the base scores,
    chance included: from 21 to 25 % counts as much as from 59 to 70 %.

    Source: S-VCO (arXiv:2502.13928), last column of table 1; every row there is reproduced by this
    to 0.01.
    """
    changes = [
        (other[name] - value) / value * (-1.0 if name in lower_is_better else 1.0)
        for name, value in base.items()
        if name in other and value != 0
    ]
    return math.fsum(changes) / len(changes) if changes else None
