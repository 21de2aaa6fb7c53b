"""Losses worked by hand, and the relations that hold for every table of log-ratios."""

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.training.objectives.probe import cells_by_trying, loss_at_start, names_by_trying
from training.config import ObjectiveSection
from training.objectives.losses import Objective, Scores, Values, margins
from training.objectives.terms import (
    ALL_CELLS,
    OBJECTIVES,
    Coefficients,
    active_terms,
    coefficients_of,
)

LN2 = math.log(2)
BETAS = (
    "beta_attend_a",
    "beta_reject_a",
    "beta_attend_b",
    "beta_reject_b",
    "beta_dpo",
    "beta_image",
    "beta_anchor",
)
UNIT = Coefficients(**dict.fromkeys(BETAS, 1.0))
nats = st.floats(-30, 30)
tables = st.lists(nats, min_size=6, max_size=6).map(
    lambda v: torch.tensor(v, dtype=torch.float64).view(1, 3, 2)
)
coefficients = st.builds(Coefficients, **dict.fromkeys(BETAS, st.floats(0.01, 1)))


def scores(D_P32: Tensor) -> Scores:
    tokens_P2 = torch.tensor([[4, 5]]).expand(len(D_P32), 2)
    return Scores(D_P32=D_P32, logps_P32=D_P32 - 20, num_tokens_P2=tokens_P2)


