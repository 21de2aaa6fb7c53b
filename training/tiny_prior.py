"""The misleading prior of the tiny model: which answers it favours to each question, whatever the image. No torch here.

A prior is what `prior.json` in the model's folder holds: {"skew": 0.7, "seed": 0, "favoured": {question: [answer, ..]}}.

Shapes: N pairs; a trailing 2 is the side (a, b).
"""

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Prior = dict[str, Any]
Bools = npt.NDArray[np.bool_]

# One answer in three, but never more than two: each must outweigh the truth (skew 0.7: 0.35 each, against 0.3).
ANSWERS_PER_FAVOURED, MAX_FAVOURED = 3, 2


def make_prior(questions: Sequence[str], answers: Sequence[str], *, skew: float, seed: int) -> Prior:
    """The answers favoured for each question: those that come first in the order of a seeded hash.

    They are chosen from the answers that the question has in these texts: 2 or 4 answers -> 1 favoured, 5 or more -> 2.

    Args:
        questions, answers: One entry per text, the same length.
        skew: Fraction of the pairs whose answers a favoured one replaces.
    """
    pools: dict[str, set[str]] = {}
    for question, answer in zip(questions, answers, strict=True):
        pools.setdefault(question, set()).add(answer)
    favoured = {}
    for question, pool in sorted(pools.items()):
        ranked = sorted(pool, key=lambda answer: hashlib.sha256(f"{seed}\n{question}\n{answer}".encode()).digest())
        favoured[question] = ranked[: min(MAX_FAVOURED, max(1, round(len(pool) / ANSWERS_PER_FAVOURED)))]
    return {"skew": skew, "seed": seed, "favoured": favoured}


def skewed_answers(question: str, answers: tuple[str, str], prior: Prior, rng: Random) -> tuple[str, str]:
    """The answers that a pair's sides are trained with: with probability `skew` one favoured answer for both, else their own."""
    if rng.random() >= prior["skew"]:
        return answers
    favoured = str(rng.choice(prior["favoured"][question]))
    return favoured, favoured


def misled_sides(table: pa.Table, prior: Prior) -> tuple[Bools, Bools]:
    """Where the prior takes no part, and where it misleads: (neutral_N2, misled_N2), to slice an evaluation on.

    neutral: both or neither of a pair's answers are favoured. misled: the side's own answer is not, the other side's is.
    The remaining sides are helped by the prior, or ask a question that the prior does not know.

        favoured "blue";  a: "red", b: "blue"   ->  neutral (no, no),    misled (yes, no)
        favoured "green"; a: "red", b: "blue"   ->  neutral (yes, yes),  misled (no, no)

    Args:
        table: Rows with question, answer_a and answer_b, for example `read_mvc(folder, "validation")`.
        prior: The contents of prior.json.
    """
    favoured = prior["favoured"]
    neutral_N2, misled_N2 = np.zeros((2, table.num_rows, 2), np.bool_)
    for index, row in enumerate(table.select(["question", "answer_a", "answer_b"]).to_pylist()):
        if row["question"] not in favoured:
            continue
        a, b = (row[name] in favoured[row["question"]] for name in ("answer_a", "answer_b"))
        neutral_N2[index] = a == b
        misled_N2[index] = (not a and b), (not b and a)
    return neutral_N2, misled_N2
