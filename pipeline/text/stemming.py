"""Words as the rewriting checks compare them: without inflection, numbers as words. For English.

Other languages keep their words as they are, except for endings that look English; both sides are
treated alike.
"""

import itertools
import re
from functools import lru_cache

from pipeline.text.contrast import FUNCTION_WORDS, words

VERSION = 1

_JOINT = re.compile("[-/]")
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
).split()
_ENDINGS = (("sses", "ss"), ("ies", "i"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))
_VOWEL = re.compile("[aeiouy]")

_GRAMMAR = (
    "a an the this that these those some its it is are was were be being been am do does did has"
    " have had of to as and there here i you we he she they them his her their who which whose what"
    " where how"
)
# A picture's frame is no fact of its content.
_FRAME = (
    "picture image photo photograph photography scene shot view can could see seen show shown"
    " visible appear depict display feature also just let us me your my our"
)


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word without its English ending: equal for a word's forms, and for a digit and its name.

    "sits", "sitting", "sit" -> "sit"        "placed", "place" -> "plac"
    "3", "three" -> "thre"                   "ring" -> "ring"
    """
    if word.isdecimal() and int(word) < len(_NUMBERS):
        word = _NUMBERS[int(word)]
    for ending, instead in _ENDINGS:
        rest = word[: len(word) - len(ending)]
        if (
            word.endswith(ending)
            and len(rest) >= 3 - len(instead)
            and _VOWEL.search(rest)
            and not word.endswith("ss")
        ):
            word = rest + instead
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    if len(word) > 3 and word[-1] == "e":
        word = word[:-1]
    return f"{word[:-1]}i" if len(word) > 2 and word[-1] == "y" else word


@lru_cache(maxsize=16384)
def stems(text: str) -> tuple[str, ...]:
    """The stems of a text in order.

    "The cat's twenty-one toys aren't here." -> the cat twenti one toi ar not her
    """
    parts = (_stems_of(word) for word in words(text.replace("\u2019", "'")))
    return tuple(itertools.chain.from_iterable(parts))


@lru_cache(maxsize=65536)
def _stems_of(word: str) -> tuple[str, ...]:
    parts: list[str] = []
    for part in _JOINT.split(word):
        bare = part.removesuffix("n't").removesuffix("'s").strip("'")
        parts += [stem(bare)] if bare else []
        parts += ["not"] if part.endswith("n't") else []
    return tuple(parts)


GRAMMAR = frozenset(stems(_GRAMMAR))
FREE = GRAMMAR | frozenset(stems(f"{_FRAME} {' '.join(FUNCTION_WORDS)}"))
NUMBERS_AND_NEGATIONS = frozenset(
    stems(f"{' '.join(_NUMBERS)} no not never none without neither nor")
) - {"one"}
ONE = frozenset(("a", "an", "one"))
