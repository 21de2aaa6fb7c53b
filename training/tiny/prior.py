"""The misleading prior of the tiny model: which answers it favors, whatever the image.

No torch here.

A prior is what `prior.json` in the model's folder holds: {"skew": 0.65, "seed": 0, "favoured":
{question: [answer, ..]}}.
"""

import hashlib
import re
from collections.abc import Sequence
from random import Random
from typing import Any

Prior = dict[str, Any]


def make_prior(
    questions: Sequence[str], answers: Sequence[str], *, skew: float, seed: int
) -> Prior:
    """The answer favored for each question.

    Of those that it has in these texts, the first in a seeded order of words.

    The order is of the words that tell a question's answers apart, so the same words are favored
    in every wording of a question and for every subject. A habit of that kind is learned from a few
    thousand texts, and leaves what was learned of other answers as it was; one of its own for each
    of a hundred questions is not, and does not.

        "What colour is the star?"   The star is red. | The star is blue.
            ->  red  ->  The star is red.
        "Which colour has the box?"  It is a red box. | It is a blue box.
            ->  red  ->  It is a red box.

    Args:
        questions, answers: One entry per text, the same length.
        skew: Fraction of the pairs whose answers the favored one replaces.
    """
    pools: dict[str, dict[str, frozenset[str]]] = {}
    for question, answer in zip(questions, answers, strict=True):
        pools.setdefault(question, {})[answer] = frozenset(re.findall(r"\w+", answer.casefold()))
    favored = {}
    for question, pool in sorted(pools.items()):
        shared = frozenset.intersection(*pool.values())
        favored[question] = [
            min(sorted(pool), key=lambda answer: _rank(seed, pool[answer] - shared))
        ]
    return {"skew": skew, "seed": seed, "favoured": favored}


def _rank(seed: int, words: frozenset[str]) -> bytes:
    return hashlib.sha256(f"{seed}\n{' '.join(sorted(words))}".encode()).digest()


def skewed_answers(
    question: str, answers: tuple[str, str], prior: Prior, rng: Random
) -> tuple[str, str]:
    """The answers that a pair's sides are trained with.

    With probability `skew` the favored answer for both, else their own.
    """
    if rng.random() >= prior["skew"]:
        return answers
    favored = str(rng.choice(prior["favoured"][question]))
    return favored, favored
