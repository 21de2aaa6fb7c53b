"""Generated answers against the two answers of a pair."""

import pytest

from eval.answers import normalise, num_words, verdict


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("The star is red.", "own"),
        ("the STAR  is red", "own"),
        (" The star is red!\n", "own"),
        ("The star is blue.", "other"),
        ("The star is red and blue.", "neither"),
        ("A red star", "neither"),
        ("", "neither"),
    ],
)
def test_an_answer_is_its_own_the_other_or_neither(said: str, expected: str) -> None:
    assert verdict(said, "The star is red.", "The star is blue.") == expected


def test_two_answers_that_normalise_alike_decide_nothing() -> None:
    assert verdict("red", "Red.", "red") == "neither"


def test_what_is_left_of_a_text_are_its_words() -> None:
    assert normalise("  \u201cIt\u2019s\u201d a well-known STAR_shape \uff01") == "it s a well known star shape"
    assert normalise("\u0417\u0412\u0415\u0417\u0414\u0410.") == "\u0437\u0432\u0435\u0437\u0434\u0430"
    assert num_words(" two red  stars ") == 3
