"""The packed row of one small pair by hand, and what the mask lets through."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.models.packing import Group, Packed, PackedImage, PairTokens, pack

IMAGE = 9
PAIR = PairTokens(
    prompt_image=[1, IMAGE, IMAGE, 2], prompt_text=[1, 2], response_a=[3, 4], response_b=[5]
)
LONGER = PairTokens(
    prompt_image=[1, IMAGE, IMAGE, 2, 2],
    prompt_text=[1, 2, 2],
    response_a=[3, 4, 6],
    response_b=[5, 5],
)


def test_a_row_holds_three_prompts_with_two_responses_each() -> None:
    packed = pack([PAIR], IMAGE)
    assert packed.ids_L.tolist() == [1, 9, 9, 2, 3, 4, 5] * 2 + [1, 2, 3, 4, 5]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 4] * 2 + [0, 1, 2, 3, 2]]
    assert packed.num_tokens_P2.tolist() == [[2, 1]]


def test_the_first_token_of_either_response_is_predicted_from_the_end_of_the_prompt() -> None:
    packed = pack([PAIR], IMAGE)
    # image a: response a [3, 4] from positions 3 and 4, response b [5] from 3; image b: 7 later; no
    # image: prompt ends at 15.
    assert packed.scored_at_T.tolist() == [3, 4, 3, 10, 11, 10, 15, 16, 15]
    assert packed.targets_T.tolist() == [3, 4, 5, 3, 4, 5, 3, 4, 5]
    assert packed.sequence_T.tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5]


def _sees(packed: Packed, query: int) -> list[int]:
    return packed.attention_mask()[0, 0, query].nonzero().flatten().tolist()


def test_a_token_sees_its_prompt_and_its_own_response_only() -> None:
    packed = pack([PAIR], IMAGE)
    assert packed.attention_mask().dtype == torch.bool
    assert _sees(packed, 5) == [0, 1, 2, 3, 4, 5]  # second token of response a: prompt and itself
    assert _sees(packed, 6) == [0, 1, 2, 3, 6]  # response b does not see response a
    assert _sees(packed, 10) == [7, 8, 9, 10]  # the prompt with image b does not see image a
    assert _sees(packed, 18) == [14, 15, 18]  # response b without an image


def test_several_pairs_share_a_row_without_padding_and_without_seeing_each_other() -> None:
    packed = pack([PAIR, LONGER], IMAGE)
    assert len(packed.ids_L) == 19 + 2 * (5 + 5) + 3 + 5
    # Groups with an image come first: those of the first pair, 7 tokens each, those of the second,
    # then both without.
    assert packed.groups == (Group(4, (2, 1)),) * 2 + (Group(5, (3, 2)),) * 2 + (
        Group(2, (2, 1)),
        Group(3, (3, 2)),
    )
    assert packed.images == (
        PackedImage(0, 0, 2),
        PackedImage(0, 1, 2),
        PackedImage(1, 0, 2),
        PackedImage(1, 1, 2),
    )
    # the first token of the second pair's response a
    assert _sees(packed, 19) == [14, 15, 16, 17, 18, 19]
    assert packed.sequence_T.bincount().tolist() == [2, 1] * 3 + [3, 2] * 3
    assert packed.num_tokens_P2.tolist() == [[2, 1], [3, 2]]
    # no image, response b: prompt's end, 5
    assert packed.ids_L[packed.scored_at_T[packed.sequence_T == 11]].tolist() == [2, 5]


def test_only_needed_cells_are_packed() -> None:
    packed = pack([PAIR], IMAGE, cells=[(0, 0), (0, 1), (1, 0)])
    assert packed.ids_L.tolist() == [1, 9, 9, 2, 3, 4, 5, 1, 9, 9, 2, 3, 4]
    assert sorted(set(packed.sequence_T.tolist())) == [0, 1, 2]
    assert pack([PAIR], IMAGE, cells=[(2, 1)]).images == ()
    for wrong in ([], [(3, 0)]):
        with pytest.raises(ValueError, match="expected cells among"):
            pack([PAIR], IMAGE, cells=wrong)


def test_images_of_unlike_sizes_have_prompts_and_positions_of_their_own() -> None:
    # As with Qwen-VL: an image of 1 x 2 features, of which the columns count, then one of 1 x 1.
    prompt_b, positions_a = (
        [1, IMAGE, 2],
        np.array([[0, 1, 1, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 3, 4]]),
    )
    pair = replace(
        PAIR,
        prompt_image_b=prompt_b,
        positions_a=positions_a,
        positions_b=np.array([[0, 1, 2, 3]] * 3),
    )
    packed = pack([pair], IMAGE)
    assert [image.num_tokens for image in packed.images] == [2, 1]
    assert packed.position_ids.shape == (3, 1, len(packed.ids_L))
    assert packed.position_ids[0, 0].tolist() == [
        0,
        1,
        1,
        3,
        4,
        5,
        4,
        0,
        1,
        2,
        3,
        4,
        3,
        0,
        1,
        2,
        3,
        2,
    ]
    assert packed.position_ids[2, 0, :4].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="positions_b: expected 4 positions, got 5"):
        pack([replace(pair, positions_b=positions_a)], IMAGE)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            PairTokens([1, IMAGE, 2], [1], [3], [4]),
            r"pair p7: prompt_image: expected 2 image placeholders \(token 9\), got 1",
        ),
        (
            PairTokens([1, IMAGE, IMAGE], [1, IMAGE], [3], [4]),
            "prompt_text: expected 0 image placeholders",
        ),
        (
            PairTokens([1, IMAGE, IMAGE], [1], [3, IMAGE], [4]),
            "response_a: expected 0 image placeholders",
        ),
        (PairTokens([1, IMAGE, IMAGE], [1], [3], []), "response_b: expected at least one token"),
    ],
)
def test_placeholders_that_do_not_fit_the_features_are_refused(
    pair: PairTokens, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pack([PAIR, replace(pair, pair_id="p7")], IMAGE, num_image_tokens=2)
