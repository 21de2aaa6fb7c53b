"""Losses worked by hand, and the relations that hold for every table of log-ratios."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.objectives import OBJECTIVES, Betas, Scores, Values, contrasts, dpo, loss_at_start, sft, svco, vco

LN2 = math.log(2)
UNIT = Betas(attend_a=1.0, reject_a=1.0, attend_b=1.0, reject_b=1.0, dpo=1.0)
nats = st.floats(-30, 30)
tables = st.lists(nats, min_size=6, max_size=6).map(lambda v: torch.tensor(v, dtype=torch.float64).view(1, 3, 2))
betas = st.builds(Betas, **dict.fromkeys(("attend_a", "reject_a", "attend_b", "reject_b"), st.floats(0.01, 1)))


def scores(D_P32: Tensor) -> Scores:
    tokens_P2 = torch.tensor([[4, 5]]).expand(len(D_P32), 2)
    return Scores(D_P32=D_P32, logps_P32=D_P32 - 20, num_tokens_P2=tokens_P2)


def table(aa: float, ab: float, ba: float, bb: float, na: float, nb: float) -> Tensor:
    """D[condition, response]: `ba` is image b with response a, `n` no image."""
    return torch.tensor([[[aa, ab], [ba, bb], [na, nb]]], dtype=torch.float64)


def s(x: float) -> float:
    return math.log(1 + math.exp(-x))


def test_svco_by_hand() -> None:
    # Arguments: attend_a .5(3-1)=1, reject_a 1(1-1)=0, attend_b 1(2-0)=2, reject_b .25(0-4)=-1.
    loss_P, values = svco(scores(table(aa=3, ab=4, ba=1, bb=2, na=1, nb=0)), Betas(attend_a=0.5, reject_a=1.0, attend_b=1.0, reject_b=0.25))
    # log(1+e^-1) = 0.3132617, log 2 = 0.6931472, log(1+e^-2) = 0.1269280, log(1+e) = 1.3132617
    assert loss_P.tolist() == pytest.approx([0.3132617 + 0.6931472 + 0.1269280 + 1.3132617])
    assert values["loss_attend_a"].item() == pytest.approx(0.3132617)
    assert values["loss_reject_b"].item() == pytest.approx(1.3132617)
    assert [values[f"margin_{t}"].item() for t in ("attend_a", "reject_a", "attend_b", "reject_b")] == [2, 0, 2, -4]
    assert [values[f"accuracy_{t}"].item() for t in ("attend_a", "reject_a", "attend_b", "reject_b")] == [1, 0, 1, 0]


def test_vco_is_the_a_side_alone() -> None:
    loss_P, values = vco(scores(table(aa=3, ab=4, ba=1, bb=2, na=1, nb=0)), UNIT)
    assert loss_P.tolist() == pytest.approx([s(2) + s(0)])
    assert [name for name in values if name.startswith("loss_")] == ["loss_attend_a", "loss_reject_a"]


def test_dpo_by_hand() -> None:
    loss_P, values = dpo(scores(table(aa=1, ab=3, ba=9, bb=9, na=9, nb=9)), Betas(dpo=0.5))
    assert loss_P.tolist() == pytest.approx([1.3132617])  # log(1 + e^(0.5 * 2))
    assert (values["margin_dpo"].item(), values["accuracy_dpo"].item()) == (-2, 0)


def test_sft_by_hand() -> None:
    logps_P32 = torch.tensor([[[-8.0, -99.0], [-99.0, -10.0], [-99.0, -99.0]]])
    given_ = Scores(D_P32=torch.zeros(1, 3, 2), logps_P32=logps_P32, num_tokens_P2=torch.tensor([[4, 2]]))
    loss_P, values = sft(given_, UNIT)
    assert loss_P.tolist() == [(8 / 4 + 10 / 2) / 2]
    assert (values["loss_sft_a"].item(), values["loss_sft_b"].item()) == (2, 5)


@pytest.mark.parametrize(("name", "num_terms"), [("svco", 4), ("vco", 2), ("dpo", 1)])
def test_with_policy_equal_to_reference_each_term_is_log_2(name: str, num_terms: int) -> None:
    loss_P, _ = OBJECTIVES[name](scores(torch.zeros(5, 3, 2)), Betas())
    assert loss_P.tolist() == pytest.approx([num_terms * LN2] * 5)
    assert loss_at_start(name, Betas()) == pytest.approx(num_terms * LN2)


def test_a_beta_of_zero_removes_its_term_and_not_the_measurement() -> None:
    D_P32 = table(aa=3, ab=4, ba=1, bb=2, na=1, nb=0)
    loss_P, values = svco(scores(D_P32), Betas(attend_a=1.0, reject_a=0.0, attend_b=0.0, reject_b=0.0))
    assert loss_P.tolist() == pytest.approx([s(2)])
    assert "loss_reject_a" not in values
    assert values["margin_reject_b"].item() == -4


def test_an_objective_without_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="every beta"):
        svco(scores(torch.zeros(1, 3, 2)), Betas(attend_a=0.0, reject_a=0.0, attend_b=0.0, reject_b=0.0))


def test_gradients_pull_the_matching_image_up_and_the_contradictory_one_down() -> None:
    D_P32 = torch.zeros(1, 3, 2, requires_grad=True)
    svco(scores(D_P32), UNIT)[0].sum().backward()
    assert D_P32.grad is not None
    # At the start attend and reject cancel for the text without an image.
    assert D_P32.grad[0].tolist() == [[-0.5, 0.5], [0.5, -0.5], [0.0, 0.0]]


def test_values_carry_no_gradient() -> None:
    D_P32 = torch.zeros(2, 3, 2, requires_grad=True)
    for objective in OBJECTIVES.values():
        values: Values = objective(scores(D_P32), UNIT)[1]
        assert not any(value.requires_grad for value in values.values())


@given(tables, betas)
def test_swapping_the_sides_leaves_svco_unchanged(D_P32: Tensor, given_betas: Betas) -> None:
    swapped_P32 = D_P32[:, [1, 0, 2]][:, :, [1, 0]]
    other = Betas(
        attend_a=given_betas.attend_b, reject_a=given_betas.reject_b, attend_b=given_betas.attend_a, reject_b=given_betas.reject_a
    )
    torch.testing.assert_close(svco(scores(D_P32), given_betas)[0], svco(scores(swapped_P32), other)[0])


@given(tables, nats)
def test_only_what_the_image_changes_counts(D_P32: Tensor, shift: float) -> None:
    moved_P32 = D_P32 + torch.tensor([shift, -2 * shift], dtype=torch.float64)  # a constant per text, whatever the image
    torch.testing.assert_close(svco(scores(D_P32), UNIT)[0], svco(scores(moved_P32), UNIT)[0])


@given(tables, betas)
def test_svco_is_vco_of_either_side_and_each_term_is_a_dpo_loss(D_P32: Tensor, given_betas: Betas) -> None:
    loss_P, values = svco(scores(D_P32), given_betas)
    side_a_P, _ = vco(scores(D_P32), given_betas)
    assert loss_P.item() == pytest.approx((side_a_P + values["loss_attend_b"] + values["loss_reject_b"]).item())
    chosen, rejected = D_P32[0, 0, 0], D_P32[0, 2, 0]
    as_dpo = dpo(scores(table(chosen, rejected, 0, 0, 0, 0)), Betas(dpo=given_betas.attend_a))[0]
    assert values["loss_attend_a"].item() == pytest.approx(as_dpo.item())


@given(tables)
def test_the_four_margins_add_up_to_the_interaction_of_image_and_text(D_P32: Tensor) -> None:
    total = sum(margin_P.item() for margin_P in contrasts(D_P32).values())
    (aa, ab), (ba, bb) = D_P32[0, 0].tolist(), D_P32[0, 1].tolist()
    assert total == pytest.approx((aa - ba) + (bb - ab), abs=1e-9)
