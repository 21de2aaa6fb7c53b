import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.captions import (
    MAX_ALIGNED_WORDS,
    caption_facts,
    num_changed_words,
    text_drop_reason,
)


@pytest.mark.parametrize(
    ("caption_a", "caption_b", "reason"),
    [
        ("A red star.", "A blue star.", ""),
        ("", "A blue star.", "caption_a_empty"),
        ("A red star.", " \n", "caption_b_empty"),
        ("A red\x00star.", "A blue star.", "caption_a_control_character"),
        ("A red star.", "a  RED star!", "captions_equal"),
        ("caf\u00e9", "cafe\u0301", "captions_equal"),
        ("It is 5 outside.", "It is -5 outside.", ""),
        ("A face \U0001f600", "A face \U0001f622", ""),
        ("\u05db\u05d5\u05db\u05d1", "\u05e2\u05d9\u05d2\u05d5\u05dc", ""),
    ],
)
def test_captions_that_cannot_be_used_leave_with_the_fact(
    caption_a: str, caption_b: str, reason: str
) -> None:
    assert text_drop_reason(caption_a, caption_b) == reason


def test_facts_are_lengths_and_changed_words_of_each_side() -> None:
    assert caption_facts("A red star.", "A big blue star.") == {
        "num_chars_a": 11.0,
        "num_chars_b": 16.0,
        "num_words_a": 3.0,
        "num_words_b": 4.0,
        "num_changed_words_a": 1.0,
        "num_changed_words_b": 2.0,
    }
    assert set(caption_facts("", "").values()) == {0.0}


@pytest.mark.parametrize(
    ("left", "right", "changed"),
    [
        ("a red star", "a blue star", (1, 1)),
        ("a cat left of a dog", "a dog left of a cat", (2, 2)),
        ("a red star", "a red star and a cat", (0, 3)),
        ("two red cats and one blue dog", "two blue cats and one red dog", (2, 2)),
        ("a a a", "a a", (1, 0)),
        ("", "a star", (0, 2)),
        ("one two", "three", (2, 1)),
        ("same words", "same words", (0, 0)),
    ],
)
def test_changed_words_are_those_outside_of_what_both_share(
    left: str, right: str, changed: tuple[int, int]
) -> None:
    assert num_changed_words(left.split(), right.split()) == changed


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_what_is_not_changed_has_the_same_length_on_both_sides(
    left: list[str], right: list[str]
) -> None:
    changed_a, changed_b = num_changed_words(left, right)
    assert len(left) - changed_a == len(right) - changed_b >= 0
    assert min(changed_a, changed_b) >= 0
    assert (changed_a == changed_b == 0) == (left == right)


def test_a_difference_too_long_to_align_counts_whole() -> None:
    left, right = ["x", *"ab" * MAX_ALIGNED_WORDS, "y"], ["x", *"ba" * MAX_ALIGNED_WORDS, "y"]
    assert num_changed_words(left, right) == (2 * MAX_ALIGNED_WORDS, 2 * MAX_ALIGNED_WORDS)
