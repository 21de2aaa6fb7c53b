"""What a generated answer is, compared with the two answers of its pair: pure functions of strings."""

import re
import unicodedata
from typing import Literal

Verdict = Literal["own", "other", "neither"]


def normalise(text: str) -> str:
    """A text without what does not change its meaning: case, width, punctuation and spacing.

    "The star is RED." -> "the star is red"
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", folded).split())


def verdict(generated: str, own: str, other: str) -> Verdict:
    """Which of the pair's answers a generated one is, after `normalise`.

    "neither" also when the two answers are the same once normalised: then a match says nothing.
    """
    said, own_text, other_text = normalise(generated), normalise(own), normalise(other)
    if own_text == other_text:
        return "neither"
    if said == own_text:
        return "own"
    return "other" if said == other_text else "neither"


def num_words(text: str) -> int:
    """Words of a text as a reader counts them (runs between spaces)."""
    return len(text.split())
