"""Is one model better than another, or was it luck? Tests on paired outcomes. Pure functions.

McNemar's test asks whether the questions on which exactly one of two models is right favour one of
them; it takes questions as independent. Where several questions share an image or a pair they are
not, and the bootstrap over clusters is the test. Several benchmarks are several chances to be
lucky: Holm's procedure bounds the chance of a single false claim among all of them.

Shapes: D draws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from eval.question import Metric
from eval.stats.dependency import Draws, Number, change
from eval.stats.intervals import FloatArray

Test = Literal["mcnemar", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of a model minus that of another over the same questions.

    number: {"value", "low", "high"}; low and high are None where a single cluster was seen.
    num_better / num_worse: units on which only this model, or only the other, does well; None where
    scores are no yes or no. p: two-sided, of `test`; None where nothing can be tested (one
    cluster).
    """

    number: Number
    p: float | None
    test: Test
    num_better: int | None
    num_worse: int | None


def mcnemar(num_better: int, num_worse: int) -> float:
    """The exact two-sided p of McNemar's test: a fair coin for each unit on which the models
    differ.

        8 and 2  ->  2 (1 + 10 + 45) / 2^10 = 0.109375
        0 and 0  ->  1

    Source: McNemar, Psychometrika 12 (1947); the exact form is the sign test on discordant pairs.
    """
    num = num_better + num_worse
    term, tail = 1, 0
    for chosen in range(min(num_better, num_worse) + 1):
        tail += term
        term = term * (num - chosen) // (chosen + 1)
    return min(1.0, float(Fraction(2 * tail, 2**num)))


def bootstrap_p(differences_D: FloatArray) -> float | None:
    """Two-sided p from bootstrap draws of a difference: twice the smaller share of draws on one
    side of 0, one draw added to each.

    999 draws, all above 0  ->  2 (0 + 1) / 1000 = 0.002
    """
    held_D = differences_D[np.isfinite(differences_D)]
    if held_D.size == 0:
        return None
    fewer = min(int((held_D <= 0).sum()), int((held_D >= 0).sum()))
    return min(1.0, 2.0 * (fewer + 1) / (held_D.size + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values: claims with one below 0.05 hold together with at most 5 % chance of a
    single false one.

    {"a": 0.01, "b": 0.04, "c": 0.03}  ->  {"a": 0.03, "b": 0.06, "c": 0.06}

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    highest, adjusted = 0.0, {}
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda entry: entry[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def outcomes(metric: Metric) -> dict[str, bool] | None:
    """Right or wrong by unit, or None where a score is a weighted mean or counts in parts."""
    if len(metric.weights) != 1 or any(
        unit.denominator != 1.0 or unit.numerator not in (0.0, 1.0) for unit in metric.units
    ):
        return None
    return {unit.unit_id: unit.numerator == 1.0 for unit in metric.units}


def difference(one: Metric, other: Metric, draws: Draws) -> Difference | None:
    """`one` minus `other`, paired; None where either has no value.

    The test is McNemar's where every unit is a cluster of its own and right or wrong, otherwise the
    bootstrap.
    """
    number = change(one, other, draws)
    if number is None:
        return None
    ours, theirs = outcomes(one), outcomes(other)
    num_better = num_worse = None
    if ours is not None and theirs is not None:
        shared = ours.keys() & theirs.keys()
        num_better = sum(ours[unit] and not theirs[unit] for unit in shared)
        num_worse = sum(theirs[unit] and not ours[unit] for unit in shared)
        if one.higher_is_better is False:
            num_better, num_worse = num_worse, num_better
        if len({unit.cluster for unit in one.units}) == len(one.units):
            return Difference(
                number, mcnemar(num_better, num_worse), "mcnemar", num_better, num_worse
            )
    p = None if number["low"] is None else bootstrap_p(draws.values(one) - draws.values(other))
    return Difference(number, p, "bootstrap", num_better, num_worse)


def average_relative_improvement(
    base: Mapping[str, float], other: Mapping[str, float], lower_is_better: frozenset[str]
) -> float | None:
    """The mean over the shared columns of (other - base) / base, the sign turned where lower is
    better; None without a column.

    It weighs a change by how low the base scores, chance included: from 21 to 25 % counts as much
    as from 59 to 70 %.

    Source: S-VCO (arXiv:2502.13928), last column of table 1; every row there is reproduced by this
    to 0.01.
    """
    shared = [name for name in base if name in other and base[name] != 0]
    changes = [
        (other[name] - base[name]) / base[name] * (-1.0 if name in lower_is_better else 1.0)
        for name in shared
    ]
    return math.fsum(changes) / len(changes) if changes else None
