"""What every objective is made of: one table, without torch, from which all else follows.

A loss per pair is a sum of terms weight * f(beta * margin). A margin is a sum of entries of
D[condition, response], the log-ratio of policy to reference (`training.objectives.losses`), less a
sum of others. Which log-probabilities are computed, what a recipe may set, what is logged, and the
loss itself are read off `OBJECTIVES`. A cell is written image first, then answer: AB is answer b
under image a.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from pipeline.core.recipe import Section

# (condition, response): conditions are image a, image b, no image; responses a, b
Cell = tuple[int, int]
IMAGE_A, IMAGE_B, NO_IMAGE = 0, 1, 2
RESPONSE_A, RESPONSE_B = 0, 1
ALL_CELLS: frozenset[Cell] = frozenset(itertools.product(range(3), range(2)))
AA, AB = (IMAGE_A, RESPONSE_A), (IMAGE_A, RESPONSE_B)
BA, BB = (IMAGE_B, RESPONSE_A), (IMAGE_B, RESPONSE_B)
NONE_A, NONE_B = (NO_IMAGE, RESPONSE_A), (NO_IMAGE, RESPONSE_B)


class Coefficients(Section):
    """Inverse temperatures, of which larger trust the reference more, and weights."""

    beta_attend_a: float = Field(default=0.1, ge=0)
    beta_reject_a: float = Field(default=0.1, ge=0)
    beta_attend_b: float = Field(default=0.1, ge=0)
    beta_reject_b: float = Field(default=0.1, ge=0)
    beta_dpo: float = Field(default=0.1, ge=0)
    beta_image: float = Field(default=0.1, ge=0)
    beta_anchor: float = Field(default=0.1, ge=0)
    weight_preference: float = Field(default=0.8, ge=0)
    weight_quality: float = Field(default=0.2, ge=0)
    weight_generation: float = Field(default=1.0, ge=0)
    weight_pair: float = Field(default=0.5, ge=0)
    weight_margin: float = Field(default=1e-4, ge=0)


@dataclass(frozen=True, slots=True)
class Margin:
    """The sum of `plus` less the sum of `minus`, in nats.

    A part that is itself a margin is computed once for all terms that share it, and first, so that
    the order in which gradients are added up is fixed.
    """

    plus: "tuple[Cell | Margin, ...]"
    minus: "tuple[Cell | Margin, ...]" = ()

    @property
    def parts(self) -> "tuple[Cell | Margin, ...]":
        """All that it is the sum of."""
        return self.plus + self.minus

    @property
    def cells(self) -> frozenset[Cell]:
        """The log-ratios that it reads."""
        return frozenset().union(
            *(part.cells if isinstance(part, Margin) else {part} for part in self.parts)
        )


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a loss; gone where a coefficient that it names is 0.

    Its forms: "log_sigmoid", weight * -log sigmoid(beta * margin); "square", weight * margin^2;
    "nll", weight * -logps / tokens of its one cell, without the reference.
    """

    name: str  # in what is logged: loss_<name>, margin_<name>, accuracy_<name>
    margin: Margin
    beta: str = ""  # the name of a coefficient; 1 without one
    weight: str = ""
    form: Literal["log_sigmoid", "square", "nll"] = "log_sigmoid"
    share: float = 1.0  # of it in the sum; logged is the whole

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Those that it names."""
        return tuple(filter(None, (self.beta, self.weight)))


def _nll(name: str, cell: Cell, weight: str = "", share: float = 1.0) -> Term:
    return Term(name, Margin((cell,)), weight=weight, form="nll", share=share)


_NONE_A, _NONE_B, _OWN_A = Margin((NONE_A,)), Margin((NONE_B,)), Margin((AA,))
_SIDE_A = (
    Term("attend_a", Margin((AA,), (_NONE_A,)), "beta_attend_a"),
    Term("reject_a", Margin((_NONE_A,), (BA,)), "beta_reject_a"),
)
_SIDE_B = (
    Term("attend_b", Margin((BB,), (_NONE_B,)), "beta_attend_b"),
    Term("reject_b", Margin((_NONE_B,), (AB,)), "beta_reject_b"),
)
_DPO_A = Term("dpo_a", Margin((AA,), (AB,)), "beta_dpo")
_DPO_B = Term("dpo_b", Margin((BB,), (BA,)), "beta_dpo")
_ANCHOR_A = Term("anchor_a", _OWN_A, "beta_anchor")
_ANCHOR_B = Term("anchor_b", Margin((BB,)), "beta_anchor")

OBJECTIVES: Mapping[str, tuple[Term, ...]] = MappingProxyType(
    {
        # S-VCO (arXiv:2502.13928), section 3.1; official trainer.py at bc8f941, reproduced by
        # tests/golden. The four margins add up to how far each text has moved to its own image.
        "svco": (*_SIDE_A, *_SIDE_B),
        # Its ablation without symmetry.
        "vco": _SIDE_A,
        # Its SFT baseline, which uses both sides of each pair: their mean.
        "sft": (_nll("sft_a", AA, share=0.5), _nll("sft_b", BB, share=0.5)),
        # DPO (arXiv:2305.18290): the matching text is chosen, the contradictory one rejected.
        "dpo": (_DPO_A,),
        # DPO applied to either side; with anchors it is the loss of IC-VCO's single branch.
        "dpo_symmetric": (_DPO_A, _DPO_B),
        # mDPO (arXiv:2406.11839). The original takes a cropped image a as the conditional negative,
        # here it is the pair's other image. The anchor's threshold is 0, as in the released code.
        "mdpo": (_DPO_A, Term("image_a", Margin((_OWN_A,), (BA,)), "beta_image"), _ANCHOR_A),
        # MPO (arXiv:2411.10442). The reward shift of the quality terms, which judge each text
        # alone, is 0, as in TRL's `bco_pair`; the authors' code subtracts a running mean.
        "mpo": (
            replace(_DPO_A, weight="weight_preference"),
            Term("quality_a", _OWN_A, "beta_dpo", "weight_quality"),
            Term("quality_b", Margin((), (AB,)), "beta_dpo", "weight_quality"),
            _nll("generation", AA, "weight_generation"),
        ),
        # SymMPO (arXiv:2506.11712) and its released code, whose weights these are. The original has
        # one more DPO term, against a third, generated answer, which MVC has not.
        "symmpo": (
            replace(_DPO_A, weight="weight_pair"),
            replace(_DPO_B, weight="weight_pair"),
            _ANCHOR_A,
            _ANCHOR_B,
            Term(
                "margin",
                Margin((_DPO_A.margin,), (_DPO_B.margin,)),
                weight="weight_margin",
                form="square",
            ),
        ),
        # The anchors of mDPO for both sides, which keep each text under its own image at least as
        # likely as it was; meant to be added to another objective.
        "anchor": (_ANCHOR_A, _ANCHOR_B),
    }
)


def sides_of(cells: frozenset[Cell]) -> list[int]:
    """The images that some cells look at, image a (0) first."""
    return [side for side in (IMAGE_A, IMAGE_B) if any(side == condition for condition, _ in cells)]


def coefficients_of(name: str) -> tuple[str, ...]:
    """The coefficients that an objective heeds."""
    return tuple(dict.fromkeys(c for term in OBJECTIVES[name] for c in term.coefficients))


def active_terms(name: str, coefficients: Coefficients) -> list[Term]:
    """The terms of an objective that no coefficient of 0 removes."""
    return [
        term
        for term in OBJECTIVES[name]
        if all(getattr(coefficients, coefficient) for coefficient in term.coefficients)
    ]


def cells_of(names: Iterable[str], coefficients: Coefficients) -> frozenset[Cell]:
    """The cells that the sum of some objectives depends on."""
    return frozenset().union(
        *(term.margin.cells for name in names for term in active_terms(name, coefficients))
    )


def measured_terms(name: str) -> list[Term]:
    """The terms whose margins are logged: S-VCO's, then the objective's own."""
    terms = {term.name: term for term in (*OBJECTIVES["svco"], *OBJECTIVES[name])}
    return [term for term in terms.values() if term.form == "log_sigmoid"]


def reference_cells_of(names: Sequence[str], coefficients: Coefficients) -> frozenset[Cell]:
    """The cells of the sum of some objectives, the first of which is logged, that the reference's
    numbers are needed of: a likelihood alone is compared with none.
    """
    cells = cells_of(names, coefficients)
    losses = (term for name in names for term in active_terms(name, coefficients))
    compared = [term.margin.cells for term in losses if term.form != "nll"]
    logged = [term.margin.cells for term in measured_terms(names[0])]
    return frozenset().union(*compared, *(known for known in logged if known <= cells))
