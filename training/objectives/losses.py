"""The losses, as pure functions of one table of log-ratios; they know nothing of models, batches or
workers.

Shapes: P pairs, 3 image conditions in the order (image a, image b, no image), 2 responses in the
order (a, b). D_P32[p, c, r] = log pi_policy(response r | condition c) - log pi_reference(response r
| condition c), summed over the response tokens, in nats. A cell that was not computed is NaN, so
that an objective which uses it shows.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from training.objectives.terms import ALL_CELLS, Cell

IMAGE_A, IMAGE_B, NO_IMAGE = 0, 1, 2
RESPONSE_A, RESPONSE_B = 0, 1

Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """Inverse temperatures, of which larger trust the reference more, and weights. A 0 removes its
    term.

    Every objective heeds some of them (`training.objectives.terms`).
    """

    beta_attend_a: float = 0.1
    beta_reject_a: float = 0.1
    beta_attend_b: float = 0.1
    beta_reject_b: float = 0.1
    beta_dpo: float = 0.1  # of one text against the other under the same image
    beta_image: float = 0.1  # of one image against the other for the same text
    beta_anchor: float = 0.1  # of a text under its own image against the reference
    weight_preference: float = 0.8  # mpo
    weight_quality: float = 0.2
    weight_generation: float = 1.0
    weight_pair: float = 0.5  # symmpo
    weight_margin: float = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What every objective is a function of."""

    D_P32: Tensor
    logps_P32: Tensor  # of the policy alone, for objectives with a likelihood term
    num_tokens_P2: Tensor  # length of each response, its end-of-turn token included


