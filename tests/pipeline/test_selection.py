from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe import RecipeError
from pipeline.selection import (
    Band,
    SelectionSection,
    duplicate_rows,
    linked_groups,
    score_drop_reasons,
    text_drop_reason,
    validation_groups,
)

PAPER = SelectionSection(clip_image_cos=Band(min=0.7), dinov2_image_cos=Band(max=0.5))


@pytest.mark.parametrize(
    ("clip", "dinov2", "reason"),
    [
        (0.91, 0.30, ""),
        (0.70, 0.50, ""),
        (0.6999, 0.30, "clip_image_cos_below_min"),
        (0.91, 0.5001, "dinov2_image_cos_above_max"),
        (0.10, 0.90, "clip_image_cos_below_min"),
    ],
)
def test_bounds_are_inclusive_and_the_first_broken_one_is_the_reason(clip: float, dinov2: float, reason: str) -> None:
    assert score_drop_reasons({"clip_image_cos": np.array([clip]), "dinov2_image_cos": np.array([dinov2])}, PAPER) == [reason]


def test_a_bound_on_a_score_that_nobody_computed_is_an_error() -> None:
    with pytest.raises(RecipeError, match="selection.dinov2_image_cos"):
        score_drop_reasons({"clip_image_cos": np.array([0.9])}, PAPER)


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
def test_captions_that_cannot_be_used_leave_with_the_fact(caption_a: str, caption_b: str, reason: str) -> None:
    assert text_drop_reason(caption_a, caption_b) == reason


def test_of_repeated_pairs_the_smallest_source_id_stays() -> None:
    repeated = duplicate_rows(["p", "q", "p", "p"], [("s", "3"), ("s", "0"), ("s", "1"), ("t", "0")])
    assert repeated.tolist() == [True, False, False, True]


def test_groups_that_share_an_image_become_one() -> None:
    assert linked_groups(["x", "y", "z"], [("1", "2"), ("2", "3"), ("4", "5")]) == ["x", "x", "z"]
    # A chain joins them all, whatever the order in which its links are met.
    assert linked_groups(["c", "a", "b"], [("1", "2"), ("3", "4"), ("2", "3")]) == ["a", "a", "a"]


@given(st.lists(st.integers(0, 12).map(str), min_size=1, max_size=80), st.floats(0.0, 0.6), st.integers(0, 5))
def test_validation_holds_whole_groups_and_leaves_train_something(groups: list[str], fraction: float, seed: int) -> None:
    held_out = validation_groups(groups, fraction, seed)
    sizes = Counter(groups)
    assert held_out <= set(groups)
    assert held_out != set(groups)
    assert bool(held_out) == (fraction > 0 and len(sizes) > 1)
    taken = sum(sizes[group] for group in held_out)
    # Off by at most half of a group, unless even the smallest is more than that.
    assert taken <= max(fraction * len(groups) + max(sizes.values()) / 2, min(sizes.values()))


@pytest.mark.parametrize("seed", range(12))
def test_a_group_that_is_too_large_is_passed_over(seed: int) -> None:
    assert validation_groups(["large"] * 95 + list("abcde"), 0.05, seed) == set("abcde")


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    groups = [str(i % 40) for i in range(400)]
    assert validation_groups(groups, 0.1, 0) == validation_groups(groups[::-1], 0.1, 0)
    assert len(validation_groups(groups, 0.1, 0)) == 4
    assert validation_groups(groups, 0.1, 0) != validation_groups(groups, 0.1, 1)
