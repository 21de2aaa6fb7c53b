"""Intervals against numbers by hand, a slow clear jackknife, and how often they hold the truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.intervals import (
    MIN_GROUPS,
    SHARE,
    SHARE_DIFFERENCE,
    UNBOUNDED,
    Estimate,
    caution,
    group_index,
    quantile,
    ratio_estimate,
    sums_by_group,
)


def share(hits: list[float], groups: list[str]) -> Estimate:
    index_P, num_groups = group_index(groups)
    columns = np.stack([np.array(hits), np.ones(len(hits))], axis=1)
    estimate = ratio_estimate(*sums_by_group(columns, index_P, num_groups).T)
    assert estimate is not None
    return estimate


def width(estimate: Estimate) -> float:
    ends = estimate.interval(0.95, SHARE)
    assert ends is not None
    return ends[1] - ends[0]


SUMS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(sums=SUMS)
def test_a_pull_is_the_number_minus_what_it_is_without_the_group(
    sums: list[tuple[int, int]],
) -> None:
    tops, bottoms = np.array(sums, float).T
    estimate = ratio_estimate(tops, bottoms)
    assert estimate is not None
    for place, pull in enumerate(estimate.pulls_G):
        rest = [pair for other, pair in enumerate(sums) if other != place]
        without = sum(top for top, _ in rest) / sum(bottom for _, bottom in rest)
        assert pull == pytest.approx(estimate.value - without)
    assert estimate.shares_G.sum() == pytest.approx(1.0)


def test_the_interval_of_a_mean_is_students() -> None:
    # 1 .. 9, one a group: mean 5, standard deviation sqrt(7.5), t of 8 degrees of freedom 2.306
    estimate = share([float(value) for value in range(1, 10)], list("abcdefghi"))
    assert estimate.standard_error == pytest.approx(math.sqrt(7.5 / 9))
    assert estimate.interval(0.95) == pytest.approx(
        (5 - 2.306004 * math.sqrt(7.5 / 9), 5 + 2.306004 * math.sqrt(7.5 / 9))
    )
    assert quantile(0.95) == pytest.approx(1.959964)
    assert quantile(0.95, 5) == pytest.approx(2.570582)


def test_below_six_groups_there_is_no_interval() -> None:
    for num in range(1, 9):
        estimate = share([1.0, 0.0] * num, [str(place // 2) for place in range(2 * num)])
        for bounds in (SHARE, SHARE_DIFFERENCE, UNBOUNDED):
            assert estimate.interval(0.95, bounds) is None or num >= MIN_GROUPS
    assert caution(1) == "only 1 group: too few for an interval or a test, which need 6"
    assert "only 29 groups: read" in caution(29) and caution(30) == ""


def test_all_or_nothing_is_bounded_by_wilson_over_groups() -> None:
    groups = [str(place // 3) for place in range(60)]
    bound = 1.959964**2 / (20 + 1.959964**2)
    assert share([0.0] * 60, groups).interval(0.95, SHARE) == pytest.approx((0.0, bound))
    assert share([1.0] * 60, groups).interval(0.95, SHARE) == pytest.approx((1.0 - bound, 1.0))
    # no group differs, and one that does might have come up
    nothing = share([1.0, 0.0, 0.0] * 20, groups)
    assert nothing.minus(nothing).interval(0.95, SHARE_DIFFERENCE) == pytest.approx((-bound, bound))
    gained = share([1.0] * 60, groups).minus(share([0.0] * 60, groups))
    assert gained.interval(0.95, SHARE_DIFFERENCE) == pytest.approx((1.0 - 2.0 * bound, 1.0))
    assert nothing.interval(0.95, UNBOUNDED) is None  # nothing says how far it goes


def test_an_interval_stays_within_what_is_possible() -> None:
    hits = [1.0] * 23 + [0.0]
    low, high = share(hits, [str(place // 4) for place in range(24)]).interval(0.95, SHARE) or SHARE
    assert 0.0 < low < 23 / 24 < high <= 1.0


def test_four_times_the_groups_halve_the_interval() -> None:
    few = width(share([1, 0] * 20, [str(index) for index in range(40)]))
    many = width(share([1, 0] * 80, [str(index) for index in range(160)]))
    assert many / few == pytest.approx(0.5, abs=0.03)
    # the normal interval of a proportion
    assert few == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 40), rel=0.1)


def test_a_group_of_identical_rows_counts_as_one() -> None:
    hits = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    copies = [hit for hit in hits for _ in range(5)]
    single, copied = (
        share(hits, list("abcdefgh")),
        share(copies, [n for n in "abcdefgh" * 1 for _ in range(5)]),
    )
    assert copied.interval(0.95, SHARE) == pytest.approx(single.interval(0.95, SHARE))
    # as if they were 40 independent pairs: far too sure
    assert width(share(copies, [str(index) for index in range(40)])) < 0.6 * width(single)


def test_a_group_with_most_of_the_pairs_makes_few_of_many() -> None:
    hits = [float(place % 3 == 0) for place in range(60)]
    even = width(share(hits, [str(place // 3) for place in range(60)]))
    uneven = width(share(hits, [str(max(0, place - 40)) for place in range(60)]))
    assert uneven > 1.5 * even


def test_what_both_share_cancels_in_a_difference() -> None:
    groups = [str(place) for place in range(12)]
    base = share([1.0, 0.0] * 6, groups)
    better = share([1.0, 0.0] * 5 + [1.0, 1.0], groups)
    change = better.minus(base)
    assert change.value == pytest.approx(1 / 12)
    assert change.standard_error < 0.6 * base.standard_error
    assert better.relative_to(base).value == pytest.approx(7 / 6 - 1)
    assert better.relative_to(base).times(-1.0).value == pytest.approx(1 - 7 / 6)


@pytest.mark.parametrize(("chance", "at_least"), [(0.5, 0.92), (0.9, 0.88)])
@pytest.mark.parametrize("num_groups", [6, 20])
def test_intervals_of_few_groups_hold_the_truth(
    chance: float, at_least: float, num_groups: int
) -> None:
    """A little of `bench/coverage.py`: pairs of a group are alike, four in each."""
    rng = np.random.default_rng(7)
    strength = 9.0  # a beta with a correlation of 0.1 within a group
    rates = rng.beta(chance * strength, (1 - chance) * strength, (1000, num_groups))
    held = 0
    for hits_G in rng.binomial(4, rates).astype(float):
        estimate = ratio_estimate(hits_G, np.full(num_groups, 4.0))
        low, high = (estimate and estimate.interval(0.95, SHARE)) or (0.0, 1.0)
        held += low <= chance <= high
    assert held / 1000 >= at_least
