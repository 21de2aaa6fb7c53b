"""Paired tests and the paper's average, worked by hand and against slow clear sums."""

import itertools
import math

import numpy as np
import pytest

from eval.question import Metric, Unit
from eval.stats.dependency import Clusters
from eval.stats.significance import (
    adjust,
    average_relative_improvement,
    difference,
    exchangeable,
    holm,
    mcnemar,
    outcomes,
)
from eval.stats.significance import (
    sign_flip_p as sign_flips,
)


def sign_flip_p(parts_G: np.ndarray, num_flips: int = 4_999, seed: int = 0) -> float:
    """Of one difference."""
    return float(sign_flips(parts_G[:, None], num_flips, seed)[0])


def metric(right: str, cluster_size: int = 1) -> Metric:
    """One unit per character, right where it is "1"."""
    return Metric(
        units=tuple(
            Unit(str(place), str(place // cluster_size), float(one == "1"))
            for place, one in enumerate(right)
        ),
        chance=0.5,
    )


def clusters_of(num_clusters: int) -> Clusters:
    return Clusters.of([str(place) for place in range(num_clusters)], 0.95)


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


def test_sign_flips_by_hand() -> None:
    # six that agree: they and their opposite, of 64
    assert sign_flip_p(np.full(6, 0.3)) == pytest.approx(2 / 64)
    # 3, 1, 1: as far from 0 as 3 are +5, -5, +3 (twice) and -3 (twice), of 8
    assert sign_flip_p(np.array([3.0, 1.0, -1.0])) == pytest.approx(6 / 8)
    # clusters without a difference say nothing either way
    assert sign_flip_p(np.array([0.3] * 6 + [0.0] * 500)) == pytest.approx(2 / 64)
    assert sign_flip_p(np.zeros(9)) == 1.0


@pytest.mark.parametrize("num", [1, 4, 9])
def test_flips_of_ones_are_mcnemar(num: int) -> None:
    for better in range(num + 1):
        ones = np.r_[np.ones(better), -np.ones(num - better)]
        assert sign_flip_p(ones) == pytest.approx(mcnemar(better, num - better))


def test_random_flips_come_near_all_of_them_and_never_to_zero() -> None:
    parts = np.random.default_rng(5).normal(0.4, 1.0, 14)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=14)))
    exact = float((np.abs(signs @ parts) >= abs(parts.sum()) - 1e-9).mean())
    assert sign_flip_p(parts, 20_000) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(parts, seed=1) == sign_flip_p(parts, seed=1)
    assert sign_flip_p(np.full(40, 1.0)) == 1 / 5_000
    assert sign_flip_p(np.full(40, 1.0), 99) == 1 / 100


def test_holm_by_hand() -> None:
    # 0.01 x 3 = 0.03; 0.03 x 2 = 0.06; 0.04 x 1 = 0.04, but no less than what came before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_independent_questions_are_tested_by_mcnemar() -> None:
    found = difference(
        metric("1" * 8 + "0" * 4), metric("0" * 8 + "1" * 2 + "0" * 2), clusters_of(12)
    )
    assert found is not None
    assert (found["test"], found["num_better"], found["num_worse"]) == ("mcnemar", 8, 2)
    assert found["p"] == pytest.approx(112 / 1024)
    assert found["value"] == pytest.approx(6 / 12)


def test_questions_of_one_image_are_tested_by_their_images() -> None:
    """Ten copies of one question are one observation: flips of clusters are not fooled, McNemar
    would be.
    """
    found = difference(
        metric("1" * 10 + "0" * 60, cluster_size=10),
        metric("0" * 70, cluster_size=10),
        clusters_of(7),
    )
    assert found is not None
    assert (found["test"], found["num_better"], found["num_worse"]) == ("sign_flips", 10, 0)
    assert found["p"] == 1.0
    assert mcnemar(10, 0) < 0.01


@pytest.mark.parametrize("num", [1, 2, 5])
def test_fewer_than_six_clusters_test_nothing(num: int) -> None:
    found = difference(
        metric("1" * 20 * num, cluster_size=20),
        metric("0" * 20 * num, cluster_size=20),
        clusters_of(num),
    )
    assert found is not None and found["num_clusters"] == num
    assert found["p"] is None and found["low"] is None
    adjust([found], 0.05)
    assert not found["significant"] and found["p_holm"] is None


def test_six_clusters_can_be_significant_alone_and_not_among_two_tests() -> None:
    found = [
        difference(
            metric("11" * 6, cluster_size=2), metric("00" * 6, cluster_size=2), clusters_of(6)
        )
        for _ in range(2)
    ]
    tested = [one for one in found if one is not None]
    adjust(tested[:1], 0.05)
    assert tested[0]["p_holm"] == pytest.approx(2 / 64) and tested[0]["significant"]
    adjust(tested, 0.05)
    assert not tested[0]["significant"] and not tested[1]["significant"]


@pytest.mark.parametrize("sizes", ["even", "uneven"])
def test_models_that_do_not_differ_are_called_different_in_five_of_a_hundred(sizes: str) -> None:
    """Eight people, each better with one of two models as a coin has it: their pairs stand or fall
    together, so that a test over pairs would often be fooled.
    """
    rng = np.random.default_rng(11)
    num_pairs = np.full(8, 10) if sizes == "even" else np.array([30, 20, 10, 8, 6, 4, 2, 2])
    gains = rng.normal(0.0, 0.3, (1000, 8))
    apart = rng.binomial(num_pairs, np.clip(np.abs(gains), 0, 1)) * np.sign(gains)
    false = int((sign_flips(apart.T) <= 0.05).sum())
    fooled = sum(
        mcnemar(int(row[row > 0].sum()), int(-row[row < 0].sum())) <= 0.05 for row in apart[:100]
    )
    assert false <= 60 and fooled >= 20


def test_exchanged_models_turn_every_part_round() -> None:
    """Claims: one model makes more of them. Parts sum to the difference of both rates."""
    more = Metric(
        units=tuple(Unit(str(n), str(n), float(n % 3), 4.0) for n in range(8)), chance=None
    )
    fewer = Metric(
        units=tuple(Unit(str(n), str(n), float(n % 2), 1.0 + n % 2) for n in range(6)), chance=None
    )
    there, back = (
        exchangeable(*models, clusters_of(8)) for models in ((more, fewer), (fewer, more))
    )
    np.testing.assert_allclose(there, -back)
    assert there.sum() == pytest.approx((more.value or 0) - (fewer.value or 0))


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
