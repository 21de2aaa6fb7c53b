"""Generated answers against the two answers of a pair, and as answers to questions."""

import time

import pytest

from eval.parsing.harness_parsers import parser
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
        "unfinished": 0.0,
        "missing": 0.0,
    }
    assert status_rates([]) == {}


@pytest.mark.parametrize(
    ("said", "value", "status"),
    [
        # what wraps an answer
        ("$\\boxed{\\text{B}}$", "B", "exact"),
        ("\\(\\boxed{B}\\)", "B", "exact"),
        ("The final answer is $\\boxed{B}$.", "B", "extracted"),
        ("A is open, so it is not A. \\boxed{B. Closed}", "B", "extracted"),
        ('{"answer":"B"}', "B", "exact"),
        ("{'answer': 'B'}", "B", "exact"),
        ('```json\n{"answer": "B", "because": "A is open"}\n```', "B", "exact"),
        ('Here it is: {"answer": "(B) Closed"}', "B", "extracted"),
        ("<answer>B</answer>", "B", "exact"),
        ("A is open. <answer>B", "B", "extracted"),
        ("<|begin_of_box|>B<|end_of_box|>", "B", "exact"),
        ("**Answer:** B", "B", "extracted"),
        ("> B", "B", "exact"),
        ("\\boxed{A}, no, \\boxed{B}", None, "ambiguous"),
        ("<answer>A</answer> <answer>B</answer>", None, "ambiguous"),
        ('{"A": "no", "B": "yes"}', None, "ambiguous"),
        # sentences
        ("It's B", "B", "extracted"),
        ("It\u2019s B, the door is shut", "B", "extracted"),
        ("That's B.", "B", "extracted"),
        ("I'd say B", "B", "extracted"),
        ('The answer is "B".', "B", "extracted"),
        ("Therefore, B.", "B", "extracted"),
        ("I don't think it's B", None, "failed"),
        ("The answer is A, B", None, "ambiguous"),
        # other languages, full width
        ("\u7b54\u6848\uff1aB", "B", "extracted"),
        ("\u7b54\u6848\u662fB\u3002", "B", "extracted"),
        ("\u6b63\u786e\u7b54\u6848\u662f\u9009\u9879B", "B", "extracted"),
        ("\u9009B", "B", "exact"),
        ("\u9009\u9879B", "B", "exact"),
        ("A\u4e0d\u5bf9\uff0c\u9009B", "B", "extracted"),
        ("\uff08\uff22\uff09", "B", "exact"),
        ("\u3010B\u3011", "B", "exact"),
        ("Antwort: B", "B", "extracted"),
        ("\u7b54\u6848\u4e0d\u662fB", None, "failed"),
        ("\u4e0d\u9009B", None, "failed"),
        ("\u9009A\u6216B", None, "ambiguous"),
    ],
)
def test_a_letter_is_read_in_whatever_it_is_wrapped(
    said: str, value: str | None, status: str
) -> None:
    assert parse(DOOR, said) == Verdict(value, status)


@pytest.mark.parametrize(
    ("said", "value", "status"),
    [
        ("\u662f", "yes", "exact"),
        ("\u4e0d\u662f", "no", "exact"),
        ("\u6ca1\u6709\u3002", "no", "exact"),
        ("\u5426", "no", "exact"),
        ("\u5bf9", "yes", "exact"),
        ("\u4e0d\u5bf9", "no", "exact"),
        ("\u662f\u7684\uff0c\u6709\u4e00\u53ea\u72d7\u3002", "yes", "extracted"),
        ("\u7b54\u6848\uff1a\u662f", "yes", "extracted"),
        ("\u7b54\u6848\u662f\u5426", "no", "extracted"),
        ('{"answer": true}', "yes", "exact"),
        ("\\boxed{No}", "no", "exact"),
        ("Oui.", "yes", "exact"),
        ("\u662f/\u5426", None, "ambiguous"),
        ("\u5bf9\uff0c\u4e0d\u5bf9", None, "ambiguous"),
        ("\u6ca1\u6709\u72d7", None, "failed"),
        ("\u662f\u4e0d\u662f", None, "failed"),
    ],
)
def test_yes_and_no_are_read_in_other_words(said: str, value: str | None, status: str) -> None:
    assert parse(question("yes_no"), said) == Verdict(value, status)


