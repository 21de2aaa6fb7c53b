"""Words for edits: articles, plurals, and questions that give nothing away."""

from random import Random

import pytest

from pipeline.sources.edits.nouns import counted, noun, plural, with_article
from pipeline.sources.edits.phrasing import PHRASINGS, Texts, write
from pipeline.text.contrast import contrast, leaked_words

PLURALS = {
    "dog": "dogs",
    "box": "boxes",
    "bus": "buses",
    "bench": "benches",
    "baby": "babies",
    "key": "keys",
    "roof": "roofs",
    "piano": "pianos",
    "knife": "knives",
    "wolf": "wolves",
    "leaf": "leaves",
    "bookshelf": "bookshelves",
    "potato": "potatoes",
    "quiz": "quizzes",
    "person": "people",
    "woman": "women",
    "snowman": "snowmen",
    "human": "humans",
    "ottoman": "ottomans",
    "grandchild": "grandchildren",
    "tooth": "teeth",
    "computer mouse": "computer mice",
    "sheep": "sheep",
    "goldfish": "goldfish",
    "ox": "oxen",
    "TV": "TVs",
    "cup of tea": "cups of tea",
    "stuffed animal": "stuffed animals",
    "pair of glasses": "pairs of glasses",
    "Woman": "Women",
}
ARTICLES = {
    "a": (
        "dog unicycle university uniform user ukulele utensil euro one-eyed-cat UFO TV yo-yo"
        " hand".split()
    ),
    "an": (
        "apple orange egg umbrella hour hourglass heirloom iPhone SUV X-ray LED-lamp"
        " unimportant-thing urn ox".split()
    ),
}


@pytest.mark.parametrize(("one", "many"), PLURALS.items())
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_articles_go_by_sound() -> None:
    for article, words in ARTICLES.items():
        for word in words:
            assert with_article(word) == f"{article} {word}"


def test_what_comes_in_pairs_is_counted_in_pairs() -> None:
    assert (
        noun("glasses") == "pair of glasses"
        and noun("swimming trunks") == "pair of swimming trunks"
    )
    assert noun("pair of scissors") == "pair of scissors" and noun("wine glass") == "wine glass"
    assert (
        counted(1, noun("glasses")) == "one pair of glasses"
        and counted(3, noun("scissors")) == "three pairs of scissors"
    )


CASES = [
    ("place", "dog", ("to the left of", "to the right of"), "apple"),
    ("place", "glasses", ("above", "below"), "dog"),
    ("count", "mouse", ("two", "four"), ""),
    ("count", "mouse", ("three", "one"), ""),
    ("which", "on the left", ("owl", "dog"), "on the left"),
    ("colour", "toy car", ("yellow", "orange"), ""),
    ("presence", "cup", ("one", "no"), ""),
]


def all_phrasings(kind: str, subject: str, values: tuple[str, str], other: str) -> list[Texts]:
    found = {
        texts.phrasing: texts
        for seed in range(60)
        for texts in [write(Random(seed), kind, subject, values, other)]
    }
    assert sorted(found) == list(range(len(PHRASINGS[kind])))
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize(("kind", "subject", "values", "other"), CASES)
def test_questions_give_nothing_away_and_captions_differ_in_the_contrast(
    kind: str, subject: str, values: tuple[str, str], other: str
) -> None:
    allowed = {word for value in values for word in value.split()} | {
        "a",
        "an",
        "is",
        "are",
        "mouse",
        "mice",
    }
    for texts in all_phrasings(kind, subject, values, other):
        difference = contrast(texts.caption_a, texts.caption_b)
        assert (
            difference.words_a != difference.words_b
            and (difference.words_a | difference.words_b) <= allowed
        )
        for caption in (texts.caption_a, texts.caption_b):
            assert (
                caption[0].isupper()
                and caption.endswith(".")
                and "  " not in caption
                and "{" not in caption
            )
        # "How many mice are there?" with "There is one mouse." holds a contrast word, so it is not
        # asked.
        assert (
            texts.question is None
            if "one" in values and kind == "count" and texts.phrasing < 3
            else texts.question
        )
        assert texts.question is None or (
            texts.question.endswith("?")
            and not leaked_words(texts.question, texts.caption_a, texts.caption_b)
        )


def test_captions_read_as_english() -> None:
    assert all_phrasings(*CASES[0])[0] == Texts(
        "Where is the dog, seen from the apple?",
        "A dog is to the left of an apple.",
        "A dog is to the right of an apple.",
        0,
    )
    assert all_phrasings(*CASES[1])[0].caption_a == "A pair of glasses is above a dog."
    assert [texts.caption_b for texts in all_phrasings(*CASES[3])] == [
        "There is one mouse.",
        "You can see one mouse.",
        "The picture shows one mouse.",
        "The number of mice in the picture is one.",
    ]
    assert all_phrasings(*CASES[4])[0].caption_a == "The picture on the left shows an owl."
    assert all_phrasings(*CASES[5])[2].caption_b == "It is an orange toy car."
    assert all_phrasings(*CASES[6])[0].caption_b == "There is no cup in the photo."


def test_a_label_that_holds_a_contrast_word_is_not_asked_about() -> None:
    assert (
        write(
            Random(0), "place", "left shoe", ("to the left of", "to the right of"), "dog"
        ).question
        is None
    )
