"""How far a score could be off: bootstrap intervals that resample whole groups. Arrays in, arrays
out.

Pairs of one group (one person, one scene) are not independent, so a draw takes groups with
replacement, never pairs. Every score is a ratio of sums over pairs, so a draw needs only the sums
of each group; the area under the ROC curve is the exception and takes the draw as weights.

Shapes: P pairs; G groups; D draws; M measures; N scored texts of either kind.
"""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# bounds the memory of the weighted rank statistic: 250 draws x 20,000 texts are 40 MB
_DRAWS_AT_ONCE = 250


def group_index(groups: list[str]) -> tuple[IntArray, int]:
    """The number of each pair's group, [P], and how many groups there are."""
    names, index_P = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return index_P.reshape(-1).astype(np.int64), len(names)


def cluster_counts(num_groups: int, num_draws: int, seed: int) -> IntArray:
    """How often each draw holds each group, [D, G]; every row sums to G. The same seed gives the
    same draws.
    """
    if num_groups == 0:
        return np.zeros((num_draws, 0), np.int64)
    chances_G = np.full(num_groups, 1.0 / num_groups)
    return (
        np.random.default_rng(seed)
        .multinomial(num_groups, chances_G, size=num_draws)
        .astype(np.int64)
    )


def sums_by_group(values_PM: FloatArray, index_P: IntArray, num_groups: int) -> FloatArray:
    """The sum of each column within each group, [G, M]."""
    sums_GM = np.zeros((num_groups, values_PM.shape[1]))
    np.add.at(sums_GM, index_P, values_PM)
    return sums_GM


def ratio_draws(
    numerator_GM: FloatArray, denominator_GM: FloatArray, counts_DG: IntArray
) -> FloatArray:
    """The ratio of sums in every draw, [D, M]; NaN where a draw holds nothing to divide by."""
    weights_DG = counts_DG.astype(np.float64)
    top_DM, bottom_DM = weights_DG @ numerator_GM, weights_DG @ denominator_GM
    return np.divide(top_DM, bottom_DM, out=np.full_like(top_DM, np.nan), where=bottom_DM > 0)


def interval(draws_D: FloatArray, confidence: float) -> tuple[float, float] | None:
    """The central `confidence` of the draws as (low, high), or None if no draw holds the score."""
    held_D = draws_D[np.isfinite(draws_D)]
    if held_D.size == 0:
        return None
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(held_D, [tail, 1.0 - tail])
    return float(low), float(high)


def auroc(matching_N: FloatArray, contradictory_N: FloatArray) -> float:
    """The probability that a matching score exceeds a contradictory one, ties counted half; NaN
    when either is empty.

    matching [2, 3], contradictory [1, 2]  ->  (1 + 0.5 + 1 + 1) / 4 = 0.875
    """
    ones_1G = np.ones((1, 1), np.int64)
    index_matching = np.zeros(len(matching_N), np.int64)
    index_contradictory = np.zeros(len(contradictory_N), np.int64)
    return float(
        auroc_draws(matching_N, contradictory_N, index_matching, index_contradictory, ones_1G)[0]
    )


def auroc_draws(
    matching_N: FloatArray,
    contradictory_N: FloatArray,
    matching_group_N: IntArray,
    contradictory_group_N: IntArray,
    counts_DG: IntArray,
) -> FloatArray:
    """The area under the ROC curve in every draw, [D]: each text weighs as often as its group was
    drawn.

    Args:
        matching_group_N: Number of the group of each matching score (a column of `counts_DG`).
        contradictory_group_N: The same for the contradictory scores.
    """
    if not len(matching_N) or not len(contradictory_N):
        return np.full(len(counts_DG), np.nan)
    values = np.concatenate([matching_N, contradictory_N])
    group = np.concatenate([matching_group_N, contradictory_group_N])
    is_matching = np.arange(len(values)) < len(matching_N)
    order = np.argsort(values, kind="stable")
    # where each run of equal values begins
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) > 0])
    parts = []
    for first in range(0, len(counts_DG), _DRAWS_AT_ONCE):
        weights = counts_DG[first : first + _DRAWS_AT_ONCE][:, group[order]].astype(np.float64)
        above = np.add.reduceat(weights * is_matching[order], starts, axis=1)
        below = np.add.reduceat(weights * ~is_matching[order], starts, axis=1)
        wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
        total = above.sum(axis=1) * below.sum(axis=1)
        parts.append(np.divide(wins, total, out=np.full_like(wins, np.nan), where=total > 0))
    return np.concatenate(parts)