def contrasts(D_P32: Tensor) -> Values:
    """How much more the policy than the reference prefers the right side of each of the four
    contrasts, [P] each.

    attend_a  D[a,a] - D[none,a]    its own image over none        reject_a  D[none,a] - D[b,a]    none over the wrong image
    attend_b  D[b,b] - D[none,b]                                   reject_b  D[none,b] - D[a,b]

    In nats, not multiplied by beta. The four add up to how far each text has moved to its own image
    from the other.
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


def preferences(D_P32: Tensor) -> Values:
    """How much more the policy than the reference prefers each image's own text to the other text,
    [P] each, in nats.

    dpo_a  D[a,a] - D[a,b]    dpo_b  D[b,b] - D[b,a]
    """
    return {
        "dpo_a": D_P32[:, IMAGE_A, RESPONSE_A] - D_P32[:, IMAGE_A, RESPONSE_B],
        "dpo_b": D_P32[:, IMAGE_B, RESPONSE_B] - D_P32[:, IMAGE_B, RESPONSE_A],
    }


def svco(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """How far each pair is from preferring the matching image to none and none to the contradictory
    one, both ways.

        attend_a = -log sigmoid(beta_attend_a (D[a,a] - D[none,a]))    reject_a = -log sigmoid(beta_reject_a (D[none,a] - D[b,a]))
        attend_b = -log sigmoid(beta_attend_b (D[b,b] - D[none,b]))    reject_b = -log sigmoid(beta_reject_b (D[none,b] - D[a,b]))
        loss     = attend_a + reject_a + attend_b + reject_b

    With policy = reference the loss is 4 log 2. A beta of 0 removes its term altogether (it is not
    log 2), so the loss of side a alone is `vco`.

    Returns:
        The loss per pair, [P], not reduced; and detached values per pair by name: `loss_<term>` for
        each active term, `margin_<term>` (nats, without beta) and `accuracy_<term>` (1 where the
        margin is positive) for all four.

    Source: S-VCO (arXiv:2502.13928), section 3.1; official trainer.py at bc8f941, reproduced by
        tests/golden.
    """
    return _weighted(
        scores,
        {
            name: (1.0, getattr(of, f"beta_{name}"), margin_P)
            for name, margin_P in contrasts(scores.D_P32).items()
        },
    )


def vco(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """The one-sided loss, attend_a + reject_a: text a alone. With policy = reference it is 2 log 2.

    Source: S-VCO (arXiv:2502.13928), section 3.1, the ablation without symmetry.
    """
    margins_P = contrasts(scores.D_P32)
    return _weighted(
        scores,
        {
            name: (1.0, getattr(of, f"beta_{name}"), margins_P[name])
            for name in ("attend_a", "reject_a")
        },
    )


def dpo(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """How far each pair is from preferring text a to text b under image a: -log sigmoid(beta
    (D[a,a] - D[a,b])).

    Source: DPO (arXiv:2305.18290), with the matching text as chosen and the contradictory one as
    rejected.
    """
    return _weighted(scores, {"dpo_a": (1.0, of.beta_dpo, preferences(scores.D_P32)["dpo_a"])})


def dpo_symmetric(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """DPO under both images: each is to prefer its own text. With policy = reference it is 2 log 2.

    Source: DPO (arXiv:2305.18290) applied to either side; with anchors it is the loss of IC-VCO's
    single branch.
    """
    return _weighted(
        scores,
        {
            name: (1.0, of.beta_dpo, margin_P)
            for name, margin_P in preferences(scores.D_P32).items()
        },
    )


def mdpo(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """DPO under image a, plus text a's preference for image a over the contradictory image b, plus
    an anchor.

        loss = s(beta_dpo (D[a,a] - D[a,b])) + s(beta_image (D[a,a] - D[b,a])) + s(beta_anchor D[a,a]),  s = -log sigmoid

    The original takes a cropped image a as the conditional negative; here it is the pair's other
    image. The anchor's threshold is 0, as in the released code. With policy = reference the loss is
    3 log 2.

    Source: mDPO (arXiv:2406.11839).
    """
    D_P32 = scores.D_P32
    own_P = D_P32[:, IMAGE_A, RESPONSE_A]
    terms = {
        "dpo_a": (1.0, of.beta_dpo, preferences(D_P32)["dpo_a"]),
        "image_a": (1.0, of.beta_image, own_P - D_P32[:, IMAGE_B, RESPONSE_A]),
        "anchor_a": (1.0, of.beta_anchor, own_P),
    }
    return _weighted(scores, terms)


def mpo(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """Preference, quality and generation of text a and text b under image a, in fixed proportions.

        preference = s(beta_dpo (D[a,a] - D[a,b]))
        quality    = s(beta_dpo D[a,a]) + s(-beta_dpo D[a,b])      each text judged alone
        generation = -logps[a,a] / num_tokens_a
        loss       = 0.8 preference + 0.2 quality + 1.0 generation

    The reward shift of the quality term is 0, as in TRL's `bco_pair`; the authors' code subtracts a
    running mean.

    Source: MPO (arXiv:2411.10442).
    """
    D_P32 = scores.D_P32
    terms = {
        "dpo_a": (of.weight_preference, of.beta_dpo, preferences(D_P32)["dpo_a"]),
        "quality_a": (of.weight_quality, of.beta_dpo, D_P32[:, IMAGE_A, RESPONSE_A]),
        "quality_b": (of.weight_quality, of.beta_dpo, -D_P32[:, IMAGE_A, RESPONSE_B]),
    }
    nll = (
        {"generation": of.weight_generation * _nll_per_token(scores)[:, RESPONSE_A]}
        if of.weight_generation
        else {}
    )
    return _weighted(scores, terms, nll)


def symmpo(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """DPO under both images, held together by equal margins, with an anchor for each text under its
    own image.

        loss = 0.5 (s(beta_dpo m_a) + s(beta_dpo m_b)) + s(beta_anchor D[a,a]) + s(beta_anchor D[b,b]) + 1e-4 (m_a - m_b)^2
        m_a  = D[a,a] - D[a,b],  m_b = D[b,b] - D[b,a]

    The original has one more DPO term against a third, separately generated answer, which MVC has
    not; it is left out.

    Source: SymMPO (arXiv:2506.11712) and its released code, whose weights these are.
    """
    D_P32, margins_P = scores.D_P32, preferences(scores.D_P32)
    terms = {name: (of.weight_pair, of.beta_dpo, margin_P) for name, margin_P in margins_P.items()}
    terms |= {
        "anchor_a": (1.0, of.beta_anchor, D_P32[:, IMAGE_A, RESPONSE_A]),
        "anchor_b": (1.0, of.beta_anchor, D_P32[:, IMAGE_B, RESPONSE_B]),
    }
    gap_P = margins_P["dpo_a"] - margins_P["dpo_b"]
    return _weighted(
        scores, terms, {"margin": of.weight_margin * gap_P**2} if of.weight_margin else {}
    )


def sft(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:  # noqa: ARG001
    """Mean over both sides of the negative log-likelihood per token of each text under its own
    image.

        loss = -(logps[a,a] / num_tokens_a + logps[b,b] / num_tokens_b) / 2

    No coefficient plays a part. Source: the SFT baseline of S-VCO (arXiv:2502.13928), which uses
    both sides of each pair.
    """
    nll_P2 = _nll_per_token(scores)
    return nll_P2.mean(dim=1), _values(
        {"sft_a": nll_P2[:, 0], "sft_b": nll_P2[:, 1]}, scores.D_P32, {}
    )


def anchor(scores: Scores, of: Coefficients) -> tuple[Tensor, Values]:
    """Keeps each text under its own image at least as likely as it was: s(beta D[a,a]) + s(beta
    D[b,b]).

    Meant to be added to another objective. Source: the anchors of mDPO (arXiv:2406.11839), for both
    sides.
    """
    own = {
        "anchor_a": scores.D_P32[:, IMAGE_A, RESPONSE_A],
        "anchor_b": scores.D_P32[:, IMAGE_B, RESPONSE_B],
    }
    return _weighted(scores, {name: (1.0, of.beta_anchor, own_P) for name, own_P in own.items()})


def _nll_per_token(scores: Scores) -> Tensor:
    """[P, 2]: of text a under image a and of text b under image b."""
    own_P2 = torch.stack(
        (scores.logps_P32[:, IMAGE_A, RESPONSE_A], scores.logps_P32[:, IMAGE_B, RESPONSE_B]), dim=1
    )
    return -own_P2 / scores.num_tokens_P2


def _weighted(
    scores: Scores, terms: Mapping[str, tuple[float, float, Tensor]], more_P: Values | None = None
) -> tuple[Tensor, Values]:
    """The sum over `terms` of weight * -log sigmoid(beta * margin), leaving out those with a 0,
    plus `more_P` as it is.
    """
    losses_P = {
        name: weight * -logsigmoid(beta * margin_P)
        for name, (weight, beta, margin_P) in terms.items()
        if weight and beta
    }
    losses_P |= more_P or {}
    if not losses_P:
        raise ValueError(
            "every coefficient of the objective is 0, so there is nothing to train; set at least"
            " one above 0"
        )
    return _sum(losses_P.values()), _values(
        losses_P, scores.D_P32, {name: margin_P for name, (*_, margin_P) in terms.items()}
    )


def _sum(losses_P: Iterable[Tensor]) -> Tensor:
    first_P, *others_P = losses_P
    for loss_P in others_P:
        first_P = first_P + loss_P
    return first_P


def _values(losses_P: Values, D_P32: Tensor, own_margins_P: Mapping[str, Tensor]) -> Values:
    """What is logged: each loss term, and the margins of the method and of the objective, whatever
    is trained.
    """
    margins_P = {**contrasts(D_P32), **own_margins_P}
    values = {f"loss_{name}": loss_P.detach() for name, loss_P in losses_P.items()}
    values |= {f"margin_{name}": margin_P.detach() for name, margin_P in margins_P.items()}
    return values | {
        f"accuracy_{name}": _share_positive(margin_P.detach())
        for name, margin_P in margins_P.items()
    }


def _share_positive(margin_P: Tensor) -> Tensor:
    return torch.where(margin_P.isnan(), margin_P, (margin_P > 0).to(margin_P))


OBJECTIVES: Mapping[str, Callable[[Scores, Coefficients], tuple[Tensor, Values]]] = (
    MappingProxyType(
        {
            "svco": svco,
            "vco": vco,
            "sft": sft,
            "dpo": dpo,
            "dpo_symmetric": dpo_symmetric,
            "mdpo": mdpo,
            "mpo": mpo,
            "symmpo": symmpo,
            "anchor": anchor,
        }
    )
)


@dataclass(frozen=True, slots=True)
class Objective:
    """One loss, or a weighted sum: that of `name` plus weight times each of `plus`."""

    name: str
    coefficients: Coefficients = field(default_factory=Coefficients)
    plus: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, scores: Scores) -> tuple[Tensor, Values]:
        """The loss per pair, [P], and the values of `name` by name; of each in `plus` the weighted
        loss, `loss_plus_<name>`.
        """
        loss_P, values = OBJECTIVES[self.name](scores, self.coefficients)
        for name, weight in self.plus.items():
            if weight:
                more_P = weight * OBJECTIVES[name](scores, self.coefficients)[0]
                loss_P, values = loss_P + more_P, values | {f"loss_plus_{name}": more_P.detach()}
        return loss_P, values

    @property
    def cells(self) -> frozenset[Cell]:
        """The (condition, response) cells that the loss depends on: those that make it NaN when
        they are.
        """
        return frozenset(
            cell for cell in ALL_CELLS if self(probe(ALL_CELLS - {cell}))[0].isnan().any()
        )

    def value_names(self, cells: frozenset[Cell]) -> list[str]:
        """The names of the values that can be known when only `cells` are computed."""
        return [
            name for name, value_P in self(probe(cells))[1].items() if not value_P.isnan().any()
        ]

    def loss_at_start(self) -> float | None:
        """The loss when policy = reference: log 2 times the weights; None where the model's own
        likelihood counts.
        """
        scores = probe(ALL_CELLS)
        nowhere = Scores(
            D_P32=scores.D_P32,
            logps_P32=scores.logps_P32 * math.nan,
            num_tokens_P2=scores.num_tokens_P2,
        )
        loss = self(nowhere)[0].item()
        return None if math.isnan(loss) else loss


def probe(cells: Iterable[Cell]) -> Scores:
    """One pair with policy = reference whose log-probabilities are known in `cells` and NaN
    elsewhere.
    """
    table_132 = torch.full((1, 3, 2), math.nan)
    for condition, response in cells:
        table_132[0, condition, response] = 0.0
    return Scores(D_P32=table_132, logps_P32=table_132, num_tokens_P2=torch.ones(1, 2))
