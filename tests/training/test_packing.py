"""The packed row of one small pair by hand, and what the mask lets through."""

import pytest
import torch

from training.packing import Packed, PairTokens, pack

IMAGE = 9
PAIR = PairTokens(prompt_image=[1, IMAGE, IMAGE, 2], prompt_text=[1, 2], response_a=[3, 4], response_b=[5])
LONGER = PairTokens(prompt_image=[1, IMAGE, IMAGE, 2, 2], prompt_text=[1, 2, 2], response_a=[3, 4, 6], response_b=[5, 5])


def test_a_row_holds_three_prompts_with_two_responses_each() -> None:
    packed = pack([PAIR], IMAGE)
    assert packed.ids_PL.tolist() == [[1, 9, 9, 2, 3, 4, 5] * 2 + [1, 2, 3, 4, 5]]
    assert packed.positions_PL.tolist() == [[0, 1, 2, 3, 4, 5, 4] * 2 + [0, 1, 2, 3, 2]]
    assert packed.num_tokens_P2.tolist() == [[2, 1]]


def test_the_first_token_of_either_response_is_predicted_from_the_end_of_the_prompt() -> None:
    packed = pack([PAIR], IMAGE)
    # image a: response a [3, 4] from positions 3 and 4, response b [5] from 3; image b: 7 later; no image: prompt ends at 15.
    assert packed.scored_at_T.tolist() == [3, 4, 3, 10, 11, 10, 15, 16, 15]
    assert packed.targets_T.tolist() == [3, 4, 5, 3, 4, 5, 3, 4, 5]
    assert packed.sequence_T.tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5]


def _sees(packed: Packed, row: int, query: int) -> list[int]:
    return packed.attention_mask()[row, 0, query].nonzero().flatten().tolist()


def test_a_token_sees_its_prompt_and_its_own_response_only() -> None:
    packed = pack([PAIR], IMAGE)
    assert packed.attention_mask().dtype == torch.bool
    assert _sees(packed, 0, 5) == [0, 1, 2, 3, 4, 5]  # second token of response a: prompt and itself
    assert _sees(packed, 0, 6) == [0, 1, 2, 3, 6]  # response b does not see response a
    assert _sees(packed, 0, 10) == [7, 8, 9, 10]  # the prompt with image b does not see image a
    assert _sees(packed, 0, 18) == [14, 15, 18]  # response b without an image


def test_padding_sees_only_padding_and_is_seen_by_none() -> None:
    packed = pack([PAIR, LONGER], IMAGE)
    length = len([1, 9, 9, 2, 3, 4, 5]) * 2 + 5
    mask_LL = packed.attention_mask()[0, 0]
    assert not mask_LL[:length, length:].any()
    assert not mask_LL[length:, :length].any()
    assert mask_LL.diagonal().all()  # an all-masked query would be NaN


def test_rows_of_a_batch_keep_their_own_targets() -> None:
    packed = pack([LONGER, PAIR], IMAGE)
    width = packed.ids_PL.shape[1]
    assert (packed.scored_at_T[packed.sequence_T >= 6] >= width).all()
    assert packed.sequence_T.bincount().tolist() == [3, 2] * 3 + [2, 1] * 3


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (PairTokens([1, IMAGE, 2], [1], [3], [4]), r"prompt_image: expected 2 image placeholders \(token 9\), got 1"),
        (PairTokens([1, IMAGE, IMAGE], [1, IMAGE], [3], [4]), "prompt_text: expected 0 image placeholders"),
        (PairTokens([1, IMAGE, IMAGE], [1], [3, IMAGE], [4]), "response_a: expected 0 image placeholders"),
        (PairTokens([1, IMAGE, IMAGE], [1], [3], []), "response_b: expected at least one token"),
    ],
)
def test_placeholders_that_do_not_fit_the_features_are_refused(pair: PairTokens, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack([pair], IMAGE, num_image_tokens=2)
