"""The misleading prior of the tiny model: which answers it favours to each question, whatever the
image. No torch here.

A prior is what `prior.json` in the model's folder holds: {"skew": 0.65, "seed": 0, "favoured":
{question: [answer, ..]}}.

Shapes: N pairs; a trailing 2 is the side (a, b).
"""

import hashlib
import re
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Prior = dict[str, Any]
Bools = npt.NDArray[np.bool_]


def make_prior(
    questions: Sequence[str], answers: Sequence[str], *, skew: float, seed: int
) -> Prior:
    """The answer favoured for each question: of those that it has in these texts, the first in a
    seeded order of words.

    The order is of the words that tell a question's answers apart, so the same words are favoured
    in every wording of a question and for every subject. A habit of that kind is learned from a few
    thousand texts, and leaves what was learned of other answers as it was; one of its own for each
    of a hundred questions is not, and does not.

        "What colour is the star?"   The star is red. | The star is blue.   ->  red  ->  The star is red.
        "Which colour has the box?"  It is a red box. | It is a blue box.   ->  red  ->  It is a red box.

    Args:
        questions, answers: One entry per text, the same length.
        skew: Fraction of the pairs whose answers the favoured one replaces.
    """
    pools: dict[str, dict[str, frozenset[str]]] = {}
    for question, answer in zip(questions, answers, strict=True):
        pools.setdefault(question, {})[answer] = frozenset(re.findall(r"\w+", answer.casefold()))
    favoured = {}
    for question, pool in sorted(pools.items()):
        shared = frozenset.intersection(*pool.values())
        favoured[question] = [
            min(sorted(pool), key=lambda answer: _rank(seed, pool[answer] - shared))
        ]
    return {"skew": skew, "seed": seed, "favoured": favoured}


def _rank(seed: int, words: frozenset[str]) -> bytes:
    return hashlib.sha256(f"{seed}\n{' '.join(sorted(words))}".encode()).digest()


def skewed_answers(
    question: str, answers: tuple[str, str], prior: Prior, rng: Random
) -> tuple[str, str]:
    """The answers that a pair's sides are trained with: with probability `skew` the favoured answer
    for both, else their own.
    """
    if rng.random() >= prior["skew"]:
        return answers
    favoured = str(rng.choice(prior["favoured"][question]))
    return favoured, favoured


def misled_sides(table: pa.Table, prior: Prior) -> tuple[Bools, Bools]:
    """Where the prior takes no part, and where it misleads: (neutral_N2, misled_N2), to slice an
    evaluation on.

    neutral: both or neither of a pair's answers are favoured. misled: the side's own answer is not,
    the other side's is. The remaining sides are helped by the prior, or ask a question that the
    prior does not know.

        favoured "blue";  a: "red", b: "blue"   ->  neutral (no, no),    misled (yes, no)
        favoured "green"; a: "red", b: "blue"   ->  neutral (yes, yes),  misled (no, no)

    Args:
        table: Rows with question, answer_a and answer_b, for example `read_mvc(folder,
            "validation")`.
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