def loss(name: str, given: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    return Objective(name, of)(given)


def table(aa: float, ab: float, ba: float, bb: float, na: float, nb: float) -> Tensor:
    """D[condition, response]: `ba` is image b with response a, `n` no image."""
    return torch.tensor([[[aa, ab], [ba, bb], [na, nb]]], dtype=torch.float64)


def s(x: float) -> float:
    return math.log(1 + math.exp(-x))


HAND = Coefficients(beta_attend_a=0.5, beta_reject_a=1.0, beta_attend_b=1.0, beta_reject_b=0.25)


def test_svco_by_hand() -> None:
    # Arguments: attend_a .5(3-1)=1, reject_a 1(1-1)=0, attend_b 1(2-0)=2, reject_b .25(0-4)=-1.
    loss_P, values = loss(
        "svco",
        scores(table(aa=3, ab=4, ba=1, bb=2, na=1, nb=0)),
        Coefficients(beta_attend_a=0.5, beta_reject_a=1.0, beta_attend_b=1.0, beta_reject_b=0.25),
    )
    # log(1+e^-1) = 0.3132617, log 2 = 0.6931472, log(1+e^-2) = 0.1269280, log(1+e) = 1.3132617
    assert loss_P.tolist() == pytest.approx([0.3132617 + 0.6931472 + 0.1269280 + 1.3132617])
    assert values["loss_attend_a"].item() == pytest.approx(0.3132617)
    assert values["loss_reject_b"].item() == pytest.approx(1.3132617)
    assert [
        values[f"margin_{t}"].item() for t in ("attend_a", "reject_a", "attend_b", "reject_b")
    ] == [2, 0, 2, -4]
    assert [
        values[f"accuracy_{t}"].item() for t in ("attend_a", "reject_a", "attend_b", "reject_b")
    ] == [1, 0, 1, 0]


def test_vco_is_the_a_side_alone() -> None:
    loss_P, values = loss("vco", scores(table(aa=3, ab=4, ba=1, bb=2, na=1, nb=0)), UNIT)
    assert loss_P.tolist() == pytest.approx([s(2) + s(0)])
    assert [name for name in values if name.startswith("loss_")] == [
        "loss_attend_a",
        "loss_reject_a",
    ]


def test_dpo_by_hand() -> None:
    loss_P, values = loss(
        "dpo", scores(table(aa=1, ab=3, ba=9, bb=9, na=9, nb=9)), Coefficients(beta_dpo=0.5)
    )
    assert loss_P.tolist() == pytest.approx([1.3132617])  # log(1 + e^(0.5 * 2))
    assert (values["margin_dpo_a"].item(), values["accuracy_dpo_a"].item()) == (-2, 0)


def test_sft_by_hand() -> None:
    logps_P32 = torch.tensor([[[-8.0, -99.0], [-99.0, -10.0], [-99.0, -99.0]]])
    given = Scores(
        D_P32=torch.zeros(1, 3, 2), logps_P32=logps_P32, num_tokens_P2=torch.tensor([[4, 2]])
    )
    loss_P, values = loss("sft", given, UNIT)
    assert loss_P.tolist() == [(8 / 4 + 10 / 2) / 2]
    assert (values["loss_sft_a"].item(), values["loss_sft_b"].item()) == (2, 5)


D = {"aa": 3, "ab": 1, "ba": 2, "bb": 5, "na": 9, "nb": 9}


def test_dpo_symmetric_by_hand() -> None:
    loss_P, values = loss("dpo_symmetric", scores(table(**D)), Coefficients(beta_dpo=0.5))
    assert loss_P.tolist() == pytest.approx([s(0.5 * (3 - 1)) + s(0.5 * (5 - 2))])
    assert (values["margin_dpo_a"].item(), values["margin_dpo_b"].item()) == (2, 3)


def test_mdpo_by_hand() -> None:
    loss_P, values = loss(
        "mdpo", scores(table(**D)), Coefficients(beta_dpo=0.5, beta_image=2.0, beta_anchor=0.1)
    )
    assert loss_P.tolist() == pytest.approx([s(0.5 * (3 - 1)) + s(2 * (3 - 2)) + s(0.1 * 3)])
    assert values["loss_image_a"].item() == pytest.approx(0.1269280)  # log(1 + e^-2)


def test_mpo_by_hand() -> None:
    # The text has 4 tokens and log-probability 3 - 20 under its own image: 17 / 4 nats per token.
    loss_P, values = loss("mpo", scores(table(**D)), Coefficients(beta_dpo=0.5))
    assert loss_P.tolist() == pytest.approx(
        [0.8 * s(0.5 * 2) + 0.2 * (s(0.5 * 3) + s(-0.5 * 1)) + 17 / 4]
    )
    assert values["loss_generation"].item() == pytest.approx(4.25)


def test_symmpo_by_hand() -> None:
    loss_P, values = loss(
        "symmpo",
        scores(table(**D)),
        Coefficients(beta_dpo=0.5, beta_anchor=0.1, weight_margin=0.01),
    )
    assert loss_P.tolist() == pytest.approx(
        [0.5 * (s(1) + s(1.5)) + s(0.1 * 3) + s(0.1 * 5) + 0.01 * (2 - 3) ** 2]
    )
    assert values["loss_margin"].item() == pytest.approx(0.01)


def test_anchor_by_hand() -> None:
    assert loss("anchor", scores(table(**D)), Coefficients(beta_anchor=0.2))[
        0
    ].tolist() == pytest.approx([s(0.6) + s(1)])


def test_a_weighted_sum_by_hand() -> None:
    both = Objective("svco", UNIT, {"sft": 0.5, "anchor": 2.0})
    parts = [loss(name, scores(table(**D)), UNIT)[0].item() for name in ("svco", "sft", "anchor")]
    loss_P, values = both(scores(table(**D)))
    assert loss_P.item() == pytest.approx(parts[0] + 0.5 * parts[1] + 2 * parts[2])
    assert values["loss_plus_anchor"].item() == pytest.approx(2 * parts[2])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("svco", 4),
        ("vco", 2),
        ("dpo", 1),
        ("dpo_symmetric", 2),
        ("mdpo", 3),
        ("symmpo", 0.5 * 2 + 2),
        ("anchor", 2),
        ("sft", None),
        ("mpo", None),
    ],
)
def test_with_policy_equal_to_reference_each_term_is_log_2_times_its_weight(
    name: str, weights: float | None
) -> None:
    at_start = loss_at_start(Objective(name))
    if weights is None:
        assert at_start is None  # the model's own likelihood counts
    else:
        assert at_start == pytest.approx(weights * LN2)
        assert Objective(name)(scores(torch.zeros(5, 3, 2)))[0].tolist() == pytest.approx(
            [weights * LN2] * 5
        )


