"""Split attention against one masked call, on small random tensors; and what it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from training.models.attention import runs_of, split_attention
from training.models.packing import Packed, PairTokens, pack

IMAGE = 9
CPU = torch.device("cpu")
SHORT = PairTokens(
    prompt_image=[1, IMAGE, IMAGE, 2], prompt_text=[1, 2], response_a=[3, 4], response_b=[5]
)
LONG = PairTokens(
    prompt_image=[1, IMAGE, IMAGE, 2, 2],
    prompt_text=[1, 2, 2],
    response_a=[3, 4, 6],
    response_b=[5, 5],
)


def _states(packed: Packed, num_heads: int, num_key_heads: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = (num_heads, num_key_heads, num_key_heads)
    return [
        torch.randn(1, h, len(packed.ids_L), 8, generator=generator, requires_grad=True)
        for h in heads
    ]


def _split(packed: Packed, states: list[Tensor], **options: Any) -> Tensor:
    return split_attention(
        torch.nn.Module(), *states, None, packed_runs=runs_of(packed.groups, CPU), **options
    )[0]


def test_equal_neighbours_are_one_run_and_a_mask_is_as_small_as_a_group() -> None:
    first, second = runs_of(pack([SHORT], IMAGE).groups, CPU)
    assert (first.num_groups, second.num_groups) == (2, 1)
    assert first.mask_RN is not None
    # Responses [3, 4] and [5] after four prompt tokens: each sees the prompt and its own response
    # up to itself.
    assert first.mask_RN.int().tolist() == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("num_key_heads", [4, 2])
@pytest.mark.parametrize("cells", [None, [(0, 0), (0, 1)], [(0, 0), (1, 1)]])
def test_it_equals_one_call_under_the_whole_mask(
    num_key_heads: int, cells: list[tuple[int, int]] | None
) -> None:
    packed = pack([SHORT, LONG, LONG], IMAGE, **({} if cells is None else {"cells": cells}))
    states = _states(packed, 4, num_key_heads)
    query, key, value = states
    repeated = [s.repeat_interleave(4 // num_key_heads, dim=1) for s in (key, value)]
    expected = scaled_dot_product_attention(
        query, *repeated, attn_mask=packed.attention_mask(), scale=0.3
    ).transpose(1, 2)
    found = _split(packed, states, scaling=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = (torch.autograd.grad((seen * weights).sum(), states) for seen in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_without_a_packed_row_it_is_plain_causal_attention() -> None:
    query, key, value = _states(pack([SHORT], IMAGE), 4, 4)
    found, _ = split_attention(
        torch.nn.Module(), query, key, value, None, scaling=0.3, is_causal=True
    )
    expected = scaled_dot_product_attention(query, key, value, scale=0.3, is_causal=True).transpose(
        1, 2
    )
    torch.testing.assert_close(found, expected)


def test_dropout_and_rows_that_do_not_fit_are_refused() -> None:
    packed = pack([SHORT], IMAGE)
    states = _states(packed, 4, 4)
    with pytest.raises(ValueError, match="attention dropout 0"):
        _split(packed, states, dropout=0.1)
    with pytest.raises(ValueError, match="expected one row of 19 tokens, got 1 of 18"):
        _split(packed, [s[:, :, 1:] for s in states])
