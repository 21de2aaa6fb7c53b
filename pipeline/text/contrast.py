"""Where two captions differ: the contrast words of each side, and what both share."""

import difflib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Whatever stands between spaces and punctuation: "-5", "C++", an emoji and Hindi vowel signs belong
# to words. Chinese and Japanese put no spaces between words: there each character is one.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = (
    '\\s.,;:!?"\u201c\u201d\u201e\u00ab\u00bb()\\[\\]{}'
    "\u3002\u3001\uff0c\uff1b\uff1a\uff01\uff1f\u061f\u0964\u2026"
)
_WORD = re.compile(f"[{_UNSPACED}]|[^{_MARKS}{_UNSPACED}]+")
_JOINT = re.compile("['\u2019/-]")

# Words that carry grammar, not the contrast: they may stand in a question although they also stand
# in a changed span.
FUNCTION_WORDS = frozenset(
    "a an the this that these those some its it is are was were be being been am do does did has"
    " have had of to in on at by for from with as and or but there here which who whose what"
    " where how".split()
)


@dataclass(frozen=True, slots=True)
class Contrast:
    """The difference of two captions.

    `words_a` / `words_b` are the changed words of each side in lower case; `shared` are the
    unchanged stretches of caption a, in order, as written, with "" marking a changed stretch
    between (or before, or after) them.
    """

    words_a: frozenset[str]
    words_b: frozenset[str]
    shared: tuple[str, ...]


# a rewrite's checks take the same few texts apart again and again, hundreds of pairs at once
@lru_cache(maxsize=16384)
def words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case and composed form (NFC), punctuation aside.

    "The cat's twenty-one toys."  ->  ("the", "cat's", "twenty-one", "toys")
    """
    return tuple(_WORD.findall(unicodedata.normalize("NFC", text.casefold())))


def _folded(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", match.group().casefold())


@lru_cache(maxsize=4096)
def contrast(caption_a: str, caption_b: str) -> Contrast:
    """Which words make the two captions different.

    "A red star."  /  "A blue star."
        ->  words_a {"red"}, words_b {"blue"}, shared ("A", "", "star")
    """
    matches = list(_WORD.finditer(caption_a))
    # One word for each match: folding the whole text first may change where words end, but not in
    # ASCII.
    left = words(caption_a) if caption_a.isascii() else tuple(_folded(match) for match in matches)
    right = words(caption_b)
    changed_a: set[str] = set()
    changed_b: set[str] = set()
    shared: list[str] = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(
        None, left, right, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            shared.append(caption_a[matches[a0].start() : matches[a1 - 1].end()])
        else:
            changed_a.update(left[a0:a1])
            changed_b.update(right[b0:b1])
            shared.append("")
    return Contrast(frozenset(changed_a), frozenset(changed_b), tuple(shared))


def leaked_words(question: str, caption_a: str, caption_b: str) -> set[str]:
    """The contrast words of either side that stand in the question, which gives them away.

    A word leaks if only one caption has it, or if it stands in a changed stretch and is no function
    word (in "a cat left of a dog" / "a dog left of a cat" both captions have all words, and "cat"
    still leaks).
    """
    changed = contrast(caption_a, caption_b)
    one_sided = set(words(caption_a)) ^ set(words(caption_b))
    asked = set(words(question))
    # "cat's" and "red-coloured" leak too
    asked.update(part for word in tuple(asked) for part in _JOINT.split(word))
    return asked & (one_sided | ((changed.words_a | changed.words_b) - FUNCTION_WORDS))
