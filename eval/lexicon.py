"""The words by which answers are read: closed lists of English, and the open ones of a folder's own truth."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NUMBERS = {"zero": 0, "none": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "single": 1}
HALVES = {"left": "left", "leftmost": "left", "right": "right", "rightmost": "right"}
HALVES |= {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
RELATIONS = {"above": "above", "over": "above", "below": "below", "under": "below", "underneath": "below", "beneath": "below"}
COMPARISONS = {"left": "left", "right": "right", "higher": "above", "lower": "below"}  # before "of" or "than"

NEGATIONS = {"not", "n't", "no", "never", "without", "nor", "neither", "cannot"}
CUTS = {",", "and", "but", "while", "whereas"}
DETERMINERS = {"the", "a", "an", "this", "that", "these", "those", "any", "some", "its", "both", "only", "exactly", "just"}
ADJECTIVES = {"small", "little", "tiny", "big", "large", "bright", "dark", "light", "solid", "plain", "coloured", "colored", "different"}
CENTRES = {"centre", "center", "middle"}
LANDMARK_AFTER = {"of", "from", "with", "to"}  # in a question: "seen from the box", "on which side of the box"
GENERIC = {"object", "objects", "shape", "shapes", "thing", "things", "figure", "figures", "item", "items"}
SIDE_WORDS = {"side", "hand", "half", "part", "edge", "corner"}
PRONOUNS = {"it", "they", "them"}
AFTER_PREDICATE = {"in", "on", "at", "or", "with", "which", "that", "who", "here", "there", "too", "to", "of", "is", "are"}
AFTER_PREDICATE |= {"colour", "color"}
INEXACT = {"least", "most", "than", "about", "around", "almost", "nearly", "over"}
INTENSIFIED = {"next", "above", "below", "beside", "under", "beneath", "near"}


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The words that can be checked: every form (plural, spelling) -> the word of the truth."""

    nouns: Mapping[str, str]
    colours: Mapping[str, str]

    @classmethod
    def of(cls, objects: Iterable[str], colours: Iterable[str]) -> "Lexicon":
        """A lexicon of these words, their plurals, and grey / gray; words of several parts are allowed."""
        nouns = {_as_one(form): word.lower() for word in objects for form in _forms(word.lower())}
        named = {colour.lower() for colour in colours}
        spelled = {_as_one(form): c for c in named for form in (c.replace("grey", "gray"), c.replace("gray", "grey"))}
        return cls(nouns, spelled)


def _as_one(form: str) -> str:
    return form.replace("-", " ").replace(" ", "_")


def _forms(word: str) -> list[str]:
    plural = word[:-1] + "ies" if word.endswith("y") and word[-2:-1] not in "aeiou" else word + "s"
    return [word, word + "es" if word.endswith(("s", "x", "z", "ch", "sh")) else plural]
