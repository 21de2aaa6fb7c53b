"""Intervals of the study: whole groups (a person, a scene) and whole seeds are resampled.

All that is compared has the same draws. Pure functions of rows and of the committed facts of a
world's test pairs.

Shapes: P pairs; G groups; S seeds; D draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from eval.stats.intervals import FloatArray, cluster_counts, group_index, interval, sums_by_group
from eval.stats.significance import bootstrap_p, holm
from pipeline.pages.numbers import show_number
from studies.objectives.plan import CANDIDATES, OBJECTIVES, QUESTIONS, rows_of
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
    """A number, its interval, and its draws, by which it is compared with others of the pairs."""

    value: float
    low: float
    high: float
    draws_D: FloatArray

    def shown(self, unit: str, *, is_difference: bool = False) -> str:
        """As a text; see `show_number`."""
        number = {"value": self.value, "low": self.low, "high": self.high}
        return show_number(number, unit, is_difference=is_difference)


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
    "not_right": lambda of, _pairs: _share_of_sides(1 - _sides(of["said"], TRUE)),
    "false": lambda of, _pairs: _share_of_sides(_sides(of["said"], FALSE)),
    "silent": lambda of, _pairs: _share_of_sides(_sides(of["said"], SILENT)),
    "accuracy": lambda of, _pairs: _share_of_sides(_sides(of["right"], "1")),
    "text_score": lambda of, _pairs: _share_of_pairs(_sides(of["right"], "1").min(axis=1)),
    "image_score": lambda of, _pairs: _share_of_pairs(_sides(of["image"], "1").min(axis=1)),
    "group_score": lambda of, _pairs: _share_of_pairs(
        np.minimum(_sides(of["right"], "1"), _sides(of["image"], "1")).min(axis=1)
    ),
    "misled": lambda of, pairs: _share_of_sides(_sides(of["right"], "1"), _sides(pairs.prior, "m")),
    "helped": lambda of, pairs: _share_of_sides(_sides(of["right"], "1"), _sides(pairs.prior, "h")),
    "neutral": lambda of, pairs: _share_of_sides(
        _sides(of["right"], "1"), _sides(pairs.prior, "n")
    ),
    "nll": lambda of, _pairs: _nll(of["nll"]),
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
    """The rows of each objective whose seed every objective has, so that draws are the same."""
    shared = (
        set.intersection(*({int(row["seed"]) for row in of} for of in rows.values()))
        if rows
        else set()
    )
    return {name: [row for row in of if int(row["seed"]) in shared] for name, of in rows.items()}


def difference(minuend: Estimate, subtrahend: Estimate) -> Estimate:
    """`minuend` minus `subtrahend` over the same pairs."""
    draws_D = minuend.draws_D - subtrahend.draws_D
    return _with_interval(minuend.value - subtrahend.value, draws_D)


def relative_fall(tuned: Estimate, base: Estimate) -> Estimate:
    """By what share of the base's a value is lower: (base - tuned) / base."""
    draws_D = np.divide(
        base.draws_D - tuned.draws_D,
        base.draws_D,
        out=np.full_like(tuned.draws_D, np.nan),
        where=base.draws_D > 0,
    )
    fall = (base.value - tuned.value) / base.value if base.value else float("nan")
    return _with_interval(fall, draws_D)


def groups_of(rows: Sequence[Row], facts: Row, question: str) -> dict[str, list[Row]]:
    """The rows that answer a question, by objective, the base's first.

    Of each objective the seeds that all of them have; of candidates those that have all these.
    """
    base = [
        row
        for row in rows
        if (row["world"], row["stage"], row["measured"]) == (facts["world"], "base", "test")
    ]
    tested = rows_of(rows, facts["world"], QUESTIONS[question])
    same = shared_seeds({name: of for name, of in tested.items() if name in OBJECTIVES})
    seeds = {row["seed"] for of in same.values() for row in of}
    whole = {
        name: [row for row in tested.get(name, []) if row["seed"] in seeds] for name in CANDIDATES
    }
    return (
        ({"base": base} if base else {})
        | same
        | {name: of for name, of in whole.items() if of and len(of) == len(seeds)}
    )


def estimates(rows: Sequence[Row], facts: Row, question: str, measure: str) -> dict[str, Estimate]:
    """A measure of the base and of every objective, over the pairs that the question asks about."""
    pairs, inside = Pairs.of(facts["test_pairs"]), QUESTIONS[question].inside
    categories = None if inside == "all" else facts["slices"][inside]
    return {
        name: estimate(of, pairs, measure, categories)
        for name, of in groups_of(rows, facts, question).items()
        if of
    }


def adjusted_p(differences: Mapping[str, Estimate]) -> dict[str, float]:
    """Two-sided p of each difference being none, adjusted by Holm over all of them."""
    raw = {name: bootstrap_p(change.draws_D) for name, change in differences.items()}
    return holm({name: p for name, p in raw.items() if p is not None})


def _with_interval(value: float, draws_D: FloatArray) -> Estimate:
    low, high = interval(draws_D, CONFIDENCE) or (float("nan"), float("nan"))
    return Estimate(value, low, high, draws_D)
