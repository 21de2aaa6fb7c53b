"""The words by which answers are read: lists of English, and those of a folder's own truth."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

NUMBERS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()
    )
} | {"none": 0, "single": 1}
HALVES = {
    "left": "left",
    "leftmost": "left",
    "right": "right",
    "rightmost": "right",
    "top": "top",
    "upper": "top",
    "bottom": "bottom",
    "lower": "bottom",
}
RELATIONS = {
    "above": "above",
    "over": "above",
    "below": "below",
    "under": "below",
    "underneath": "below",
    "beneath": "below",
}
# before "of" or "than"
COMPARISONS = {"left": "left", "right": "right", "higher": "above", "lower": "below"}

NEGATIONS = {"not", "n't", "no", "never", "without", "nor", "neither", "cannot"}
CUTS = {",", "and", "but", "while", "whereas"}
DETERMINERS = {
    "the",
    "a",
    "an",
    "this",
    "that",
    "these",
    "those",
    "any",
    "some",
    "its",
    "both",
    "only",
    "exactly",
    "just",
}
ADJECTIVES = {
    "small",
    "little",
    "tiny",
    "big",
    "large",
    "bright",
    "dark",
    "light",
    "solid",
    "plain",
    "coloured",
    "colored",
    "different",
}
CENTERS = {"centre", "center", "middle"}
# in a question: "seen from the box", "on which side of the box"
LANDMARK_AFTER = {"of", "from", "with", "to"}
GENERIC = {
    "object",
    "objects",
    "shape",
    "shapes",
    "thing",
    "things",
    "figure",
    "figures",
    "item",
    "items",
}
SIDE_WORDS = {"side", "hand", "half", "part", "edge", "corner"}
PRONOUNS = {"it", "they", "them"}
AFTER_PREDICATE = {
    "in",
    "on",
    "at",
    "or",
    "with",
    "which",
    "that",
    "who",
    "here",
    "there",
    "too",
    "to",
    "of",
    "is",
    "are",
    "colour",
    "color",
}
INEXACT = {"least", "most", "than", "about", "around", "almost", "nearly", "over"}
HEDGES = {
    "might",
    "may",
    "maybe",
    "could",
    "perhaps",
    "possibly",
    "probably",
    "likely",
    "unlikely",
    "whether",
    "if",
    "unclear",
    "unsure",
    "uncertain",
}
# hedges where they are denied: "I am not sure", "it is not clear that"
UNSURE = {"clear", "sure", "certain"}
NOT_ALL = {"all", "every", "each"}  # "not all stars are red" denies nothing of any one star
INTENSIFIED = {"next", "above", "below", "beside", "under", "beneath", "near"}


def is_hedged(words: Sequence[str]) -> bool:
    """Whether a sentence is not sure ("there might be a star"), or speaks of not all."""
    denied = any(word in NEGATIONS for word in words)
    not_all = any(word in NEGATIONS and after in NOT_ALL for word, after in pairwise(words))
    return not HEDGES.isdisjoint(words) or (denied and not UNSURE.isdisjoint(words)) or not_all


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The words that can be checked: every form (plural, spelling) -> the word of the truth."""

    nouns: Mapping[str, str]
    colors: Mapping[str, str]

    @classmethod
    def of(cls, objects: Iterable[str], colors: Iterable[str]) -> "Lexicon":
        """A lexicon of these words (of several parts, too), their plurals, and grey / gray."""
        nouns = {_joined(form): word.lower() for word in objects for form in _forms(word.lower())}
        spelled = {
            _joined(form): color
            for color in {color.lower() for color in colors}
            for form in (color.replace("grey", "gray"), color.replace("gray", "grey"))
        }
        return cls(nouns, spelled)

    def joined(self, text: str) -> str:
        """A text in lower case, its words of several parts joined ("traffic_light")."""
        plain = text.lower().replace("\u2019", "'").replace("-", " ")
        for form in sorted([*self.nouns, *self.colors], key=len, reverse=True):
            if "_" in form:
                plain = re.sub(rf"\b{re.escape(form.replace('_', ' '))}\b", form, plain)
        return plain


def _joined(form: str) -> str:
    return form.replace("-", " ").replace(" ", "_")


def _forms(word: str) -> list[str]:
    plural = word[:-1] + "ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else word + "s"
    return [word, word + "es" if word.endswith(("s", "x", "z", "ch", "sh")) else plural]