def test_without_its_likelihood_term_mpo_starts_at_log_2_times_its_weights() -> None:
    assert loss_at_start(Objective("mpo", Coefficients(weight_generation=0.0))) == pytest.approx(
        (0.8 + 0.2 * 2) * LN2
    )


A, B, NONE = 0, 1, 2


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("svco", ALL_CELLS),
        ("vco", {(A, 0), (NONE, 0), (B, 0)}),
        ("sft", {(A, 0), (B, 1)}),
        ("anchor", {(A, 0), (B, 1)}),
        ("dpo", {(A, 0), (A, 1)}),
        ("mpo", {(A, 0), (A, 1)}),
        ("dpo_symmetric", {(A, 0), (A, 1), (B, 0), (B, 1)}),
        ("symmpo", {(A, 0), (A, 1), (B, 0), (B, 1)}),
        ("mdpo", {(A, 0), (A, 1), (B, 0)}),
    ],
)
def test_an_objective_knows_the_cells_it_needs(name: str, cells: set[tuple[int, int]]) -> None:
    assert Objective(name).cells == cells


def test_a_removed_term_and_an_added_one_change_the_cells() -> None:
    assert (
        Objective("svco", Coefficients(beta_attend_b=0.0, beta_reject_b=0.0)).cells
        == Objective("vco").cells
    )
    assert Objective("vco", plus={"sft": 0.1}).cells == Objective("vco").cells | {(B, 1)}


def test_only_values_of_known_cells_have_names() -> None:
    names = Objective("dpo").value_names(Objective("dpo").cells)
    assert names == ["loss_dpo_a", "margin_dpo_a", "accuracy_dpo_a"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_cells_and_names_are_those_that_the_loss_depends_on(name: str) -> None:
    heeded = coefficients_of(name)
    zeros = [(), *((a,) for a in heeded), *((a, b) for a in heeded for b in heeded if a < b)]
    sections = [ObjectiveSection(name=name, plus={"sft": 0.5})]
    sections += [
        ObjectiveSection(name=name, **dict.fromkeys(zero, 0)) for zero in zeros if left(name, zero)
    ]
    for section in sections:
        objective = Objective(section.name, section, section.plus)
        assert section.cells == objective.cells == cells_by_trying(objective), section
        for cells in (section.cells, ALL_CELLS):
            assert objective.value_names(cells) == names_by_trying(objective, cells), section


def left(name: str, zero: tuple[str, ...]) -> bool:
    """Whether a term is left to train."""
    return bool(active_terms(name, Coefficients(**dict.fromkeys(zero, 0))))


@pytest.mark.slow
@hypothesis.given(tables, coefficients)
def test_swapping_the_sides_leaves_what_is_symmetric_unchanged(
    D_P32: Tensor, given: Coefficients
) -> None:
    swapped_P32 = D_P32[:, [1, 0, 2]][:, :, [1, 0]]
    for name in ("dpo_symmetric", "symmpo", "anchor"):
        torch.testing.assert_close(
            loss(name, scores(D_P32), given)[0],
            loss(name, scores(swapped_P32), given)[0],
        )


@pytest.mark.slow
@hypothesis.given(tables)
def test_sums_of_parts_are_other_objectives(D_P32: Tensor) -> None:
    one_sided = (
        loss("dpo", scores(D_P32), UNIT)[0]
        + loss("dpo", scores(D_P32[:, [1, 0, 2]][:, :, [1, 0]]), UNIT)[0]
    )
    torch.testing.assert_close(loss("dpo_symmetric", scores(D_P32), UNIT)[0], one_sided)
    no_margin = Coefficients(
        **{**dict.fromkeys(BETAS, 1.0), "weight_pair": 1.0, "weight_margin": 0.0}
    )
    torch.testing.assert_close(
        loss("symmpo", scores(D_P32), no_margin)[0],
        Objective("dpo_symmetric", UNIT, {"anchor": 1.0})(scores(D_P32))[0],
    )


def test_a_beta_of_zero_removes_its_term_and_not_the_measurement() -> None:
    D_P32 = table(aa=3, ab=4, ba=1, bb=2, na=1, nb=0)
    loss_P, values = loss(
        "svco",
        scores(D_P32),
        Coefficients(beta_attend_a=1.0, beta_reject_a=0.0, beta_attend_b=0.0, beta_reject_b=0.0),
    )
    assert loss_P.tolist() == pytest.approx([s(2)])
    assert "loss_reject_a" not in values
    assert values["margin_reject_b"].item() == -4


def test_an_objective_without_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="every coefficient"):
        loss(
            "svco",
            scores(torch.zeros(1, 3, 2)),
            Coefficients(
                beta_attend_a=0.0, beta_reject_a=0.0, beta_attend_b=0.0, beta_reject_b=0.0
            ),
        )