@pytest.mark.parametrize(
    ("said", "value", "status"),
    [
        ("<think>Open? No.</think>\n\nB", "B", "exact"),
        ("It may be A ... </think> B", "B", "exact"),
        ("<think>A</think> A. <think>no</think> B", "B", "exact"),
        ("<thinking>A</thinking><answer>B</answer>", "B", "exact"),
        ("[THINK]A[/THINK]B", "B", "exact"),
        (
            "<|channel|>analysis<|message|>A?<|end|><|start|>assistant<|channel|>final<|message|>B",
            "B",
            "exact",
        ),
        ("<think>Open. The answer is A", None, "unfinished"),
        ("<|channel|>analysis<|message|>The answer is A", None, "unfinished"),
        ("<think>A</think>", None, "failed"),
    ],
)
def test_reasoning_is_no_part_of_an_answer(said: str, value: str | None, status: str) -> None:
    expected = Verdict(value, status)
    assert parse(DOOR, said) == expected
    if value and "<answer>" not in said:  # other harnesses read the same text
        assert parser("vlmevalkit", "mmvp")(DOOR, said).value == value
    elif status == "unfinished":
        assert parser("official", "pope")(question("yes_no"), said) == expected
        assert parse(question("free"), said) == expected


def test_an_answer_for_the_vqa_metric_is_unwrapped_too() -> None:
    asked = question("short", normalise="evalai")
    assert parse(asked, "<think>5?</think><answer>$5.99</answer>") == Verdict("$5.99", "exact")


NUM_CHARS = 200_000
REPEATED = ["\n", " ", "A ", "yes ", "(", "{", "answer ", "\\boxed{", "<think>", "\u9009", "` "]


@pytest.mark.slow
@pytest.mark.parametrize("unit", REPEATED)
@pytest.mark.parametrize("start", ["", "yes", "A", "``` ", "it's", "\u9009", "yes and"])
def test_no_answer_holds_the_parsers_up(start: str, unit: str) -> None:
    said = start + unit * (NUM_CHARS // len(unit)) + "x"
    for asked in (DOOR, question("yes_no"), question("short")):
        assert parse(asked, said).status
    for key in ("mmvp", "scienceqa", "cvbench"):
        assert parser("lmms", key)(DOOR, said).status
        assert parser("vlmevalkit", key)(DOOR, said).status


@pytest.mark.parametrize(
    "said",
    [
        "Not (B).",
        "Option B is wrong.",
        "(B) is incorrect",
        "(B) isn't right",
        "The wrong answer is B",
        "The incorrect option is (B).",
        "Closed is wrong",
        "It is hardly closed",
        "The answer is B, or maybe A",
        "Answer:\nA\nB",
        "The answer is not \\boxed{B}",
        "\u9009\u9879B\u662f\u9519\u8bef\u7684",
        "(B)\u4e0d\u6b63\u786e",
        "\u7b54\u3048\u306fB\u3067\u306f\u3042\u308a\u307e\u305b\u3093",
        '{"wrong_answer": "B"}',
        '{"excluded": "B"}',
        '{"A": "B"}',
        '{"A": "Closed"}',
        '{"B": false}',
    ],
)
def test_a_letter_that_is_said_not_to_be_it_is_not_read(said: str) -> None:
    assert parse(DOOR, said).value is None


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("\u7b54\u3048\u306fB\u3067\u3059\u3002", "extracted"),
        ("B\u3067\u3059", "exact"),
        ("\uc815\ub2f5\uc740 B\uc785\ub2c8\ub2e4.", "extracted"),
        ('{"B": "Closed"}', "exact"),
        ("<analysis>A</analysis>B", "exact"),
        ("<think >A?</think >\nB", "exact"),
        ("(B), since it is not open", "extracted"),
    ],
)
def test_a_letter_is_read_with_what_says_that_it_is_it(said: str, status: str) -> None:
    assert parse(DOOR, said) == Verdict("B", status)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "said",
    [
        *("Yes, no", "No, yes", "no, wait, yes", "Yes? No?", "No, there is one, so yes."),
        *("The answer is yes or no", "The answer is yes/no."),
    ],
)
def test_an_answer_that_says_yes_and_no_says_neither(said: str) -> None:
    assert parse(question("yes_no"), said) == Verdict(None, "ambiguous")


def test_an_option_beside_or_is_one_of_two() -> None:
    colours = question("choice", ("red car", "blue car", "green car"))
    assert parse(colours, "a blue or green car").value is None
    assert parse(colours, "the green car") == Verdict("C", "extracted")
