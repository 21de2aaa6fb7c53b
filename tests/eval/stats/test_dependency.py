"""Drops, corrected drops and flips worked by hand."""

import numpy as np
import pytest

from eval.question import Metric, Question, Unit, Verdict
from eval.stats.dependency import (
    Draws,
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


def draws(num: int = 4) -> Draws:
    return Draws.of([str(index) for index in range(num)], 500, 0.95, 7)


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
    found = scored(metric([1, 1, 1, 0]), draws())
    assert found is not None
    assert (found["value"], found["n"], found["num_clusters"], found["chance"]) == (0.75, 4, 4, 0.5)
    assert found["low"] < 0.75 < found["high"]
    assert scored(metric([]), draws()) is None


def test_one_cluster_has_no_interval() -> None:
    units = tuple(Unit(str(index), "0", float(index)) for index in range(2))
    found = scored(Metric(units=units, chance=None), draws(1))
    assert found == {
        "value": 0.5,
        "low": None,
        "high": None,
        "n": 2,
        "num_clusters": 1,
        "chance": None,
    }


def test_weighted_terms_are_drawn_apart() -> None:
    units = (
        Unit("0", "0", 1.0, 1.0, "x"),
        Unit("1", "1", 0.0, 1.0, "x"),
        Unit("2", "2", 1.0, 1.0, "y"),
        Unit("3", "3", 1.0, 1.0, "y"),
    )
    weighted = Metric(units=units, chance=None, weights={"x": 0.25, "y": 0.75})
    assert weighted.value == 0.875
    made = draws().values(weighted)
    both = np.isfinite(made)  # a draw that holds nothing of a term has no score
    assert 0 < (~both).sum() < 200
    assert set(np.round((made[both] - 0.75) / 0.25, 6)) <= set(
        np.round([n / d for d in range(1, 5) for n in range(d + 1)], 6)
    )


def test_a_drop_in_points_corrected_and_as_a_share() -> None:
    # 3 of 4 right with the image, 2 of 4 without; chance 1/2: 0.25, on the corrected scale 0.5, as
    # a share of 0.75 a third.
    found = drop(metric([1, 1, 1, 0]), metric([1, 0, 1, 0]), draws())
    assert (
        found["drop"] is not None
        and found["corrected"] is not None
        and found["relative"] is not None
    )
    assert found["drop"]["value"] == 0.25
    assert found["corrected"]["value"] == 0.5
    assert found["corrected"]["high"] == pytest.approx(2 * found["drop"]["high"])
    assert found["relative"]["value"] == pytest.approx(1 / 3)


def test_a_model_that_does_not_look_drops_nothing_in_every_draw() -> None:
    found = drop(metric([1, 0, 1, 0]), metric([1, 0, 1, 0]), draws())
    assert found["drop"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_where_less_is_better_a_rise_without_the_image_is_a_drop() -> None:
    found = drop(
        metric([0, 0, 0, 1], None, better=False), metric([1, 1, 0, 1], None, better=False), draws()
    )
    assert found["drop"] is not None and found["relative"] is not None
    assert found["drop"]["value"] == 0.5
    assert found["corrected"] is None  # no chance level
    assert found["relative"]["value"] == 2.0  # 0.25 became 0.75


def test_points_of_a_judge_are_not_corrected_for_chance() -> None:
    found = drop(metric([6, 2], None, unit="points"), metric([2, 2], None, unit="points"), draws(2))
    assert found["corrected"] is None
    assert found["drop"] is not None and found["drop"]["value"] == 2.0


def test_a_score_of_zero_has_no_relative_change() -> None:
    assert relative_change(metric([0, 0]), metric([1, 0]), draws(2)) is None
    assert change(metric([]), metric([1]), draws(1)) is None


def test_flips_need_two_readable_answers() -> None:
    a, b = Verdict("A", "exact"), Verdict("B", "extracted")
    unclear, silent = Verdict(None, "ambiguous"), Verdict(None, "failed")
    questions = [question(str(index)) for index in range(4)]
    seeing = [("A", a), ("A", a), ("?", unclear), ("A", a)]
    ablated = [("B", b), ("A.", a), ("A", a), ("", silent)]
    found = list(map(is_flipped, questions, seeing, ablated))
    assert found == [True, False, None, None]
    rate = flip_rate(list(zip(questions, found, strict=True)), draws())
    assert rate is not None
    assert (rate["value"], rate["n"]) == (0.5, 2)
    assert flip_rate([(asked, None) for asked in questions], draws()) is None


def test_free_answers_flip_as_texts() -> None:
    missing = Verdict(None, "missing")
    questions = [question("0", "free"), question("1", "free")]
    seeing = [("A dog.", missing), ("A dog.", missing)]
    ablated = [("a dog", missing), ("A cat.", missing)]
    assert list(map(is_flipped, questions, seeing, ablated)) == [False, True]