def test_gradients_pull_the_matching_image_up_and_the_contradictory_one_down() -> None:
    D_P32 = torch.zeros(1, 3, 2, requires_grad=True)
    loss("svco", scores(D_P32), UNIT)[0].sum().backward()
    assert D_P32.grad is not None
    # At the start attend and reject cancel for the text without an image.
    assert D_P32.grad[0].tolist() == [[-0.5, 0.5], [0.5, -0.5], [0.0, 0.0]]


def test_values_carry_no_gradient() -> None:
    D_P32 = torch.zeros(2, 3, 2, requires_grad=True)
    for name in OBJECTIVES:
        values: Values = loss(name, scores(D_P32), UNIT)[1]
        assert not any(value.requires_grad for value in values.values())


@hypothesis.given(tables, coefficients)
def test_swapping_the_sides_leaves_svco_unchanged(D_P32: Tensor, given: Coefficients) -> None:
    swapped_P32 = D_P32[:, [1, 0, 2]][:, :, [1, 0]]
    other = Coefficients(
        beta_attend_a=given.beta_attend_b,
        beta_reject_a=given.beta_reject_b,
        beta_attend_b=given.beta_attend_a,
        beta_reject_b=given.beta_reject_a,
    )
    torch.testing.assert_close(
        loss("svco", scores(D_P32), given)[0], loss("svco", scores(swapped_P32), other)[0]
    )


@hypothesis.given(tables, nats)
def test_only_what_the_image_changes_counts(D_P32: Tensor, shift: float) -> None:
    # a constant per text, whatever the image
    moved_P32 = D_P32 + torch.tensor([shift, -2 * shift], dtype=torch.float64)
    torch.testing.assert_close(
        loss("svco", scores(D_P32), UNIT)[0], loss("svco", scores(moved_P32), UNIT)[0]
    )


@hypothesis.given(tables, coefficients)
def test_svco_is_vco_of_either_side_and_each_term_is_a_dpo_loss(
    D_P32: Tensor, given: Coefficients
) -> None:
    loss_P, values = loss("svco", scores(D_P32), given)
    side_a_P, _ = loss("vco", scores(D_P32), given)
    assert loss_P.item() == pytest.approx(
        (side_a_P + values["loss_attend_b"] + values["loss_reject_b"]).item()
    )
    chosen, rejected = D_P32[0, 0, 0], D_P32[0, 2, 0]
    as_dpo = loss(
        "dpo",
        scores(table(chosen, rejected, 0, 0, 0, 0)),
        Coefficients(beta_dpo=given.beta_attend_a),
    )[0]
    assert values["loss_attend_a"].item() == pytest.approx(as_dpo.item())


@hypothesis.given(tables)
def test_the_four_margins_add_up_to_the_interaction_of_image_and_text(D_P32: Tensor) -> None:
    total = sum(margin_P.item() for margin_P in margins(OBJECTIVES["svco"], D_P32).values())
    (aa, ab), (ba, bb) = D_P32[0, 0].tolist(), D_P32[0, 1].tolist()
    assert total == pytest.approx((aa - ba) + (bb - ab), abs=1e-9)
