"""Whether a text is in another language than its captions: by script, or by small words.

A heuristic that speaks only where it is sure: short texts, and languages that are not listed, pass.
"""

import unicodedata
from collections import Counter
from functools import lru_cache

from pipeline.text.contrast import words

MIN_HITS = 2
_SMALL_WORDS = {
    "en": "the a of and is are with what this that there you see how on under to",
    "de": "der die das und ist sind ein eine einem einen mit auf im was wie",
    "fr": "le la les des et est sont un une avec sur dans que vous voit il y du",
    "es": "el los las y es est\u00e1n un una con en que del hay se qu\u00e9 c\u00f3mo ves",
    "it": "il lo gli le e \u00e8 sono un una con su nel che del della cosa vedi c'\u00e8",
    "pt": "o os as e \u00e9 est\u00e3o um uma com em que do da no na h\u00e1 voc\u00ea",
    "nl": "de het een en is zijn met op van dat wat er je ziet",
}
_SETS = {name: frozenset(listed.split()) for name, listed in _SMALL_WORDS.items()}


def other_language(text: str, captions: str) -> bool:
    """Whether the text is surely in another language than the captions.

    "Was ist zu sehen?" to "A red star."             ->  False (too short to tell)
    "\u4f60\u770b\u5230\u4ec0\u4e48" to "A red star."  ->  True
    """
    script, expected = main_script(text), main_script(captions)
    if script and expected and script != expected:
        return True
    here, there = _language(text), _language(captions)
    return bool(here and there and here != there)


def small_words(text: str) -> frozenset[str]:
    """The small words (articles and such) of a text's language; empty where that is not sure."""
    return _SETS.get(_language(text), frozenset())


@lru_cache(maxsize=4096)
def main_script(text: str) -> str:
    """The script of most letters: "LATIN", "CYRILLIC" .., or "" without letters.

    "HAN" stands for kana and hangul beside it too.
    """
    if text.isascii():
        return "LATIN" if any(char.isalpha() for char in text) else ""
    scripts = Counter(_script(char) for char in text if char.isalpha())
    return scripts.most_common(1)[0][0] if scripts else ""


@lru_cache(maxsize=65536)
def _script(char: str) -> str:
    name = unicodedata.name(char, "UNKNOWN").split(" ")[0].split("-")[0]
    return "HAN" if name in ("CJK", "HIRAGANA", "KATAKANA") else name


@lru_cache(maxsize=16384)
def _language(text: str) -> str:
    """The language whose small words a text has clearly most of, or "" where no one stands out."""
    said = frozenset(words(text))
    hits = sorted(((len(said & small), name) for name, small in _SETS.items()), reverse=True)
    (most, name), (next_most, _) = hits[0], hits[1]
    return name if most >= MIN_HITS and most > next_most else ""
