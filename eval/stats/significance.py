"""Is one model better than another, or was it luck? Tests on paired outcomes. Pure functions.

McNemar's test asks whether the questions on which exactly one of two models is right favour one of
them; it takes questions as independent. Where several questions share an image or a pair they are
not, and the bootstrap over clusters is the test. Several benchmarks are several chances to be
lucky: Holm's procedure bounds the chance of a single false claim among all of them.

Shapes: D draws.
"""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal

import numpy as np

from eval.question import Metric
from eval.stats.dependency import Draws, Number, change
from pipeline.core.auc import FloatArray

Test = Literal["mcnemar", "bootstrap"]


class TestedDifference(Number):
    """One score of a model minus that of another over the same questions.

    num_better / num_worse: units on which only this model, or only the other, does well; None where
    scores are no yes or no. p: two-sided, of `test`; None where nothing can be tested (one
    cluster). p_holm and significant are what `adjust` makes of several differences.
    """

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


def bootstrap_p(differences_D: FloatArray) -> float | None:
    """Two-sided p from bootstrap draws of a difference.

    Twice the smaller share of draws on one side of 0, one draw added to each.

    999 draws, all above 0  ->  2 (0 + 1) / 1000 = 0.002
    """
    held_D = differences_D[np.isfinite(differences_D)]
    if held_D.size == 0:
        return None
    fewer = min(int((held_D <= 0).sum()), int((held_D >= 0).sum()))
    return min(1.0, 2.0 * (fewer + 1) / (held_D.size + 1))


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


def difference(minuend: Metric, subtrahend: Metric, draws: Draws) -> TestedDifference | None:
    """`minuend` minus `subtrahend`, paired; None where either has no value.

    The test is McNemar's where every unit is a cluster of its own and right or wrong, otherwise the
    bootstrap.
    """
    number = change(minuend, subtrahend, draws)
    if number is None:
        return None
    ours, theirs = outcomes(minuend), outcomes(subtrahend)
    tested: TestedDifference = {
        **number,
        "p": None,
        "p_holm": None,
        "test": "bootstrap",
        "num_better": None,
        "num_worse": None,
        "significant": False,
    }
    if ours is not None and theirs is not None:
        shared = ours.keys() & theirs.keys()
        good = minuend.higher_is_better is not False
        better = sum(ours[unit] == good != theirs[unit] for unit in shared)
        worse = sum(theirs[unit] == good != ours[unit] for unit in shared)
        tested["num_better"], tested["num_worse"] = better, worse
        if len({unit.cluster for unit in minuend.units}) == len(minuend.units):
            tested["test"], tested["p"] = "mcnemar", mcnemar(better, worse)
            return tested
    if number["low"] is not None:
        tested["p"] = bootstrap_p(draws.values(minuend) - draws.values(subtrahend))
    return tested


def adjust(differences: Mapping[str, TestedDifference | None], level: float) -> None:
    """Enters the p values of one model adjusted over its scores, and what they say."""
    tested = {key: entry for key, entry in differences.items() if entry is not None}
    adjusted = holm({key: entry["p"] for key, entry in tested.items() if entry["p"] is not None})
    for key, p in adjusted.items():
        tested[key]["p_holm"] = p
        tested[key]["significant"] = p <= level


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
