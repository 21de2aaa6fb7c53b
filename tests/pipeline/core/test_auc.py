"""The area under the ROC curve: by hand, against counting, and its draws against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.auc import auc, auc_draws


def counted(matching: list[float], contradictory: list[float]) -> float:
    wins = [1.0 if m > c else 0.5 if m == c else 0.0 for m in matching for c in contradictory]
    return sum(wins) / len(wins)


def test_area_under_the_curve_by_hand() -> None:
    assert auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)
    assert auc(np.array([5.0]), np.array([1.0])) == 1.0
    assert auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert np.isnan(auc(np.array([]), np.array([1.0])))


VALUES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(matching=VALUES, contradictory=VALUES)
def test_area_under_the_curve_is_the_share_of_pairs_won(
    matching: list[float], contradictory: list[float]
) -> None:
    assert auc(np.array(matching), np.array(contradictory)) == pytest.approx(
        counted(matching, contradictory)
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data(), num_groups=st.integers(2, 4))
def test_a_draw_of_the_area_equals_writing_the_drawn_groups_out(
    data: st.DataObject, num_groups: int
) -> None:
    sizes = st.lists(
        st.tuples(st.integers(-2, 2).map(float), st.integers(0, num_groups - 1)),
        min_size=1,
        max_size=8,
    )
    matching, contradictory = data.draw(sizes), data.draw(sizes)
    counts_DG = np.random.default_rng(1).multinomial(num_groups, [1 / num_groups] * num_groups, 5)
    drawn = auc_draws(
        np.array([value for value, _ in matching]),
        np.array([value for value, _ in contradictory]),
        np.array([group for _, group in matching]),
        np.array([group for _, group in contradictory]),
        counts_DG,
    )
    for counts_G, value in zip(counts_DG, drawn, strict=True):
        wide = [
            [v for v, g in side for _ in range(counts_G[g])] for side in (matching, contradictory)
        ]
        if wide[0] and wide[1]:
            assert value == pytest.approx(counted(*wide))
        else:
            assert np.isnan(value)


@pytest.mark.slow
def test_draws_are_the_weighted_areas_of_scikit_learn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score  # takes seconds to import

    rng = np.random.default_rng(3)
    scores, is_b = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    weights = rng.integers(0, 4, (5, 40))
    expected = [roc_auc_score(is_b, scores, sample_weight=row) for row in weights]
    each = np.arange(40)
    drawn = auc_draws(scores[is_b], scores[~is_b], each[is_b], each[~is_b], weights)
    np.testing.assert_allclose(drawn, expected)
