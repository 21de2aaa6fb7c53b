"""The losses, as pure functions of one table of log-ratios; they know nothing of models, batches or workers.

Shapes: P pairs, 3 image conditions in the order (image a, image b, no image), 2 responses in the order (a, b).
D_P32[p, c, r] = log pi_policy(response r | condition c) - log pi_reference(response r | condition c), summed over the
response tokens, in nats.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import logsigmoid

IMAGE_A, IMAGE_B, NO_IMAGE = 0, 1, 2
RESPONSE_A, RESPONSE_B = 0, 1

Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Betas:
    """Inverse temperatures: larger trusts the reference more. A beta of 0 removes its term."""

    attend_a: float = 0.1
    reject_a: float = 0.1
    attend_b: float = 0.1
    reject_b: float = 0.1
    dpo: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What every objective is a function of."""

    D_P32: Tensor
    logps_P32: Tensor  # of the policy alone, for objectives with a likelihood term
    num_tokens_P2: Tensor  # length of each response, its end-of-turn token included


def contrasts(D_P32: Tensor) -> Values:
    """How much more the policy than the reference prefers the right side of each of the four contrasts, [P] each.

    attend_a  D[a,a] - D[none,a]    its own image over none        reject_a  D[none,a] - D[b,a]    none over the wrong image
    attend_b  D[b,b] - D[none,b]                                   reject_b  D[none,b] - D[a,b]

    In nats, not multiplied by beta. The four add up to how far each text has moved to its own image from the other.
    """
    own_a, own_b = D_P32[:, IMAGE_A, RESPONSE_A], D_P32[:, IMAGE_B, RESPONSE_B]
    none_a, none_b = D_P32[:, NO_IMAGE, RESPONSE_A], D_P32[:, NO_IMAGE, RESPONSE_B]
    wrong_a, wrong_b = D_P32[:, IMAGE_B, RESPONSE_A], D_P32[:, IMAGE_A, RESPONSE_B]
    return {
        "attend_a": own_a - none_a,
        "reject_a": none_a - wrong_a,
        "attend_b": own_b - none_b,
        "reject_b": none_b - wrong_b,
    }


def svco(scores: Scores, betas: Betas) -> tuple[Tensor, Values]:
    """How far each pair is from preferring the matching image to none and none to the contradictory one, both ways.

        attend_a = -log sigmoid(beta_attend_a (D[a,a] - D[none,a]))    reject_a = -log sigmoid(beta_reject_a (D[none,a] - D[b,a]))
        attend_b = -log sigmoid(beta_attend_b (D[b,b] - D[none,b]))    reject_b = -log sigmoid(beta_reject_b (D[none,b] - D[a,b]))
        loss     = attend_a + reject_a + attend_b + reject_b

    With policy = reference the loss is 4 log 2. A beta of 0 removes its term altogether (it is not log 2), so the loss of
    side a alone is `vco`.

    Returns:
        The loss per pair, [P], not reduced; and detached values per pair by name: `loss_<term>` for each active term,
        `margin_<term>` (nats, without beta) and `accuracy_<term>` (1 where the margin is positive) for all four.

    Source: S-VCO (arXiv:2502.13928), section 3.1; official trainer.py at bc8f941, reproduced by tests/golden.
    """
    margins_P = contrasts(scores.D_P32)
    temperatures = {name: getattr(betas, name) for name in margins_P}
    losses_P = {name: -logsigmoid(beta * margins_P[name]) for name, beta in temperatures.items() if beta != 0}
    return _total(losses_P), _values(losses_P, margins_P)


def vco(scores: Scores, betas: Betas) -> tuple[Tensor, Values]:
    """The one-sided loss, attend_a + reject_a: text a alone. With policy = reference it is 2 log 2.

    Source: S-VCO (arXiv:2502.13928), section 3.1, the ablation without symmetry.
    """
    return svco(scores, Betas(attend_a=betas.attend_a, reject_a=betas.reject_a, attend_b=0.0, reject_b=0.0))


def dpo(scores: Scores, betas: Betas) -> tuple[Tensor, Values]:
    """How far each pair is from preferring text a to text b under image a: -log sigmoid(beta (D[a,a] - D[a,b])).

    Source: DPO (arXiv:2305.18290), with the matching text as chosen and the contradictory one as rejected.
    """
    margin_P = scores.D_P32[:, IMAGE_A, RESPONSE_A] - scores.D_P32[:, IMAGE_A, RESPONSE_B]
    losses_P = {"dpo": -logsigmoid(betas.dpo * margin_P)} if betas.dpo != 0 else {}
    return _total(losses_P), _values(losses_P, {**contrasts(scores.D_P32), "dpo": margin_P})


def sft(scores: Scores, betas: Betas) -> tuple[Tensor, Values]:  # noqa: ARG001 - one signature for all
    """Mean over both sides of the negative log-likelihood per token of each text under its own image.

        loss = -(logps[a,a] / num_tokens_a + logps[b,b] / num_tokens_b) / 2

    The betas play no part. Source: the SFT baseline of S-VCO (arXiv:2502.13928), which uses both sides of each pair.
    """
    nll_a_P = -scores.logps_P32[:, IMAGE_A, RESPONSE_A] / scores.num_tokens_P2[:, RESPONSE_A]
    nll_b_P = -scores.logps_P32[:, IMAGE_B, RESPONSE_B] / scores.num_tokens_P2[:, RESPONSE_B]
    return (nll_a_P + nll_b_P) / 2, _values({"sft_a": nll_a_P, "sft_b": nll_b_P}, contrasts(scores.D_P32))


def _total(losses_P: Mapping[str, Tensor]) -> Tensor:
    if not losses_P:
        raise ValueError("every beta of the objective is 0, so there is nothing to train; set at least one above 0")
    first_P, *others_P = losses_P.values()
    total_P = first_P
    for loss_P in others_P:
        total_P = total_P + loss_P
    return total_P


def _values(losses_P: Mapping[str, Tensor], margins_P: Mapping[str, Tensor]) -> Values:
    values = {f"loss_{name}": loss_P.detach() for name, loss_P in losses_P.items()}
    values |= {f"margin_{name}": margin_P.detach() for name, margin_P in margins_P.items()}
    return values | {f"accuracy_{name}": (margin_P.detach() > 0).to(margin_P) for name, margin_P in margins_P.items()}


OBJECTIVES: Mapping[str, Callable[[Scores, Betas], tuple[Tensor, Values]]] = MappingProxyType(
    {"svco": svco, "vco": vco, "dpo": dpo, "sft": sft}
)


def loss_at_start(name: str, betas: Betas) -> float | None:
    """The loss when policy = reference: log 2 per logistic term; None where it depends on the model (sft)."""
    if name == "sft":
        return None
    terms = {"svco": (betas.attend_a, betas.reject_a, betas.attend_b, betas.reject_b), "dpo": (betas.dpo,)}
    active = terms.get(name, (betas.attend_a, betas.reject_a))
    return math.log(2) * sum(beta != 0 for beta in active)
