"""Generated answers against the two answers of a pair, and as answers to questions."""

import time

import pytest

from eval.parsing.parse import normalize, num_words, parse, status_rates, verdict
from eval.question import Kind, Question, Verdict


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("The star is red.", "own"),
        ("the STAR  is red", "own"),
        (" The star is red!\n", "own"),
        ("The star is blue.", "other"),
        ("The star is red and blue.", "neither"),
        ("A red star", "neither"),
        ("", "neither"),
    ],
)
def test_an_answer_is_its_own_the_other_or_neither(said: str, expected: str) -> None:
    assert verdict(said, "The star is red.", "The star is blue.") == expected


def test_two_answers_that_normalise_alike_decide_nothing() -> None:
    assert verdict("red", "Red.", "red") == "neither"


def test_what_is_left_of_a_text_are_its_words() -> None:
    assert (
        normalize("  \u201cIt\u2019s\u201d a well-known STAR_shape \uff01")
        == "it s a well known star shape"
    )
    assert (
        normalize("\u0417\u0412\u0415\u0417\u0414\u0410.") == "\u0437\u0432\u0435\u0437\u0434\u0430"
    )
    assert num_words(" two red  stars ") == 3


def question(kind: Kind, choices: tuple[str, ...] = (), **meta: str) -> Question:
    return Question(
        item_id="1",
        prompt="?",
        image=None,
        kind=kind,
        choices=choices,
        truth="B",
        cluster="1",
        max_new_tokens=8,
        meta=meta,
    )


DOOR = question("choice", ("Open", "Closed"))
COLOUR = question("choice", ("red", "dark red", "blue", "not visible"))


@pytest.mark.parametrize(
    ("said", "value", "status"),
    [
        # Nothing but the value.
        ("B", "B", "exact"),
        ("b", "B", "exact"),
        ("B.", "B", "exact"),
        ("(B)", "B", "exact"),
        ("**B**", "B", "exact"),
        ("\\boxed{B}", "B", "exact"),
        ("<answer>B</answer>", "B", "exact"),
        ("B</s>", "B", "exact"),
        ("\uff22", "B", "exact"),
        ("Option B", "B", "exact"),
        ("B. Closed", "B", "exact"),
        ("(b) Closed", "B", "exact"),
        ("B: closed.", "B", "exact"),
        ("Closed", "B", "exact"),
        (" closed.\n", "B", "exact"),
        # The value in a sentence.
        ("The answer is B.", "B", "extracted"),
        ("Answer: B", "B", "extracted"),
        ("The correct option is (B) Closed.", "B", "extracted"),
        ("Based on the image, the answer is A.", "A", "extracted"),
        ("The answer is closed", "B", "extracted"),
        ("B. The door looks closed.", "B", "extracted"),
        ("B\n\nExplanation: the door is closed", "B", "extracted"),
        ("B because it is closed", "B", "extracted"),
        ("The door is closed.", "B", "extracted"),
        ("I choose B", "B", "extracted"),
        ("It seems to be B", "B", "extracted"),
        ("Both are open", "A", "extracted"),
        # Several values.
        ("A or B", None, "ambiguous"),
        ("A, B", None, "ambiguous"),
        ("B. Open", None, "ambiguous"),
        ("open or closed", None, "ambiguous"),
        ("A. is wrong, B. is right", None, "ambiguous"),
        ("The answer is A. Wait, the answer is B.", None, "ambiguous"),
        ("Answer: (A) or (B)", None, "ambiguous"),
        ("B, as the door is open", None, "ambiguous"),
        # None.
        ("", None, "failed"),
        (" \n", None, "failed"),
        ("C", None, "failed"),
        ("I cannot tell", None, "failed"),
        ("A dog is there", None, "failed"),
        ("The answer is A door", None, "failed"),
        ("The answer is not B", None, "failed"),
        ("The door is not open.", None, "failed"),
        ("The door isn't open", None, "failed"),
        ("None", None, "failed"),
        ("Vitamin B is in it", None, "failed"),
        ("Openness", None, "failed"),
    ],
)
def test_a_letter_is_read_and_never_guessed(said: str, value: str | None, status: str) -> None:
    assert parse(DOOR, said) == Verdict(value, status)


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("It is dark red.", "B"),
        ("red", "A"),
        ("It is red or blue", None),
        ("It is not visible", "D"),
        ("B, C", None),
    ],
)
def test_the_longest_option_counts_and_a_negation_in_an_option_is_none(
    said: str, value: str | None
) -> None:
    assert parse(COLOUR, said).value == value


