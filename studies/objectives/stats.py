"""Intervals of the study: whole groups (a person, a scene) and whole seeds are resampled, the same
draws for all that is compared.

Pure functions of rows and of the committed facts of a world's test pairs.

Shapes: P pairs; G groups; S seeds; D draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from eval.stats.intervals import FloatArray, cluster_counts, group_index, interval, sums_by_group
from eval.stats.significance import bootstrap_p, holm
from studies.objectives.score import FALSE, SILENT, TRUE

NUM_DRAWS, CONFIDENCE, SEED = 10_000, 0.95, 0
Row = Mapping[str, Any]
Terms = tuple[FloatArray, FloatArray]  # numerator and denominator, [P] each


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is known of a world's test pairs, in the order of every row's outcomes."""

    groups: list[str]
    categories: list[str]
    prior: str  # two letters per pair: m misled, h helped, n neutral

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Pairs":
        """From the committed facts of a world (`study_score.item_facts`)."""
        return cls(facts["groups"].split(), facts["categories"].split(), facts["prior"])


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its interval, and its draws, by which it can be compared with others of the same
    pairs.
    """

    value: float
    low: float
    high: float
    draws_D: FloatArray

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def _sides(text: str, wanted: str) -> FloatArray:
    """[P, 2]: 1 where a side's character is one of `wanted`."""
    return np.array(
        [[side in wanted for side in text[start : start + 2]] for start in range(0, len(text), 2)],
        float,
    ).reshape(-1, 2)


def _share_of_sides(hits_P2: FloatArray, counted_P2: FloatArray | None = None) -> Terms:
    counted_P2 = np.ones_like(hits_P2) if counted_P2 is None else counted_P2
    return (hits_P2 * counted_P2).sum(axis=1), counted_P2.sum(axis=1)


def _share_of_pairs(hits_P: FloatArray) -> Terms:
    return hits_P, np.ones_like(hits_P)


def _nll(text: str) -> Terms:
    values_P = np.array([int(value) / 100 for value in text.split()], float)
    return values_P, np.ones_like(values_P)


MEASURES: dict[str, Callable[[Mapping[str, str], Pairs], Terms]] = {
    "not_right": lambda found, _pairs: _share_of_sides(1 - _sides(found["said"], TRUE)),
    "false": lambda found, _pairs: _share_of_sides(_sides(found["said"], FALSE)),
    "silent": lambda found, _pairs: _share_of_sides(_sides(found["said"], SILENT)),
    "accuracy": lambda found, _pairs: _share_of_sides(_sides(found["right"], "1")),
    "text_score": lambda found, _pairs: _share_of_pairs(_sides(found["right"], "1").min(axis=1)),
    "image_score": lambda found, _pairs: _share_of_pairs(_sides(found["image"], "1").min(axis=1)),
    "group_score": lambda found, _pairs: _share_of_pairs(
        np.minimum(_sides(found["right"], "1"), _sides(found["image"], "1")).min(axis=1)
    ),
    "misled": lambda found, pairs: _share_of_sides(
        _sides(found["right"], "1"), _sides(pairs.prior, "m")
    ),
    "helped": lambda found, pairs: _share_of_sides(
        _sides(found["right"], "1"), _sides(pairs.prior, "h")
    ),
    "neutral": lambda found, pairs: _share_of_sides(
        _sides(found["right"], "1"), _sides(pairs.prior, "n")
    ),
    "nll": lambda found, _pairs: _nll(found["nll"]),
}


def estimate(
    rows: Sequence[Row], pairs: Pairs, measure: str, categories: Sequence[str] | None = None
) -> Estimate:
    """A measure over seeds and pairs.

    Args:
        rows: One per seed, of one objective.
        categories: Only pairs of these; all without them.

    Raises:
        ValueError: No rows, or rows of other pairs.
    """
    if not rows:
        raise ValueError(f"{measure}: expected rows of at least one seed, got none")
    inside_P = np.array(
        [categories is None or name in categories for name in pairs.categories], bool
    )
    index_P, num_groups = group_index(
        [group for group, kept in zip(pairs.groups, inside_P, strict=True) if kept]
    )
    tops, bottoms = [], []
    for row in sorted(rows, key=lambda row: int(row["seed"])):
        top_P, bottom_P = MEASURES[measure](row["outcomes"], pairs)
        if len(top_P) != len(inside_P):
            raise ValueError(
                f"{row['key']}: expected outcomes of {len(inside_P)} pairs, got {len(top_P)};"
                " delete the row"
            )
        sums_G2 = sums_by_group(
            np.stack([top_P[inside_P], bottom_P[inside_P]], axis=1), index_P, num_groups
        )
        tops.append(sums_G2[:, 0])
        bottoms.append(sums_G2[:, 1])
    top_SG, bottom_SG = np.stack(tops), np.stack(bottoms)
    groups_DG, seeds_DS = _draws(num_groups, SEED), _draws(len(rows), SEED + 1)
    top_D, bottom_D = (
        ((groups_DG @ sums_SG.T) * seeds_DS).sum(axis=1) for sums_SG in (top_SG, bottom_SG)
    )
    draws_D = np.divide(top_D, bottom_D, out=np.full(NUM_DRAWS, np.nan), where=bottom_D > 0)
    total = bottom_SG.sum()
    return _with_interval(float(top_SG.sum() / total) if total else float("nan"), draws_D)


@lru_cache(maxsize=16)
def _draws(number: int, seed: int) -> FloatArray:
    """[D, number]: how often each draw holds each group, or each seed."""
    return cluster_counts(number, NUM_DRAWS, seed).astype(float)


def shared_seeds(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The rows of each objective whose seed every objective has, so that all are compared over the
    same draws of seeds.
    """
    shared = (
        set.intersection(*({int(row["seed"]) for row in of} for of in rows.values()))
        if rows
        else set()
    )
    return {name: [row for row in of if int(row["seed"]) in shared] for name, of in rows.items()}


def difference(one: Estimate, other: Estimate) -> Estimate:
    """`one` minus `other` over the same pairs."""
    return _with_interval(one.value - other.value, one.draws_D - other.draws_D)


def relative_fall(one: Estimate, base: Estimate) -> Estimate:
    """By what share of the base's `one` is lower: (base - one) / base."""
    draws_D = np.divide(
        base.draws_D - one.draws_D,
        base.draws_D,
        out=np.full_like(one.draws_D, np.nan),
        where=base.draws_D > 0,
    )
    return _with_interval(
        (base.value - one.value) / base.value if base.value else float("nan"), draws_D
    )


def adjusted_p(differences: Mapping[str, Estimate]) -> dict[str, float]:
    """Two-sided p of each difference being none, adjusted by Holm over all of them."""
    raw = {name: bootstrap_p(found.draws_D) for name, found in differences.items()}
    return holm({name: p for name, p in raw.items() if p is not None})


def _with_interval(value: float, draws_D: FloatArray) -> Estimate:
    low, high = interval(draws_D, CONFIDENCE) or (float("nan"), float("nan"))
    return Estimate(value, low, high, draws_D)
