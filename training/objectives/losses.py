"""Any objective of the table `training.objectives.terms`, as a pure function of log-ratios.

Knows nothing of models, batches or workers.

Shapes: P pairs, 3 image conditions in the order (image a, image b, no image), 2 responses in the
order (a, b). D_P32[p, c, r] = log pi_policy(response r | condition c) - log pi_reference(response r
| condition c), summed over the response tokens, in nats. A cell that was not computed is NaN, so
that an objective which uses it shows.
"""

import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from training.objectives.terms import (
    OBJECTIVES,
    Cell,
    Coefficients,
    Margin,
    Term,
    active_terms,
    cells_of,
    measured_terms,
    reference_cells_of,
)

Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What every objective is a function of."""

    D_P32: Tensor
    logps_P32: Tensor  # of the policy alone, for objectives with a likelihood term
    num_tokens_P2: Tensor  # length of each response, its end-of-turn token included


@dataclass(frozen=True, slots=True)
class Objective:
    """One loss, or a weighted sum: that of `name` plus weight times each of `plus`."""

    name: str
    coefficients: Coefficients = field(default_factory=Coefficients)
    plus: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, scores: Scores) -> tuple[Tensor, Values]:
        """The loss per pair and what is logged of it.

        With policy = reference each log_sigmoid term is log 2 times its weight.

        Returns:
            The loss, [P], not reduced; and detached values per pair by name: `loss_<term>` for each
            active term; `margin_<term>` (nats, without beta) and `accuracy_<term>` (1 where the
            margin is positive) for the four of S-VCO, whatever is trained, and for the objective's
            own; `loss_plus_<name>`, weighted, of each in `plus`.

        Raises:
            ValueError: Coefficients of 0 leave no term.
        """
        loss_P, losses_P = _losses(self.name, self.coefficients, scores)
        margins_P = margins(measured_terms(self.name), scores.D_P32.detach())
        values = {f"loss_{name}": term_P.detach() for name, term_P in losses_P.items()}
        values |= {f"margin_{name}": margin_P for name, margin_P in margins_P.items()}
        values |= {f"accuracy_{name}": _positive(margin_P) for name, margin_P in margins_P.items()}
        for name in self._added:
            more_P = self.plus[name] * _losses(name, self.coefficients, scores)[0]
            loss_P, values[f"loss_plus_{name}"] = loss_P + more_P, more_P.detach()
        return loss_P, values

    @property
    def cells(self) -> frozenset[Cell]:
        """The (condition, response) cells that the loss depends on."""
        return cells_of((self.name, *self._added), self.coefficients)

    @property
    def reference_cells(self) -> frozenset[Cell]:
        """Those of `cells` that are compared with the reference, in the loss or in what is logged
        of training.
        """
        return reference_cells_of((self.name, *self._added), self.coefficients)

    def value_names(self, cells: frozenset[Cell]) -> list[str]:
        """The names of the values that are known when `cells`, those of the loss or more, are."""
        known = [term.name for term in measured_terms(self.name) if term.margin.cells <= cells]
        return [
            *(f"loss_{term.name}" for term in active_terms(self.name, self.coefficients)),
            *(f"margin_{name}" for name in known),
            *(f"accuracy_{name}" for name in known),
            *(f"loss_plus_{name}" for name in self._added),
        ]

    @property
    def _added(self) -> list[str]:
        return [name for name, weight in self.plus.items() if weight]


def margins(terms: Iterable[Term], D_P32: Tensor) -> Values:
    """The margin of each term by name, [P] each, in nats, not multiplied by beta."""
    known: dict[Margin, Tensor] = {}

    def value(part: Cell | Margin) -> Tensor:
        if not isinstance(part, Margin):
            return D_P32[:, *part]
        if part not in known:
            signed_P = [value(p) for p in part.plus] + [-value(p) for p in part.minus]
            known[part] = functools.reduce(operator.add, signed_P)
        return known[part]

    terms = tuple(terms)
    for part in (part for term in terms for part in term.margin.parts if isinstance(part, Margin)):
        value(part)
    return {term.name: value(term.margin) for term in terms}


def _losses(name: str, coefficients: Coefficients, scores: Scores) -> tuple[Tensor, Values]:
    """The loss per pair of one objective, [P], and its terms by name."""
    terms = active_terms(name, coefficients)
    if not terms:
        raise ValueError(
            "every coefficient of the objective is 0, so there is nothing to train; set at least"
            " one above 0"
        )
    margins_P = margins(OBJECTIVES[name], scores.D_P32)
    losses_P = {
        term.name: _term_loss(term, coefficients, margins_P[term.name], scores) for term in terms
    }
    shares_P = [term.share * losses_P[term.name] for term in terms]
    return functools.reduce(operator.add, shares_P), losses_P


def _term_loss(term: Term, of: Coefficients, margin_P: Tensor, scores: Scores) -> Tensor:
    weight: float = getattr(of, term.weight) if term.weight else 1.0
    beta: float = getattr(of, term.beta) if term.beta else 1.0
    if term.form == "log_sigmoid":
        return weight * -logsigmoid(beta * margin_P)
    if term.form == "square":
        return weight * margin_P**2
    (cell,) = term.margin.cells
    return weight * (-scores.logps_P32[:, *cell] / scores.num_tokens_P2[:, cell[1]])


def _positive(margin_P: Tensor) -> Tensor:
    """1 where a margin is above 0, else 0; NaN where it is NaN."""
    return torch.where(margin_P.isnan(), margin_P, (margin_P > 0).to(margin_P))
