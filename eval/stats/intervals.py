"""How far a score could be off: bootstrap intervals that resample whole groups. Arrays in and out.

Pairs of one group (one person, one scene) are not independent, so a draw takes groups with
replacement, never pairs. Every score is a ratio of sums over pairs, so a draw needs only the sums
of each group; the area under the ROC curve (`pipeline.core.auc`) takes the draw as weights.

Shapes: P pairs; G groups; D draws; M measures.
"""

import numpy as np

from pipeline.core.auc import FloatArray, IntArray


def group_index(groups: list[str]) -> tuple[IntArray, int]:
    """The number of each pair's group, [P], and how many groups there are."""
    names, index_P = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return index_P.reshape(-1).astype(np.int64), len(names)


def cluster_counts(num_groups: int, num_draws: int, seed: int) -> IntArray:
    """How often each draw holds each group, [D, G]; every row sums to G."""
    if num_groups == 0:
        return np.zeros((num_draws, 0), np.int64)
    return (
        np.random.default_rng(seed)
        .multinomial(num_groups, np.full(num_groups, 1.0 / num_groups), size=num_draws)
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
