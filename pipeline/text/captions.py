"""A pair's captions: whether they can be used at all, and the numbers that selection needs."""

import difflib
from collections.abc import Sequence

from pipeline.text.contrast import words

_CLOSING = "\"')]}\u201d\u2019\u00bb"
_ENDS = tuple(".!?\u2026\u3002\uff01\uff1f\u061f\u0964")
# Aligning two texts takes time that grows with the product of their lengths; no minimal contrast
# needs more.
MAX_ALIGNED_WORDS = 500


def text_drop_reason(caption_a: str, caption_b: str) -> str:
    """Why a pair leaves by its captions alone, or "".

    Captions that differ in case or punctuation only are equal.
    """
    for side, caption in (("a", caption_a), ("b", caption_b)):
        if not caption.strip():
            return f"caption_{side}_empty"
        if any(ord(char) < 32 and char not in "\t\n\r" for char in caption):
            return f"caption_{side}_control_character"
    if words(caption_a) == words(caption_b):
        return "captions_equal"
    return ""


def caption_facts(caption_a: str, caption_b: str) -> dict[str, float]:
    """How long both captions are, and how many words of each the other one lacks.

    "A red star."  /  "A big blue star."
        ->  num_chars 11, 16        num_words 3, 4        num_changed_words 1, 2
    """
    left, right = words(caption_a), words(caption_b)
    changed_a, changed_b = num_changed_words(left, right)
    return {
        "num_chars_a": float(len(caption_a)),
        "num_chars_b": float(len(caption_b)),
        "num_words_a": float(len(left)),
        "num_words_b": float(len(right)),
        "num_changed_words_a": float(changed_a),
        "num_changed_words_b": float(changed_b),
    }


def num_changed_words(left: Sequence[str], right: Sequence[str]) -> tuple[int, int]:
    """How many words of each text are not part of what both share in the same order.

        a cat left of a dog  /  a dog left of a cat   ->  (2, 2)
        a red star           /  a red star and a cat  ->  (0, 3)

    What lies between the shared beginning and the shared end is aligned word by word; where that is
    longer than `MAX_ALIGNED_WORDS`, all of it counts as changed.
    """
    shortest = min(len(left), len(right))
    start = next((i for i in range(shortest) if left[i] != right[i]), shortest)
    end = next(
        (i for i in range(shortest - start) if left[-1 - i] != right[-1 - i]), shortest - start
    )
    middle_a, middle_b = left[start : len(left) - end], right[start : len(right) - end]
    shared = 0
    if max(len(middle_a), len(middle_b)) <= MAX_ALIGNED_WORDS:
        blocks = difflib.SequenceMatcher(
            None, middle_a, middle_b, autojunk=False
        ).get_matching_blocks()
        shared = sum(block.size for block in blocks)
    return len(middle_a) - shared, len(middle_b) - shared


def sentence(caption: str) -> str:
    """A caption as a sentence: one line, a capital first letter, a full stop; no other change.

    "two dogs on a sofa "  ->  "Two dogs on a sofa."
    "iPhone on a desk."    ->  "iPhone on a desk."
    """
    line = " ".join(caption.split())
    if line.split(" ")[0].islower():
        line = line[0].upper() + line[1:]
    ends = line.rstrip(_CLOSING)[-1:] in _ENDS
    return line if ends else f"{line}."
