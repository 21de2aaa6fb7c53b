"""Drops, corrected drops and flips worked by hand."""

import pytest

from eval.question import Metric, Question, Unit, Verdict
from eval.stats.dependency import (
    Clusters,
    change,
    drop,
    flip_rate,
    is_flipped,
    relative_change,
    scored,
)


def metric(
    values: list[float],
    chance: float | None = 0.5,
    *,
    better: bool | None = True,
    unit: str = "share",
) -> Metric:
    """A mean over items 0, 1, .., each a cluster of its own."""
    units = tuple(Unit(str(index), str(index), value) for index, value in enumerate(values))
    return Metric(
        units=units,
        chance=chance,
        higher_is_better=better,
        unit="points" if unit == "points" else "share",
    )


def clusters(num: int = 4) -> Clusters:
    return Clusters.of([str(index) for index in range(num)], 0.95)


def question(item_id: str, kind: str = "choice") -> Question:
    return Question(
        item_id=item_id,
        prompt="?",
        image=None,
        kind=kind,
        truth="A",
        cluster=item_id,
        max_new_tokens=1,
    )  # type: ignore[arg-type]


def test_a_score_has_its_interval_its_counts_and_its_chance() -> None:
    found = scored(metric([1, 1, 1, 0] * 2), clusters(8))
    assert found is not None
    assert (found["value"], found["n"], found["num_clusters"], found["chance"]) == (0.75, 8, 8, 0.5)
    assert 0.0 < found["low"] < 0.75 < found["high"] < 1.0
    assert scored(metric([]), clusters()) is None


@pytest.mark.parametrize("num", [1, 2, 5])
def test_fewer_than_six_clusters_have_no_interval(num: int) -> None:
    units = tuple(Unit(str(index), str(index % num), float(index % 2)) for index in range(20))
    found = scored(Metric(units=units, chance=None), clusters(num))
    assert found == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 20,
        "num_clusters": num,
        "chance": None,
    }


def test_weighted_terms_are_left_out_apart() -> None:
    units = (
        Unit("0", "0", 1.0, 1.0, "x"),
        Unit("1", "1", 0.0, 1.0, "x"),
        Unit("2", "2", 1.0, 1.0, "y"),
        Unit("3", "3", 1.0, 1.0, "y"),
    )
    weighted = Metric(units=units, chance=None, weights={"x": 0.25, "y": 0.75})
    estimate = clusters().estimate(weighted)
    assert estimate is not None and estimate.value == weighted.value == 0.875
    # without 0 the first term is 0, without 1 it is 1; the second is 1 either way
    assert estimate.pulls_G.tolist() == pytest.approx([0.125, -0.125, 0.0, 0.0])
    assert estimate.shares_G.tolist() == pytest.approx([0.125, 0.125, 0.375, 0.375])


def test_a_drop_in_points_corrected_and_as_a_share() -> None:
    # 3 of 4 right with the image, 2 of 4 without; chance 1/2: 0.25, on the corrected scale 0.5, as
    # a share of 0.75 a third.
    found = drop(metric([1, 1, 1, 0] * 2), metric([1, 0, 1, 0] * 2), clusters(8))
    assert (
        found["drop"] is not None
        and found["corrected"] is not None
        and found["relative"] is not None
    )
    assert found["drop"]["value"] == 0.25
    assert found["corrected"]["value"] == 0.5
    assert found["corrected"]["high"] == pytest.approx(2 * found["drop"]["high"])
    assert found["relative"]["value"] == pytest.approx(1 / 3)


def test_a_model_that_does_not_look_drops_nothing_and_how_much_it_could_is_bounded() -> None:
    blind = metric([1, 0, 1, 0] * 10)
    bound = 1.959964**2 / (40 + 1.959964**2)  # Wilson's, of none of 40 that differ
    found = drop(blind, blind, clusters(40))["drop"]
    assert found is not None and found["value"] == 0.0
    assert (found["low"], found["high"]) == pytest.approx((-bound, bound))


def test_where_less_is_better_a_rise_without_the_image_is_a_drop() -> None:
    found = drop(
        metric([0, 0, 0, 1], None, better=False),
        metric([1, 1, 0, 1], None, better=False),
        clusters(),
    )
    assert found["drop"] is not None and found["relative"] is not None
    assert found["drop"]["value"] == 0.5
    assert found["corrected"] is None  # no chance level
    assert found["relative"]["value"] == 2.0  # 0.25 became 0.75


def test_points_of_a_judge_are_not_corrected_for_chance() -> None:
    found = drop(
        metric([6, 2], None, unit="points"), metric([2, 2], None, unit="points"), clusters(2)
    )
    assert found["corrected"] is None
    assert found["drop"] is not None and found["drop"]["value"] == 2.0


def test_a_score_of_zero_has_no_relative_change() -> None:
    assert relative_change(metric([0, 0]), metric([1, 0]), clusters(2)) is None
    assert change(metric([]), metric([1]), clusters(1)) is None


def test_flips_need_two_readable_answers() -> None:
    a, b = Verdict("A", "exact"), Verdict("B", "extracted")
    unclear, silent = Verdict(None, "ambiguous"), Verdict(None, "failed")
    questions = [question(str(index)) for index in range(4)]
    seeing = [("A", a), ("A", a), ("?", unclear), ("A", a)]
    ablated = [("B", b), ("A.", a), ("A", a), ("", silent)]
    found = list(map(is_flipped, questions, seeing, ablated))
    assert found == [True, False, None, None]
    rate = flip_rate(list(zip(questions, found, strict=True)), clusters())
    assert rate is not None
    assert (rate["value"], rate["n"]) == (0.5, 2)
    assert flip_rate([(asked, None) for asked in questions], clusters()) is None


def test_free_answers_flip_as_texts() -> None:
    missing = Verdict(None, "missing")
    questions = [question("0", "free"), question("1", "free")]
    seeing = [("A dog.", missing), ("A dog.", missing)]
    ablated = [("a dog", missing), ("A cat.", missing)]
    assert list(map(is_flipped, questions, seeing, ablated)) == [False, True]
