"""Bootstrap intervals against numbers worked by hand, and the area under the ROC curve against
counting pairs.
"""

import numpy as np
import pytest

from eval.stats.intervals import (
    cluster_counts,
    group_index,
    interval,
    ratio_draws,
    sums_by_group,
)


def draws_of(
    hits: list[float], groups: list[str], counts: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    index_P, num_groups = group_index(groups)
    counts_DG = cluster_counts(num_groups, 2000, seed) if counts is None else counts
    tops_GM = sums_by_group(np.array(hits)[:, None], index_P, num_groups)
    bottoms_GM = sums_by_group(np.ones((len(hits), 1)), index_P, num_groups)
    return ratio_draws(tops_GM, bottoms_GM, counts_DG)[:, 0]


def test_the_draws_of_two_groups_by_hand() -> None:
    # Group x has the hits 1 and 0, group y the hit 1. Drawn xx: 2/4, xy: 2/3, yy: 2/2.
    counts_DG = np.array([[2, 0], [1, 1], [0, 2]])
    assert draws_of([1, 0, 1], ["x", "x", "y"], counts_DG).tolist() == pytest.approx(
        [0.5, 2 / 3, 1.0]
    )


def test_two_groups_are_drawn_as_chance_has_it() -> None:
    drawn = draws_of([1, 0, 1], ["x", "x", "y"])
    assert [float(np.isclose(drawn, value).mean()) for value in (0.5, 2 / 3, 1.0)] == pytest.approx(
        [0.25, 0.5, 0.25], abs=0.03
    )


def test_every_draw_holds_as_many_groups_as_there_are_and_the_seed_decides() -> None:
    counts_DG = cluster_counts(7, 50, seed=3)
    assert counts_DG.sum(axis=1).tolist() == [7] * 50
    assert (counts_DG == cluster_counts(7, 50, seed=3)).all()
    assert (counts_DG != cluster_counts(7, 50, seed=4)).any()


def test_the_interval_is_the_middle_of_the_draws() -> None:
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert interval(np.array([np.nan, 2.0, np.nan]), 0.95) == (2.0, 2.0)
    assert interval(np.array([np.nan]), 0.95) is None


def width(hits: list[float], groups: list[str]) -> float:
    found = interval(draws_of(hits, groups), 0.95)
    assert found is not None
    return found[1] - found[0]


def test_four_times_the_groups_halve_the_interval() -> None:
    few = width([1, 0] * 20, [str(index) for index in range(40)])
    many = width([1, 0] * 80, [str(index) for index in range(160)])
    assert many / few == pytest.approx(0.5, abs=0.1)
    # the normal interval of a proportion
    assert few == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 40), rel=0.1)


def test_a_group_of_identical_rows_counts_as_one() -> None:
    hits = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    single = draws_of(hits, list("abcdefgh"))
    copied = draws_of(
        [hit for hit in hits for _ in range(5)], [name for name in "abcdefgh" for _ in range(5)]
    )
    assert single.tolist() == pytest.approx(copied.tolist())
    spread = width([hit for hit in hits for _ in range(5)], [str(index) for index in range(40)])
    # as if they were 40 independent pairs: far too sure
    assert spread < 0.6 * width(hits, list("abcdefgh"))


def test_a_paired_difference_of_equal_models_has_no_width() -> None:
    drawn = draws_of([1, 0, 1, 1], list("abcd"))
    assert interval(drawn - draws_of([1, 0, 1, 1], list("abcd")), 0.95) == (0.0, 0.0)


def test_a_draw_without_anything_to_divide_by_is_no_number() -> None:
    tops_GM, bottoms_GM = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    drawn = ratio_draws(tops_GM, bottoms_GM, np.array([[2, 0], [1, 1]]))
    assert np.isnan(drawn[0, 0])
    assert drawn[1, 0] == 0.5
