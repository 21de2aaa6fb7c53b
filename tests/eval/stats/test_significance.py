"""Paired tests and the paper's average, worked by hand and against slow clear sums."""

import itertools
import math

import numpy as np
import pytest

from eval.question import Metric, Unit
from eval.stats.dependency import Draws
from eval.stats.significance import (
    average_relative_improvement,
    bootstrap_p,
    difference,
    holm,
    mcnemar,
    outcomes,
)


def metric(right: str, cluster_size: int = 1) -> Metric:
    """One unit per character, right where it is "1"."""
    return Metric(
        units=tuple(
            Unit(str(place), str(place // cluster_size), float(one == "1"))
            for place, one in enumerate(right)
        ),
        chance=0.5,
    )


def draws_over(num_clusters: int) -> Draws:
    return Draws.of([str(place) for place in range(num_clusters)], 999, 0.95, seed=0)


def test_mcnemar_is_a_sign_test() -> None:
    assert mcnemar(8, 2) == pytest.approx(112 / 1024)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(0, 5) == pytest.approx(0.0625)


@pytest.mark.parametrize("num", [1, 4, 7])
def test_mcnemar_counts_what_is_as_extreme_among_all_outcomes(num: int) -> None:
    outcomes_of_coin = list(itertools.product((0, 1), repeat=num))
    for better in range(num + 1):
        extreme = sum(
            abs(2 * sum(coins) - num) >= abs(2 * better - num) for coins in outcomes_of_coin
        )
        assert mcnemar(better, num - better) == pytest.approx(extreme / 2**num)


def test_mcnemar_of_thousands_is_exact_and_symmetric() -> None:
    assert mcnemar(4500, 4500) == 1.0
    assert 0.0 < mcnemar(4700, 4300) == mcnemar(4300, 4700) < 1e-4


def test_the_bootstrap_counts_draws_beyond_zero() -> None:
    assert bootstrap_p(np.full(999, 0.1)) == pytest.approx(0.002)
    assert bootstrap_p(np.zeros(999)) == 1.0
    assert bootstrap_p(np.r_[np.full(9, -1.0), np.full(90, 1.0)]) == pytest.approx(2 * 10 / 100)
    assert bootstrap_p(np.array([np.nan, np.nan])) is None


def test_holm_by_hand() -> None:
    # 0.01 x 3 = 0.03; 0.03 x 2 = 0.06; 0.04 x 1 = 0.04, but no less than what came before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_independent_questions_are_tested_by_mcnemar() -> None:
    found = difference(
        metric("1" * 8 + "0" * 4), metric("0" * 8 + "1" * 2 + "0" * 2), draws_over(12)
    )
    assert found is not None
    assert (found["test"], found["num_better"], found["num_worse"]) == ("mcnemar", 8, 2)
    assert found["p"] == pytest.approx(112 / 1024)
    assert found["value"] == pytest.approx(6 / 12)


def test_questions_of_one_image_are_tested_by_their_images() -> None:
    """Ten copies of one question are one observation: the bootstrap over clusters is not fooled,
    McNemar would be.
    """
    found = difference(
        metric("1" * 10 + "0" * 20, cluster_size=10),
        metric("0" * 30, cluster_size=10),
        draws_over(3),
    )
    assert found is not None
    assert (found["test"], found["num_better"], found["num_worse"]) == ("bootstrap", 10, 0)
    assert found["p"] is not None and found["p"] > 0.3
    assert mcnemar(10, 0) < 0.01


def test_one_cluster_tests_nothing() -> None:
    found = difference(metric("11", cluster_size=2), metric("00", cluster_size=2), draws_over(1))
    assert found is not None and found["p"] is None and found["low"] is None


def test_parts_and_weighted_means_are_no_yes_or_no() -> None:
    assert outcomes(Metric(units=(Unit("1", "1", 0.9),), chance=0.0)) is None
    assert (
        outcomes(
            Metric(units=(Unit("1", "1", 1.0, term="x"),), chance=0.0, weights={"x": 0.5, "y": 0.5})
        )
        is None
    )
    assert outcomes(metric("10")) == {"0": True, "1": False}


# The published table: MMHal, hallucination %, CV-Bench, MMVP pairs, RealWorldQA, MM-Vet,
# LLaVA-Bench, TextVQA, ScienceQA, average %.
PAPER = """
2.16 57 59.3 21.3 35.3 30.46 61.2 46.40 66.78 0
2.06 65 57.0 16.7 39.5 31.65 68.1 49.16 66.71 -1.25
2.45 53 63.2 22.0 42.1 33.53 66.0 49.43 66.07 8.11
2.39 57 53.2 18.7 44.2 31.79 68.4 41.71 66.52 2.11
2.29 56 59.4 20.7 35.2 31.51 63.0 46.42 66.80 1.26
2.75 46 63.5 25.3 43.0 34.68 69.5 49.16 67.22 14.26
2.74 46 67.6 41.3 57.5 41.01 74.5 59.45 74.77 0
2.70 48 68.1 42.7 54.4 40.87 81.0 59.20 74.79 0.10
2.92 38 68.8 46.7 57.9 41.51 83.5 59.76 73.80 5.78
2.97 42 68.0 42.0 54.8 40.46 79.3 58.97 74.53 2.07
3.04 38 70.0 44.7 57.9 41.24 80.2 59.43 74.65 5.43
3.28 35 71.0 50.7 58.2 44.04 85.0 60.26 73.87 10.47
3.10 35 71.3 46.0 58.8 40.55 86.5 59.22 73.87 7.73
3.16 39 70.1 46.0 56.2 42.61 84.8 59.87 74.44 6.82
2.68 46 66.6 38.7 56.5 38.94 70.7 59.32 74.77 -2.45
"""


def test_every_row_of_the_published_table_has_the_published_average() -> None:
    base: dict[str, float] = {}
    for line in PAPER.split("\n")[1:-1]:
        *scores, average = map(float, line.split())
        row = {str(place): score for place, score in enumerate(scores)}
        base = row if average == 0 else base
        found = average_relative_improvement(base, row, frozenset({"1"}))
        assert found is not None and round(100 * found, 2) == pytest.approx(average, abs=0.011), (
            line
        )


def test_the_average_is_over_shared_columns_with_something_to_divide_by() -> None:
    assert average_relative_improvement(
        {"a": 0.5, "b": 0.0}, {"a": 0.6, "b": 0.3, "c": 1.0}, frozenset()
    ) == pytest.approx(0.2)
    assert average_relative_improvement({"a": 0.0}, {"a": 1.0}, frozenset()) is None
    assert math.isclose(
        average_relative_improvement({"a": 0.5}, {"a": 0.4}, frozenset({"a"})) or 0.0, 0.2
    )
