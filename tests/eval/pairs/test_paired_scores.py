"""The paired scores, margins and prior slices, on tables small enough to check by eye."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.pairs.arrays import prior_sides_of
from eval.pairs.paired_scores import (
    TIE_NATS,
    flips,
    margins,
    own_image_sides,
    paired_scores,
    preferences,
    prior_sides,
    right_sides,
    tie_nats_of,
)

# Rows: image a, image b, no image. Columns: answer a, answer b.
SEES = [[-1.0, -5.0], [-5.0, -1.0], [-3.0, -3.5]]
IGNORES = [[-2.0, -4.0], [-2.0, -4.0], [-2.0, -4.0]]
REVERSED = [[-5.0, -1.0], [-1.0, -5.0], [-3.0, -3.5]]
# Both texts prefer their own image, but text b is too unlikely to win anywhere: the language prior
# at work.
LEANS = [[-1.0, -9.0], [-2.0, -7.0], [-1.5, -8.0]]
# The right text wins under each image, but text a is likelier under image b.
TEXT_ONLY = [[-3.0, -4.0], [-2.0, -1.0], [-2.0, -2.0]]
TABLE = np.array([SEES, IGNORES, REVERSED, LEANS, TEXT_ONLY])


def test_text_image_and_group_score_of_five_kinds_of_model() -> None:
    text_P, image_P, group_P = paired_scores(TABLE)
    assert text_P.tolist() == [True, False, False, False, True]
    assert image_P.tolist() == [True, False, False, True, False]
    assert group_P.tolist() == [True, False, False, False, False]


def test_side_scores_of_five_kinds_of_model() -> None:
    assert right_sides(TABLE).tolist() == [
        [True, True],
        [True, False],
        [False, False],
        [True, False],
        [True, True],
    ]
    assert own_image_sides(TABLE).tolist() == [
        [True, True],
        [False, False],
        [False, False],
        [True, True],
        [False, True],
    ]


def test_a_tie_is_wrong_everywhere() -> None:
    tied = np.zeros((1, 3, 2))
    assert not right_sides(tied).any()
    assert not own_image_sides(tied).any()
    assert not flips(tied).any()
    assert [bool(score.any()) for score in paired_scores(tied)] == [False, False, False]
    assert not prior_sides(tied)[0].any()
    assert not prior_sides(tied)[1].any()


def test_rounding_noise_is_a_tie_and_more_than_that_is_none() -> None:
    # as measured in float32
    noise = np.random.default_rng(0).uniform(-1.5e-5, 1.5e-5, size=(200, 3, 2))
    ignores = np.array([[-2.0, -2.0]]) + noise
    assert not right_sides(ignores).any()
    assert not own_image_sides(ignores).any()
    assert not preferences(ignores).any()
    assert not flips(ignores).any()
    assert not prior_sides(ignores)[1].any()
    sees = np.array([[[2 * TIE_NATS, 0.0], [0.0, 2 * TIE_NATS], [0.0, 0.0]]])
    assert [bool(score[0]) for score in paired_scores(sees)] == [True, True, True]
    assert flips(sees).all()
    assert not paired_scores(sees, tie_nats_of("bfloat16"))[0].any()
    assert not flips(sees, tie_nats_of("bfloat16")).any()
    assert tie_nats_of("bfloat16") > 7.6e-3 > tie_nats_of("float32") == TIE_NATS


def test_margins_are_differences_of_one_texts_log_probability_in_nats() -> None:
    found = margins(np.array([LEANS]))
    assert found.matching_contradictory_P2.tolist() == [[1.0, 2.0]]  # -1 - -2 and -7 - -9
    assert found.matching_none_P2.tolist() == [[0.5, 1.0]]
    assert found.none_contradictory_P2.tolist() == [[0.5, 1.0]]


def test_the_preferred_answer_flips_only_when_it_follows_the_image() -> None:
    assert preferences(TABLE)[:, :2].tolist() == [[1, -1], [1, 1], [-1, 1], [1, 1], [1, -1]]
    # the reversed model flips too, the wrong way
    assert flips(TABLE).tolist() == [True, False, True, False, True]


def test_the_prior_contradicts_the_side_whose_text_is_less_likely_without_image() -> None:
    against_P2, with_P2 = prior_sides(TABLE)
    # the last has a tie without image
    assert against_P2.tolist() == [[False, True]] * 4 + [[False, False]]
    assert with_P2.tolist() == [[True, False]] * 4 + [[False, False]]


def random_logps(num_pairs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_pairs, 3, 2))


def test_chance_levels_are_those_of_independent_scores() -> None:
    logps_P32 = random_logps(200_000, 0)
    shares = [float(score.mean()) for score in paired_scores(logps_P32)]
    assert shares == pytest.approx([1 / 4, 1 / 4, 1 / 6], abs=0.005)
    assert float(right_sides(logps_P32).mean()) == pytest.approx(1 / 2, abs=0.005)
    assert float(flips(logps_P32).mean()) == pytest.approx(1 / 2, abs=0.005)
    against_P2, _ = prior_sides(logps_P32)
    assert float((against_P2 & ~right_sides(logps_P32)).mean()) == pytest.approx(1 / 4, abs=0.005)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_exchanging_the_sides_of_a_pair_changes_no_score(seed: int) -> None:
    logps_P32 = random_logps(20, seed)
    exchanged = logps_P32[:, [1, 0, 2], ::-1]
    for one, two in zip(paired_scores(logps_P32), paired_scores(exchanged), strict=True):
        assert one.tolist() == two.tolist()
    assert right_sides(logps_P32).tolist() == right_sides(exchanged)[:, ::-1].tolist()
    assert prior_sides(logps_P32)[0].tolist() == prior_sides(exchanged)[0][:, ::-1].tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_attend_and_reject_add_up_and_every_pair_has_one_side_against_the_prior(seed: int) -> None:
    logps_P32 = random_logps(20, seed)
    found = margins(logps_P32)
    np.testing.assert_allclose(
        found.matching_none_P2 + found.none_contradictory_P2, found.matching_contradictory_P2
    )
    assert prior_sides(logps_P32, tie_nats=0)[0].sum(axis=1).tolist() == [1] * 20


def test_an_image_that_moves_every_text_alike_changes_no_text_score_but_the_image_score() -> None:
    brighter = TABLE + np.array([3.0, 0.0, 0.0])[None, :, None]
    assert right_sides(brighter).tolist() == right_sides(TABLE).tolist()
    assert own_image_sides(brighter).tolist() != own_image_sides(TABLE).tolist()


def pairs(questions: list[str], answers: list[tuple[str, str]]) -> pa.Table:
    of_a, of_b = ([answer[side] for answer in answers] for side in (0, 1))
    return pa.table({"question": questions, "answer_a": of_a, "answer_b": of_b})


def test_a_stated_prior_misleads_where_it_favours_only_the_wrong_answer() -> None:
    prior = {"What colour?": ["red", "green"], "How many?": ["two"]}
    questions = ["What colour?", "What colour?", "What colour?", "How many?", "Where?"]
    answers = [
        ("red", "blue"),
        ("red", "green"),
        ("blue", "pink"),
        ("three", "two"),
        ("left", "right"),
    ]
    sides = prior_sides_of(pairs(questions, answers), prior)
    assert sides is not None
    assert sides.misled_P2.tolist() == [
        [False, True],
        [False, False],
        [False, False],
        [True, False],
        [False, False],
    ]
    assert sides.neutral_P2.tolist() == [
        [False, False],
        [True, True],
        [True, True],
        [False, False],
        [True, True],
    ]


def test_no_pairs_have_no_favoured_sides() -> None:
    sides = prior_sides_of(pairs([], []), {})
    assert sides is not None and sides.misled_P2.shape == (0, 2)
