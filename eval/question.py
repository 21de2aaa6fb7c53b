"""What a benchmark asks, what an answer says, and a score that can be resampled.

The seam between benchmarks and everything else: a benchmark turns files into questions and verdicts
into metrics. Which image a model sees under which condition, how answers are generated, parsed,
judged and stored is not its business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["choice", "yes_no", "short", "free"]
Status = Literal["exact", "extracted", "ambiguous", "failed", "unfinished", "missing"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing that a model is asked.

    Attributes:
        item_id: Unique within the benchmark.
        prompt: The text that the model is asked, in the benchmark's protocol.
        image: Encoded bytes; None where the benchmark itself asks without an image.
        kind: "choice" (truth is a letter A, B, ..), "yes_no" ("yes" or "no"), "short" (any of the
            accepted answers), "free" (a judge rates the answer; truth is what the judge is told).
        choices: The texts of options A, B, ..; empty where the benchmark gives only letters.
        cluster: What stands or falls together: a pair where there are pairs, otherwise an image.
        counterpart: item_id of the question whose image is the other image of this pair.
        max_new_tokens: As long as the benchmark's protocol lets an answer be.
        meta: What the metric needs (category, split, indices): plain JSON values.
    """

    item_id: str
    prompt: str
    image: bytes | None
    kind: Kind
    choices: tuple[str, ...] = ()
    truth: str | tuple[str, ...]
    cluster: str
    counterpart: str | None = None
    max_new_tokens: int
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer says.

    Attributes:
        value: The letter, "yes"/"no", the normalized text, or a judge's rating as a number in text;
            None where none could be read.
        status: "exact" (the answer is nothing but the value), "extracted" (the value stands in a
            sentence), "ambiguous" (it names several), "failed" (it names none), "unfinished" (it
            was cut off before it said anything, or still inside its reasoning), "missing" (nobody
            judged: left out of the score, and counted).
    """

    value: str | None
    status: Status


@dataclass(frozen=True, slots=True)
class Unit:
    """What a score counts (a question, a pair, a figure) and its part of the ratio `term`."""

    unit_id: str
    cluster: str
    numerator: float
    denominator: float = 1.0
    term: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A score: the weighted sum over its terms of (sum of numerators / sum of denominators).

    weights: One per term; {"": 1.0} is a plain ratio.
    chance: What guessing without looking at anything gives; None where that is not defined.
    unit: "share" (in [0, 1]) or "points" (a judge's scale).
    higher_is_better: None for what describes a model and is neither good nor bad (the yes-ratio).
    """

    units: tuple[Unit, ...]
    chance: float | None
    weights: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    unit: Literal["share", "points"] = "share"
    higher_is_better: bool | None = True

    @property
    def value(self) -> float | None:
        """The score, or None if a term has nothing to divide by (then the score is not defined)."""
        total = 0.0
        for term, weight in self.weights.items():
            chosen = [unit for unit in self.units if unit.term == term]
            below = sum(unit.denominator for unit in chosen)
            if below <= 0:
                return None
            total += weight * sum(unit.numerator for unit in chosen) / below
        return total
