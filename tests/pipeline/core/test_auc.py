"""The area under the ROC curve: by hand, against counting, and its spread against leaving out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.auc import auc, auc_estimate


def counted(matching: list[float], contradictory: list[float]) -> float:
    wins = [1.0 if m > c else 0.5 if m == c else 0.0 for m in matching for c in contradictory]
    return sum(wins) / len(wins)


def test_area_under_the_curve_by_hand() -> None:
    assert auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)
    assert auc(np.array([5.0]), np.array([1.0])) == 1.0
    assert auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert np.isnan(auc(np.array([]), np.array([1.0])))
    assert np.isnan(auc(np.array([1.0]), np.array([])))


VALUES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(matching=VALUES, contradictory=VALUES)
def test_area_under_the_curve_is_the_share_of_pairs_won(
    matching: list[float], contradictory: list[float]
) -> None:
    assert auc(np.array(matching), np.array(contradictory)) == pytest.approx(
        counted(matching, contradictory)
    )


def test_a_group_pulls_as_far_as_the_area_moves_without_it() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(40), 4)
    matching = rng.normal(0.8, 1.0, 160) + rng.normal(0, 1, 40)[group]
    contradictory = rng.normal(0.0, 1.0, 160)
    estimate = auc_estimate(matching, contradictory, group, group, 40)
    assert estimate is not None and estimate.value == pytest.approx(auc(matching, contradictory))
    without = [auc(matching[group != g], contradictory[group != g]) for g in range(40)]
    np.testing.assert_allclose(estimate.pulls_G, estimate.value - np.array(without), atol=1e-3)
    assert estimate.pulls_G.std() > 3e-3  # which is far above what may differ
    assert estimate.num_groups == 40 and estimate.shares_G.sum() == pytest.approx(1.0)
    assert auc_estimate(matching[:0], contradictory, group[:0], group, 40) is None
