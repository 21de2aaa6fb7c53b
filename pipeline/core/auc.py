"""The area under the ROC curve, and what each group does to it.

Shapes: P positive and N negative scores; G groups.
"""

import numpy as np

from pipeline.core.intervals import Estimate, FloatArray, IntArray


def auc(positive_P: FloatArray, negative_N: FloatArray) -> float:
    """The probability that a positive score exceeds a negative one, ties counted half.

    NaN when either is empty.

        positive [2, 3], negative [1, 2]  ->  (1 + 0.5 + 1 + 1) / 4 = 0.875
    """
    return float(_above(positive_P, negative_N).mean()) if len(positive_P) else float("nan")


def _above(scores: FloatArray, others: FloatArray) -> FloatArray:
    """The share of `others` that each score exceeds, ties counted half; NaN without others."""
    if not len(others):
        return np.full(len(scores), np.nan)
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return (below + not_above) / (2.0 * len(others))


def auc_estimate(
    positive_P: FloatArray,
    negative_N: FloatArray,
    positive_group_P: IntArray,
    negative_group_N: IntArray,
    num_groups: int,
) -> Estimate | None:
    """The area with what each group does to it, to first order; None when either is empty.

    Source: DeLong et al., Biometrics 44 (1988), for groups Obuchowski, Biometrics 53 (1997).
    """
    if not len(positive_P) or not len(negative_N):
        return None
    value = auc(positive_P, negative_N)
    effects_G, shares_G = np.zeros(num_groups), np.zeros(num_groups)
    for wins, group in (
        (_above(positive_P, negative_N), positive_group_P),
        (1.0 - _above(negative_N, positive_P), negative_group_N),
    ):
        effects_G += np.bincount(group, (wins - value) / len(wins), num_groups)
        shares_G += np.bincount(group, minlength=num_groups) / (2 * len(wins))
    return Estimate(value, effects_G / np.where(shares_G < 1.0, 1.0 - shares_G, 1.0), shares_G)
