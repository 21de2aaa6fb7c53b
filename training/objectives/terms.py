"""What each objective is made of: its terms, the coefficients that remove them, and the
log-probabilities that they read.

Plain facts, without torch, for recipes and plans; tests hold them against the losses themselves.
"""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

# (condition, response): conditions are image a, image b, no image; responses a, b
Cell = tuple[int, int]
ALL_CELLS: frozenset[Cell] = frozenset(itertools.product(range(3), range(2)))


class Term(NamedTuple):
    """One summand of a loss. It is gone when one of its coefficients is 0."""

    coefficients: tuple[str, ...]
    cells: frozenset[Cell]


def _term(coefficients: str, *cells: Cell) -> Term:
    return Term(tuple(coefficients.split()), frozenset(cells))


# image first, then answer
_AA, _AB, _BA, _BB, _NONE_A, _NONE_B = (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)
_WITHIN = (_AA, _AB, _BA, _BB)
_VCO = (_term("beta_attend_a", _AA, _NONE_A), _term("beta_reject_a", _NONE_A, _BA))

TERMS_OF: Mapping[str, tuple[Term, ...]] = MappingProxyType(
    {
        "svco": (*_VCO, _term("beta_attend_b", _BB, _NONE_B), _term("beta_reject_b", _NONE_B, _AB)),
        "vco": _VCO,
        "sft": (_term("", _AA, _BB),),
        "dpo": (_term("beta_dpo", _AA, _AB),),
        "dpo_symmetric": (_term("beta_dpo", *_WITHIN),),
        "mdpo": (
            _term("beta_dpo", _AA, _AB),
            _term("beta_image", _AA, _BA),
            _term("beta_anchor", _AA),
        ),
        "mpo": (
            _term("beta_dpo weight_preference", _AA, _AB),
            _term("beta_dpo weight_quality", _AA, _AB),
            _term("weight_generation", _AA),
        ),
        "symmpo": (
            _term("beta_dpo weight_pair", *_WITHIN),
            _term("beta_anchor", _AA, _BB),
            _term("weight_margin", *_WITHIN),
        ),
        "anchor": (_term("beta_anchor", _AA, _BB),),
    }
)
# The coefficients that each objective heeds.
COEFFICIENTS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(dict.fromkeys(itertools.chain(*(term.coefficients for term in terms))))
        for name, terms in TERMS_OF.items()
    }
)
