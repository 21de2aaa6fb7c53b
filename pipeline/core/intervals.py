"""How far a number could be off, from what it becomes without each group. Arrays in and out.

Pairs of one group (one person, one scene) are not independent, so what is left out is a whole group
(the jackknife). With few groups the spread itself is uncertain: intervals are as wide as Student's
t asks, for as many groups as count (a group with half of the pairs makes few of many). Of shares
they are Wilson's, which hold near 0 and 1. `bench/coverage.py` shows how often they hold the truth.

Shapes: P pairs; G groups; M measures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MIN_GROUPS = 6  # below, no interval is shown and nothing is called significant
FEW_GROUPS = 30  # below, a reader is told how few they are
SHARE, SHARE_DIFFERENCE, UNBOUNDED = (0.0, 1.0), (-1.0, 1.0), (-math.inf, math.inf)


def group_index(groups: Sequence[str]) -> tuple[IntArray, int]:
    """The number of each pair's group, [P], and how many groups there are."""
    names, index_P = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return index_P.reshape(-1).astype(np.int64), len(names)


def sums_by_group(values_PM: FloatArray, index_P: IntArray, num_groups: int) -> FloatArray:
    """The sum of each column within each group, [G, M]."""
    sums_GM = np.zeros((num_groups, values_PM.shape[1]))
    np.add.at(sums_GM, index_P, values_PM)
    return sums_GM


def caution(num_groups: int, kind: str = "groups") -> str:
    """What a reader of intervals over so few groups must know; "" from 30 on."""
    if num_groups >= FEW_GROUPS:
        return ""
    counted = f"{num_groups} {kind}" if num_groups != 1 else f"1 {kind.removesuffix('s')}"
    if num_groups < MIN_GROUPS:
        return f"only {counted}: too few for an interval or a test, which need {MIN_GROUPS}"
    return f"only {counted}: read intervals with caution, below {FEW_GROUPS} they may fall short"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, and what every group does to it; numbers over the same groups can be subtracted.

    Attributes:
        pulls_G: The number minus what it is without the group; 0 for a group that it does not see.
        shares_G: How much of what is counted lies in each group; their sum is 1.
    """

    value: float
    pulls_G: FloatArray
    shares_G: FloatArray

    @property
    def num_groups(self) -> int:
        """Groups that the number sees."""
        return int(np.count_nonzero(self.shares_G))

    @property
    def standard_error(self) -> float:
        """The jackknife's."""
        num = self.num_groups
        return math.sqrt((num - 1) / num * float(self.pulls_G @ self.pulls_G)) if num > 1 else 0.0

    def interval(
        self, confidence: float, bounds: tuple[float, float] = UNBOUNDED
    ) -> tuple[float, float] | None:
        """Both ends, or None: of fewer than six groups, and where nothing says how far it goes.

        Where all groups say the same, a group that says something else may not have come up yet:
        Wilson's bound on the share of such groups, each as far away as `bounds` allow.

            0 of 60 pairs in 20 groups of three  ->  0 and 3.84 / (20 + 3.84) = 0.161

        Args:
            bounds: Within which the number must lie.
        """
        if self.num_groups < MIN_GROUPS:
            return None
        return ends(
            self.value,
            self.standard_error,
            1.0 / float(self.shares_G @ self.shares_G),
            confidence,
            bounds,
        )

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference, which only groups that both see can tell."""
        both_G = (self.shares_G > 0) & (other.shares_G > 0)
        shares_G = np.where(both_G, (self.shares_G + other.shares_G) / 2, 0.0)
        total = float(shares_G.sum())
        return Estimate(
            self.value - other.value,
            self.pulls_G - other.pulls_G,
            shares_G / total if total else shares_G,
        )

    def relative_to(self, base: "Estimate") -> "Estimate":
        """(self - base) / base, for a base that is not 0."""
        ratio = self.value / base.value
        change = self.minus(base)
        pulls_G = (self.pulls_G - ratio * base.pulls_G) / base.value
        return Estimate(ratio - 1.0, pulls_G, change.shares_G)

    def times(self, factor: float) -> "Estimate":
        """Every part multiplied."""
        return Estimate(factor * self.value, factor * self.pulls_G, self.shares_G)


def ends(
    value: float,
    standard_error: float,
    num_groups: float,
    confidence: float,
    bounds: tuple[float, float] = UNBOUNDED,
) -> tuple[float, float] | None:
    """The ends of an interval; see `Estimate.interval`.

    Args:
        num_groups: As many groups of one size as would tell as much.

    Source: of a share, Wilson's interval (JASA 22, 1927) for as many independent observations as
    would have this standard error, with Student's t in the place of the normal.
    """
    lowest, highest = bounds
    if standard_error < 1e-12:
        if math.isinf(highest - lowest):
            return None
        z = quantile(confidence)
        deviating = z * z / (num_groups + z * z)
        return value - deviating * (value - lowest), value + deviating * (highest - value)
    t = quantile(confidence, max(1.0, num_groups - 1.0))
    half = t * standard_error
    if bounds == SHARE and 0.0 < value < 1.0:
        per_spread = half * half / (value * (1.0 - value))  # t^2 / n
        half = math.sqrt(half * half + per_spread * per_spread / 4.0) / (1.0 + per_spread)
        value = (value + per_spread / 2.0) / (1.0 + per_spread)
    return max(lowest, value - half), min(highest, value + half)


@cache
def quantile(confidence: float, freedom: float = math.inf) -> float:
    """How many standard errors hold the central `confidence`: Student's t, or the normal."""
    from scipy.special import ndtri, stdtrit

    upper = 1.0 - (1.0 - confidence) / 2.0
    return float(ndtri(upper) if math.isinf(freedom) else stdtrit(freedom, upper))


def ratio_estimate(top_G: FloatArray, bottom_G: FloatArray) -> Estimate | None:
    """The sum of `top_G` over that of `bottom_G`; None where there is nothing to divide by."""
    bottom = float(bottom_G.sum())
    if bottom <= 0:
        return None
    value, shares_G = float(top_G.sum()) / bottom, bottom_G / bottom
    rest_G = np.where(shares_G < 1.0, 1.0 - shares_G, 1.0)
    return Estimate(value, (top_G - value * bottom_G) / bottom / rest_G, shares_G)
