"""Intervals of the study: another person or scene, or another seed, would give another number.

Both are left out one at a time, and the two spreads are added. Pure functions of rows and of the
committed facts of a world's test pairs.

Shapes: P pairs; G groups; S seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.stats.significance import holm
from pipeline.core import intervals
from pipeline.core.intervals import SHARE, SHARE_DIFFERENCE, FloatArray, group_index, sums_by_group
from pipeline.pages.numbers import show_number
from studies.objectives.plan import CANDIDATES, OBJECTIVES, QUESTIONS, rows_of
from studies.objectives.score import FALSE, SILENT, TRUE

CONFIDENCE = 0.95
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
    """A number, and what it is without each group and without each seed."""

    by_group: intervals.Estimate
    by_seed: intervals.Estimate
    bounds: tuple[float, float] = SHARE

    @property
    def value(self) -> float:
        """The number itself."""
        return self.by_group.value

    @property
    def low(self) -> float:
        """The lower end of its interval."""
        return self.ends[0]

    @property
    def high(self) -> float:
        """The upper end of its interval."""
        return self.ends[1]

    @property
    def standard_error(self) -> float:
        """Of groups and seeds together."""
        return math.hypot(self.by_group.standard_error, self.by_seed.standard_error)

    @property
    def freedom(self) -> float:
        """Degrees of freedom: five seeds that differ most leave few (Welch and Satterthwaite)."""
        parts = [(part.standard_error**2, part) for part in (self.by_group, self.by_seed)]
        below = sum(spread**2 / max(1, part.num_groups - 1) for spread, part in parts)
        whole = sum(spread for spread, _ in parts) ** 2
        return whole / below if below else self.by_group.num_groups - 1.0

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends; not a number where nothing is known of them."""
        known = intervals.ends(
            self.value, self.standard_error, self.freedom + 1.0, CONFIDENCE, self.bounds
        )
        return known or (math.nan, math.nan)

    @property
    def p(self) -> float:
        """Two-sided, of the number being 0."""
        from scipy.special import stdtr

        if not self.standard_error:
            return 1.0 if self.value == 0.0 else 0.0
        return float(2.0 * stdtr(self.freedom, -abs(self.value) / self.standard_error))

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
    parts = [
        intervals.ratio_estimate(np.stack(tops).sum(axis=axis), np.stack(bottoms).sum(axis=axis))
        for axis in (0, 1)
    ]
    nothing = intervals.Estimate(math.nan, np.zeros(0), np.zeros(0))
    by_group, by_seed = (nothing if part is None else part for part in parts)
    return Estimate(by_group, by_seed, intervals.UNBOUNDED if measure == "nll" else SHARE)


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
    return Estimate(
        minuend.by_group.minus(subtrahend.by_group),
        minuend.by_seed.minus(subtrahend.by_seed),
        SHARE_DIFFERENCE if minuend.bounds == SHARE else intervals.UNBOUNDED,
    )


def relative_fall(tuned: Estimate, base: Estimate) -> Estimate:
    """By what share of the base's a value is lower: (base - tuned) / base."""
    by_group, by_seed = (
        new.relative_to(old).times(-1.0) if old.value else old.times(math.nan)
        for new, old in ((tuned.by_group, base.by_group), (tuned.by_seed, base.by_seed))
    )
    return Estimate(by_group, by_seed, (-math.inf, 1.0))


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
    return holm({name: change.p for name, change in differences.items()})
