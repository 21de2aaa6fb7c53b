"""The table of scores on four pairs whose log-probabilities and answers are written by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eval.config import EvalSection, IntervalSection
from eval.pairs.arrays import ModelScores, judge, model_scores_of
from eval.pairs.measures import MEASURES
from eval.pairs.paired_scores import PriorSides
from eval.pairs.score_table import score_table, verdict_of_pairs
from eval.report.pairs import HEADLINE, TERMINAL, table

SEES = [[-1.0, -5.0], [-5.0, -1.0], [-3.0, -3.5]]
BLIND = [[-2.0, -4.0], [-2.0, -4.0], [-2.0, -4.0]]
SECTION = EvalSection(model="m", data="d", out="o", intervals=IntervalSection(num_draws=400))
ITEMS = pa.table(
    {
        "pair_id": ["p0", "p1", "p2", "p3"],
        "category": ["count", "count", "object", "object"],
        "source": ["s"] * 4,
        "group": ["g0", "g0", "g1", "g2"],
        "question": ["What colour is the star?"] * 4,
        "answer_a": ["The star is red."] * 4,
        "answer_b": ["The star is blue."] * 4,
        "meta": ["{}"] * 4,
    }
)


def model(*logps: list[list[float]]) -> ModelScores:
    return ModelScores(np.array(logps), np.full((len(logps), 2), 4), None)


BEFORE, AFTER = model(BLIND, BLIND, SEES, BLIND), model(SEES, SEES, BLIND, BLIND)


def overall(**model_scores: ModelScores) -> dict[str, Any]:
    return score_table(ITEMS, model_scores, None, SECTION)["overall"]  # type: ignore[arg-type]


def test_scores_of_four_pairs_by_hand() -> None:
    found = overall(before=BEFORE, after=AFTER)
    value = {
        key: (entry["before"]["value"], entry["after"]["value"], entry["difference"]["value"])
        for key, entry in found.items()
    }
    assert value["text_score"] == (0.25, 0.5, 0.25)
    assert value["side_accuracy"] == (0.625, 0.75, 0.125)  # 2 + 3 of 8, 4 + 2 of 8
    assert value["image_gain"] == (0.125, 0.25, 0.125)
    assert value["flip_rate"] == (0.25, 0.5, 0.25)
    assert value["accuracy_with_prior"] == (1.0, 1.0, 0.0)
    assert value["accuracy_against_prior"] == (0.25, 0.5, 0.25)
    assert value["prior_errors"] == (0.375, 0.25, -0.125)
    # 4 nats where it sees, 0 where it does not
    assert value["matching_contradictory_nats"] == (1.0, 2.0, 1.0)
    assert value["matching_contradictory_nats_per_token"] == (0.25, 0.5, 0.25)
    assert value["matching_contradictory_positive"] == (0.25, 0.5, 0.25)


def test_the_area_under_the_curve_is_one_for_a_model_that_sees_and_a_half_for_a_blind_one() -> None:
    area = {
        name: overall(after=model(*[logps] * 4))["auroc"]["after"]["value"]
        for name, logps in (("sees", SEES), ("blind", BLIND))
    }
    assert area == {"sees": 1.0, "blind": 0.5}
    # One text falls with both images, more with the other's: 0 and -2 against -1 and -3, so 3 of 4
    # comparisons are right.
    falls = [[-3.0, -6.0], [-4.0, -5.0], [-3.0, -3.0]]
    assert overall(after=model(*[falls] * 4))["auroc"]["after"]["value"] == 0.75


def test_rounding_noise_does_not_make_a_blind_model_see() -> None:
    noise = np.random.default_rng(1).uniform(-1.5e-5, 1.5e-5, size=(4, 3, 2))
    noisy = ModelScores(np.array([BLIND] * 4) + noise, np.full((4, 2), 4), None)
    found = overall(after=noisy)
    value = {key: entry["after"]["value"] for key, entry in found.items()}
    for key in (
        "text_score",
        "image_score",
        "group_score",
        "flip_rate",
        "image_gain",
        "accuracy_against_prior",
    ):
        assert value[key] == 0.0, key
    assert value["auroc"] == 0.5
    assert [
        value[f"{name}_positive"]
        for name in ("matching_contradictory", "matching_none", "none_contradictory")
    ] == [0.0, 0.0, 0.0]
    # as measured in bfloat16
    coarse = ModelScores(
        np.array([BLIND] * 4) + 400 * noise, np.full((4, 2), 4), None, tie_nats=0.02
    )
    assert verdict_of_pairs({"after": coarse}) == ["wrong"] * 4
    assert overall(after=coarse)["matching_none_positive"]["after"]["value"] == 0.0


def test_what_the_image_adds_is_measured_against_the_accuracy_without_it() -> None:
    # a tie without image: no side is right there
    undecided = [[-1.0, -5.0], [-5.0, -1.0], [-3.0, -3.0]]
    assert overall(after=model(*[undecided] * 4))["image_gain"]["after"]["value"] == 1.0
    assert overall(after=model(*[SEES] * 4))["image_gain"]["after"]["value"] == 0.5


def test_both_counts_are_shown_where_the_models_are_counted_over_others() -> None:
    def number(n: int) -> dict[str, Any]:
        return {"value": 0.5, "low": None, "high": None, "n": n, "num_groups": 1}

    def counted(before: Any, after: Any) -> str:
        entry = {"chance": None, "before": before, "after": after, "difference": None}
        return table(
            {"hallucinated_answers": entry},
            ["hallucinated_answers"],
            {"before": "before", "after": "after"},
        )[1][0][-1]

    assert counted(number(1200), number(6)) == "1,200 / 6 answers"
    assert counted(number(6), number(6)) == "6 answers"
    assert counted(None, number(6)) == "0 / 6 answers"


def repeated(num_groups: int) -> pa.Table:
    """The pairs once more for each of so many groups of four."""
    items = pa.concat_tables([ITEMS] * num_groups)
    groups = [str(place // 4) for place in range(items.num_rows)]
    return items.set_column(items.schema.get_field_index("group"), "group", [groups])


def test_intervals_count_groups_and_not_pairs() -> None:
    entry = overall(after=AFTER)["text_score"]["after"]
    assert (entry["n"], entry["num_groups"]) == (4, 3)
    assert (entry["low"], entry["high"]) == (None, None)  # three groups are too few
    many = model(*[SEES, SEES, BLIND, BLIND] * 6)
    table_of_six = score_table(repeated(6), {"after": many}, None, SECTION)["overall"]
    entry = table_of_six["text_score"]["after"]
    assert (entry["n"], entry["num_groups"], entry["value"]) == (24, 6, 0.5)
    # all six groups are at 1/2: Wilson's bound on groups that are not, each at 0 or at 1
    bound = 1.959964**2 / (6 + 1.959964**2) / 2
    assert (entry["low"], entry["high"]) == pytest.approx((0.5 - bound, 0.5 + bound))


def test_a_slice_holds_its_own_pairs_and_one_group_gives_no_interval() -> None:
    slices = score_table(ITEMS, {"after": AFTER}, None, SECTION)["category"]
    assert slices["count"]["text_score"]["after"] == {
        "value": 1.0,
        "low": None,
        "high": None,
        "n": 2,
        "num_groups": 1,
    }
    assert slices["object"]["text_score"]["after"]["value"] == 0.0


def test_the_difference_of_a_model_to_itself_is_nothing_and_bounded() -> None:
    same = model(*[SEES, SEES, BLIND, BLIND] * 20)
    found = score_table(repeated(20), {"before": same, "after": same}, None, SECTION)["overall"]
    bound = 1.959964**2 / (20 + 1.959964**2)
    for key, entry in found.items():
        change = entry["difference"]
        assert change["value"] == 0.0, key
        if MEASURES[key].unit == "share" and key != "image_gain":
            assert (change["low"], change["high"]) == pytest.approx((-bound, bound)), key
        elif MEASURES[key].unit.startswith("nats"):
            assert change["low"] is None  # how far another group could go is not known


def test_the_same_seed_gives_the_same_table() -> None:
    assert overall(before=BEFORE, after=AFTER) == overall(before=BEFORE, after=AFTER)


def test_what_was_not_measured_is_absent() -> None:
    found = overall(after=AFTER)
    assert not {"accuracy_misled", "hallucinated_answers", "generated_own"} & set(found)
    nowhere = PriorSides(neutral_P2=np.ones((4, 2), bool), misled_P2=np.zeros((4, 2), bool))
    with_prior = score_table(ITEMS, {"after": AFTER}, nowhere, SECTION)["overall"]
    assert "accuracy_misled" not in with_prior
    assert with_prior["accuracy_neutral"]["after"]["value"] == 0.75


def test_each_pair_is_fixed_broken_or_as_it_was() -> None:
    assert verdict_of_pairs({"before": BEFORE, "after": AFTER}) == [
        "fixed",
        "fixed",
        "broken",
        "wrong",
    ]
    assert verdict_of_pairs({"after": AFTER}) == ["right", "right", "wrong", "wrong"]


def test_generated_answers_are_judged_side_by_side() -> None:
    truth = '{"truth": {"a": {"objects": [%s]}, "b": {"objects": [%s]}}}'
    star = '{"object": "star", "colour": "%s", "box": [0, 0, 8, 8]}'
    items = ITEMS.set_column(
        ITEMS.schema.get_field_index("meta"),
        "meta",
        [[truth % (star % "red", star % "blue")] + ["{}"] * 3],
    )
    sizes = pa.table(
        {f"{name}_{side}_px": [64] * 4 for name in ("width", "height") for side in "ab"}
    )
    texts = [
        ("The star is red.", "the star is red"),
        ("It is blue.", "The star is blue!"),
        ("Hello there", ""),
        ("red", "blue"),
    ]
    answers = judge(items, sizes, texts)
    assert answers.verdicts == [
        ("own", "other"),
        ("neither", "own"),
        ("neither", "neither"),
        ("neither", "neither"),
    ]
    assert answers.num_claims_P2.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    assert answers.num_false_P2.tolist() == [[0, 1], [0, 0], [0, 0], [0, 0]]
    found = score_table(
        items, {"after": ModelScores(AFTER.logps_P32, AFTER.num_tokens_P2, answers)}, None, SECTION
    )["overall"]
    value = {key: entry["after"]["value"] for key, entry in found.items()}
    assert (
        value["hallucinated_answers"],
        value["hallucinated_claims"],
        value["no_checkable_claim"],
    ) == (0.5, 0.5, 0.0)
    assert (value["generated_own"], value["generated_other"], value["generated_neither"]) == (
        0.25,
        0.125,
        0.625,
    )
    assert value["answer_words"] == pytest.approx((4 + 4 + 3 + 4 + 2 + 0 + 1 + 1) / 8)


def test_results_of_other_pairs_or_without_numbers_are_refused() -> None:
    names = [
        f"logp_{condition}_{response}"
        for condition in ("a", "b", "none")
        for response in ("a", "b")
    ]
    rest = {"num_tokens_a": [4], "num_tokens_b": [4], "generated_a": [None], "generated_b": [None]}
    good = pa.table({"pair_id": ["p0"], **{name: [-1.0] for name in names}, **rest})
    assert model_scores_of(ITEMS.slice(0, 1), good).answers is None
    with pytest.raises(ValueError, match="order of the pairs"):
        model_scores_of(ITEMS.slice(1, 1), good)
    with pytest.raises(ValueError, match="pair p0: .* not a finite number"):
        model_scores_of(ITEMS.slice(0, 1), good.set_column(1, "logp_a_a", [[float("nan")]]))


def test_the_tables_name_only_measures_that_exist() -> None:
    assert set(HEADLINE) <= set(MEASURES)
    assert set(TERMINAL) <= set(HEADLINE)
    columns, rows = table(
        overall(before=BEFORE, after=AFTER),
        ["text_score", "generated_own"],
        {"before": "before", "after": "after"},
    )
    assert columns == ["", "chance", "before", "after", "difference", "n"]
    assert [row[0] for row in rows] == ["text score"]
