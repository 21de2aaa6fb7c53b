"""English for labels: "an apple", "two mice", "a pair of glasses".

Labels are data: singular, countable nouns. Rules with tables for the common exceptions, no
dictionary; a label that comes out wrong is mended in the manifest.
"""

import re

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# One of these is called a pair.
PAIRS = frozenset(
    "binoculars boxers briefs clippers eyeglasses forceps glasses goggles headphones jeans knickers"
    " leggings overalls pajamas panties pants pincers pliers pyjamas scissors shears shorts"
    " spectacles sunglasses swimming-trunks tights tongs trousers trunks tweezers".split()
)
# Whole words, and ends of words: "grandchild", "wineglass" and "bookshelf" go as their last part
# does.
_WORDS = {
    "goose": "geese",
    "louse": "lice",
    "ox": "oxen",
    "die": "dice",
    "quiz": "quizzes",
    "cactus": "cacti",
    "axis": "axes",
    "life": "lives",
    "stomach": "stomachs",
    "monarch": "monarchs",
    "passer-by": "passers-by",
    "passerby": "passersby",
    "thief": "thieves",
    "hoof": "hooves",
    **{word: f"{word[:-1]}ves" for word in "calf elf half sheaf".split()},
    **{
        word: f"{word}es"
        for word in (
            "potato tomato hero echo torpedo mango buffalo volcano domino mosquito tornado".split()
        )
    },
    **{word: f"{word[:-2]}es" for word in "crisis oasis basis analysis".split()},
    **{word: f"{word}s" for word in "human german roman shaman ottoman talisman caiman".split()},
    **{
        word: word
        for word in (
            "aircraft bison cod deer elk hovercraft moose offspring salmon series sheep shrimp"
            " spacecraft species squid swine trout tuna".split()
        )
    },
}
_ENDS = {
    "person": "people",
    "child": "children",
    "man": "men",
    "foot": "feet",
    "tooth": "teeth",
    "mouse": "mice",
    "fish": "fish",
    "knife": "knives",
    "wife": "wives",
    "leaf": "leaves",
    "loaf": "loaves",
    "scarf": "scarves",
    "shelf": "shelves",
    "wolf": "wolves",
}
_PREPOSITION = re.compile(r" (?:of|in|on|with|for|at|from|to) ")

# By sound, not by letter: "an hour", "a unit", "an SUV", "a UFO".
_AN = re.compile(r"[aeiou]|hour|honest|heir|honou?r|x-ray|xbox", re.IGNORECASE)
_A = re.compile(r"uni(?!nt|m)|us[eu]|ut[ei]|uku|ur[ai]|eu|ewe|one\b|once\b|ubi", re.IGNORECASE)
_SPELLED_AN = re.compile(r"[AEFHILMNORSX](?:[A-Z0-9]|\b)")
_SPELLED_A = re.compile(r"[BCDGJKPQTUVWYZ](?:[A-Z0-9]|\b)")


def noun(label: str) -> str:
    """What one of it is called: "glasses" -> "pair of glasses", "dog" -> "dog"."""
    is_pair = label.split(" ")[-1].lower() in PAIRS and not label.lower().startswith("pair of ")
    return f"pair of {label}" if is_pair else label


def plural(phrase: str) -> str:
    """More than one: "mouse" -> "mice", "cup of tea" -> "cups of tea", "toy box" -> "toy boxes"."""
    link = _PREPOSITION.search(phrase)
    if link and link.start() > 0:
        return plural(phrase[: link.start()]) + phrase[link.start() :]
    before, space, word = phrase.rpartition(" ")
    return f"{before}{space}{_plural_word(word)}"


def _plural_word(word: str) -> str:
    lower = word.lower()
    if lower in _WORDS:
        return word[0] + _WORDS[lower][1:]
    for end, ends in _ENDS.items():
        if lower.endswith(end):
            return f"{word[: -len(end)]}{word[-len(end)]}{ends[1:]}"
    if (
        lower.endswith("y")
        and len(lower) > 1
        and (lower[-2] not in "aeiou" or lower.endswith("quy"))
    ):
        return f"{word[:-1]}ies"
    return f"{word}es" if lower.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"


def with_article(phrase: str) -> str:
    """ "a dog", "an apple", "an hour glass", "a unicycle", "an SUV", "a UFO"."""
    if _SPELLED_A.match(phrase):
        return f"a {phrase}"
    if _SPELLED_AN.match(phrase):
        return f"an {phrase}"
    return f"{'an' if _AN.match(phrase) and not _A.match(phrase) else 'a'} {phrase}"


def counted(number: int, phrase: str) -> str:
    """ "one dog", "three dogs"."""
    return f"{NUMBERS[number]} {phrase if number == 1 else plural(phrase)}"