@pytest.mark.parametrize(
    ("said", "value", "status"),
    [
        ("yes", "yes", "exact"),
        ("NO", "no", "exact"),
        ("**Yes.**", "yes", "exact"),
        ("No, there is no dog", "no", "extracted"),
        ("Yes, there is no doubt.", "yes", "extracted"),
        ("Yes there is", "yes", "extracted"),
        ("No there isn't", "no", "extracted"),
        ("The answer is yes", "yes", "extracted"),
        ("Answer: No.", "no", "extracted"),
        ("I would say yes", "yes", "extracted"),
        ("No, it is a cat. The answer is no.", "no", "extracted"),
        ("Yes and no", None, "ambiguous"),
        ("yes/no", None, "ambiguous"),
        ("Yes. No.", None, "ambiguous"),
        ("No. Yes, there is", None, "ambiguous"),
        ("Yes. The answer is no.", None, "ambiguous"),
        ("", None, "failed"),
        ("I cannot tell.", None, "failed"),
        ("There isn't a dog.", None, "failed"),
        ("There is no dog", None, "failed"),
        ("No dog is visible", None, "failed"),
        ("Yesterday", None, "failed"),
        ("no-one", None, "failed"),
        ("Not yes", None, "failed"),
    ],
)
def test_yes_and_no_are_read_and_never_guessed(said: str, value: str | None, status: str) -> None:
    assert parse(question("yes_no"), said) == Verdict(value, status)


@pytest.mark.parametrize(
    ("said", "value", "status"),
    [
        ("Two.", "2", "exact"),
        ("A Dog", "dog", "exact"),
        ("the", "the", "exact"),
        ("1,250", "1250", "exact"),
        ("The answer is Nokia.", "nokia", "extracted"),
        ("It is green", "it is green", "exact"),
        ("!!", None, "failed"),
    ],
)
def test_a_short_answer_is_normalised(said: str, value: str | None, status: str) -> None:
    assert parse(question("short"), said) == Verdict(value, status)


def test_an_answer_for_the_vqa_metric_keeps_its_marks() -> None:
    assert parse(question("short", normalise="evalai"), " $5.99\n") == Verdict("$5.99", "exact")


def test_a_free_answer_waits_for_a_judge() -> None:
    assert parse(question("free"), "A door.") == Verdict(None, "missing")


LONG = [
    "A" * 10_000,
    "(" * 10_000,
    "( " * 5000,
    "answer is " * 1000,
    "yes " * 2500,
    "no, " * 2500,
    "*" * 10_000,
    "a.\n" * 3333,
    "<" * 10_000,
]


@pytest.mark.parametrize("said", LONG, ids=lambda said: said[:6].strip())
def test_an_answer_of_ten_thousand_characters_is_read_in_linear_time(said: str) -> None:
    for asked in (DOOR, COLOUR, question("yes_no"), question("short")):
        started_s = time.process_time()
        found = parse(asked, said)
        assert time.process_time() - started_s < 1.0
        assert (found.value is None) == (found.status in ("failed", "ambiguous"))


def test_failures_are_counted_beside_a_score() -> None:
    verdicts = [
        Verdict("A", "exact"),
        Verdict(None, "failed"),
        Verdict(None, "failed"),
        Verdict(None, "ambiguous"),
    ]
    assert status_rates(verdicts) == {
        "exact": 0.25,
        "extracted": 0.0,
        "ambiguous": 0.25,
        "failed": 0.5,
        "missing": 0.0,
    }
    assert status_rates([]) == {}
