"""How an edit's contrast is asked and told.

A phrasing is one question with one caption; both sides of a pair share it.
"""

from dataclasses import dataclass
from random import Random

from pipeline.sources.edits.nouns import NUMBERS, counted, noun, plural, with_article
from pipeline.text.captions import sentence
from pipeline.text.contrast import leaked_words

# {it}: the subject's noun, {a_it} with its article, {them} its plural; {other} and {a_other}: the
# thing it is compared with; {value}: what the contrast is in, {a_value} with its article, {n_it}
# "two dogs", {be} "is" or "are".
PHRASINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "place": (
        ("Where is the {it}, seen from the {other}?", "{a_it} is {value} {a_other}."),
        (
            "Where does the picture show the {it}, compared with the {other}?",
            "The picture shows {a_it} {value} {a_other}.",
        ),
        ("How are the {it} and the {other} arranged?", "The {it} is {value} the {other}."),
        (
            "Where can the {it} be seen, compared with the {other}?",
            "The {it} can be seen {value} the {other}.",
        ),
    ),
    "count": (
        ("How many {them} are there?", "There {be} {n_it}."),
        ("How many {them} can be seen?", "You can see {n_it}."),
        ("How many {them} does the picture show?", "The picture shows {n_it}."),
        (
            "What is the number of {them} in the picture?",
            "The number of {them} in the picture is {value}.",
        ),
    ),
    "which": (
        ("What does the picture {other} show?", "The picture {other} shows {a_value}."),
        ("What is in the photo {other}?", "{a_value} is in the photo {other}."),
        ("What can be seen {other}?", "You can see {a_value} {other}."),
        ("What is {other}?", "{a_value} is {other}."),
    ),
    "colour": (
        ("What colour is the {it}?", "The {it} is {value}."),
        ("What is the colour of the {it}?", "The colour of the {it} is {value}."),
        ("Which colour does the {it} have?", "It is {a_value} {it}."),
        ("What colour of {it} does the picture show?", "The picture shows {a_value} {it}."),
    ),
    "presence": (
        ("Are there any {them} in the photo?", "There is {one_it} in the photo."),
        ("Can any {them} be seen?", "You can see {one_it}."),
        ("Does the photo show any {them}?", "The photo shows {one_it}."),
        ("Which {them} can you find in the picture?", "You can find {one_it} in the picture."),
    ),
}


@dataclass(frozen=True, slots=True)
class Texts:
    """What a pair says, and by which phrasing of its kind."""

    question: str | None
    caption_a: str
    caption_b: str
    phrasing: int


def write(rng: Random, kind: str, subject: str, values: tuple[str, str], other: str = "") -> Texts:
    """The question and the two captions of a pair.

        "place", "dog", ("to the left of", "to the right of"), "apple"
            ->  "Where is the dog, seen from the apple?",
                "A dog is to the left of an apple.", "A dog is to the right of an apple."

    No question is given where it would hold a contrast word, as "dogs" in "There is one dog." /
    "There are two dogs.".

    Args:
        kind: A key of PHRASINGS.
        subject: The label that both captions are about; of no use to "which", whose values are
            labels.
        values: The contrast in words: numbers as in NUMBERS for "count", "one" and "no" for
            "presence".
        other: The label compared with, or for "which" the place ("on the left").
    """
    phrasing = rng.randrange(len(PHRASINGS[kind]))
    question, caption = PHRASINGS[kind][phrasing]
    asked = question.format_map(_words(subject, values[0], other))
    caption_a, caption_b = (
        sentence(caption.format_map(_words(subject, value, other))) for value in values
    )
    return Texts(
        None if leaked_words(asked, caption_a, caption_b) else asked, caption_a, caption_b, phrasing
    )


def _words(subject: str, value: str, other: str) -> dict[str, str]:
    it = noun(subject)
    number = NUMBERS.index(value) if value in NUMBERS else 0
    return {
        "it": it,
        "a_it": with_article(it),
        "them": plural(it),
        "n_it": counted(number, it),
        "one_it": f"no {it}" if value == "no" else with_article(it),
        "be": "is" if number == 1 else "are",
        "other": noun(other),
        "a_other": with_article(noun(other)),
        "value": value,
        "a_value": with_article(noun(value)),
    }
