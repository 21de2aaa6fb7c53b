"""Answers in real words against one small picture whose truth is known."""

import json

import pytest

from eval.claims.check import SeenObject, Truth, check_answer, holds, lexicon_of, truths_in
from eval.claims.claims import Claim, Thing, read_claims
from eval.claims.lexicon import Lexicon
from pipeline.sources.scenes.source import ScenesSection, ScenesSource

# 64 x 64: a red star top left, another red star bottom left, a blue circle top right, a grey
# traffic light bottom right.
OBJECTS: list[dict[str, object]] = [
    {"object": "star", "colour": "red", "box": [4, 4, 20, 20]},
    {"object": "star", "colour": "red", "box": [6, 40, 22, 56]},
    {"object": "circle", "colour": "blue", "box": [44, 8, 60, 24]},
    {"object": "traffic light", "colour": "grey", "box": [40, 44, 52, 60]},
]
ELSEWHERE: list[dict[str, object]] = [{"object": "cross", "colour": "green", "box": [0, 0, 9, 9]}]


def seen(objects: list[dict[str, object]]) -> list[SeenObject]:
    return [SeenObject.model_validate(stated) for stated in objects]


TRUTH = Truth(seen(OBJECTS), 64, 64)
LEXICON = lexicon_of([seen(OBJECTS), seen(ELSEWHERE)])
DESCRIBE = "Describe the image."


@pytest.mark.parametrize(
    ("answer", "num_claims", "num_false"),
    [
        ("There is a star.", 1, 0),
        ("There is a cross.", 1, 1),
        ("A red star and a blue circle.", 2, 0),
        ("A blue star and a red circle.", 2, 2),
        ("Two red stars.", 1, 0),
        ("There are three stars.", 1, 1),
        ("I can see 2 small red stars, one circle and six crosses", 3, 1),
        ("There are at least two stars", 1, 0),  # an inexact number is read as existence only
        ("There are no crosses.", 1, 0),
        ("There is no star.", 1, 1),
        ("There isn't a cross or a green circle here", 2, 0),
        ("A picture without a cross, but with a star", 2, 0),
        ("The circle is blue.", 1, 0),
        ("The circle is not blue.", 1, 1),
        ("The circle isn\u2019t red, it is blue", 2, 0),
        ("The stars are red and the circle is green.", 2, 1),
        ("a blue-coloured circle", 1, 0),
        ("The traffic light is gray.", 1, 0),
        ("A star-shaped red object is on the left.", 1, 0),
        ("The star is to the left of the circle.", 1, 0),
        ("The star is to the right of the circle.", 1, 1),
        ("The circle is left of the star", 1, 1),
        ("The circle is above the traffic light.", 1, 0),
        ("The circle is below the traffic light.", 1, 1),
        ("the blue circle sits right above the grey traffic light", 1, 0),
        ("Beneath the circle there is a traffic light.", 1, 0),
        ("The circle is higher than the traffic light", 1, 0),
        ("The circle is on the right side of the image.", 1, 0),
        ("The circle is on the left.", 1, 1),
        ("The circle is not on the left.", 1, 0),
        ("On the left there is a star and on the right a circle.", 2, 0),
        ("On the right there is a star", 0 + 1, 1),
        ("The circle is in the upper right corner.", 2, 0),
        ("The left star is red.", 1, 0),
        ("In the lower half of the picture there are two stars", 1, 0),
        ("Two of the stars are red", 1, 0),
        ("A pretty picture.", 0, 0),
        ("", 0, 0),
        ("Shapes on a black background.", 0, 0),
        ("No star is blue.", 1, 0),
        ("There is a star. It is red.", 1, 0),
        ("There is a circle. It is to the right of a star and it is green.", 2, 1),
        ("Not only a star but also a circle", 2, 0),
        ("None of the stars are blue.", 1, 0),
        ("None of the stars are red.", 1, 1),
        ("There are two stars, one at the top and one at the bottom.", 2, 0),
        ("There are two stars. One is red.", 1, 0),
        ("There are ten stars.", 1, 1),
        ("There are twelve stars.", 1, 1),
        ("There might be a cross.", 0, 0),
        ("There may be a cross and a green circle.", 0, 0),
        ("It is not clear whether there is a cross.", 0, 0),
        ("I'm not sure that there is a cross", 0, 0),
        ("Perhaps it is a cross. It is green.", 0, 0),  # "it" is what may not be there
        ("There might be a cross. There is no star.", 1, 1),  # only the sentence with the hedge
        ("Not all stars are red.", 0, 0),
    ],
)
def test_claims_of_a_description_are_counted_and_checked(
    answer: str, num_claims: int, num_false: int
) -> None:
    check = check_answer(answer, DESCRIBE, TRUTH, LEXICON)
    assert check == (num_claims, num_false), read_claims(answer, DESCRIBE, LEXICON)


@pytest.mark.parametrize(
    ("question", "answer", "num_claims", "num_false"),
    [
        ("What colour is the circle?", "Blue.", 1, 0),
        ("What colour is the circle?", "red", 1, 1),
        ("What colour is the circle?", "It is blue.", 1, 0),
        ("What color is the circle?", "The circle is red.", 1, 1),
        ("How many stars are there?", "Two.", 1, 0),
        ("How many stars are there?", "There are 3", 1, 1),
        ("How many crosses are there?", "None.", 1, 0),
        ("How many red stars do you see?", "two of them", 1, 0),
        ("How many crosses are there?", "None of them.", 1, 0),
        ("How many stars are there?", "Two, one on the left.", 2, 0),
        ("What colour are the stars?", "None of them are blue.", 1, 0),
        ("What colour are the stars?", "One of them is red.", 1, 0),
        # a hedge in the question hedges no answer
        ("Can you tell if the circle is blue?", "The circle is red.", 1, 1),
        ("Where is the circle?", "On the right.", 1, 0),
        ("Where is the circle?", "at the bottom of the image", 1, 1),
        ("Where is the star relative to the circle?", "To the left of it.", 1, 0),
        # of the star, though it is right of the middle
        ("Where is the circle, seen from the star?", "to the left", 1, 1),
        ("Where is the circle, seen from the traffic light?", "Above.", 1, 0),
        (
            "On which side of the circle is the traffic light?",
            "The circle has the traffic light below it.",
            1,
            0,
        ),
        # which is which: not guessed
        ("How are the star and the circle arranged?", "It is to the left of it.", 0, 0),
        (
            "What is the blue thing in the picture?",
            "The blue thing in the picture is a circle.",
            1,
            0,
        ),
        (
            "What is the blue thing in the picture?",
            "The blue thing in the picture is a star.",
            1,
            1,
        ),
        ("What was drawn in blue?", "A star was drawn in blue.", 1, 1),
        ("Where is the star relative to the circle?", "To the left of the circle.", 1, 0),
        ("What is to the right of the star?", "A circle.", 1, 0),
        ("What is above the traffic light?", "A star", 1, 0),
        ("What is to the left of the star?", "A circle.", 1, 1),  # a circle exists, but not there
        ("Which shape is blue?", "The circle.", 1, 0),
        ("Which shape is blue?", "The star.", 1, 1),
        ("Which object is on the right?", "a star", 1, 1),
        ("Is there a cross?", "No, there is no cross.", 1, 0),
        ("Is there a cross?", "no", 0, 0),
    ],
)
def test_short_answers_are_read_with_their_question(
    question: str, answer: str, num_claims: int, num_false: int
) -> None:
    check = check_answer(answer, question, TRUTH, LEXICON)
    assert check == (num_claims, num_false), read_claims(answer, question, LEXICON)


def test_a_negated_claim_holds_exactly_when_the_claim_does_not() -> None:
    for kind, value, other in [
        ("exists", "", None),
        ("count", "2", None),
        ("colour", "red", None),
        ("relation", "above", Thing("circle")),
    ]:
        for noun in ("star", "circle", "cross"):
            claim = Claim(kind, Thing(noun), value, other)  # type: ignore[arg-type]
            denied = Claim(kind, Thing(noun), value, other, negated=True)  # type: ignore[arg-type]
            assert holds(claim, TRUTH) != holds(denied, TRUTH)


def test_an_object_in_the_middle_is_on_no_side_but_in_the_centre() -> None:
    # centre at (28, 30)
    centered = Truth(seen([{"object": "star", "colour": "red", "box": [20, 22, 36, 38]}]), 64, 64)
    said = [
        check_answer(f"The star is in the {place}.", DESCRIBE, centered, LEXICON)[1]
        for place in ("centre", "upper left")
    ]
    assert said == [0, 2]
    middle = Truth(seen([{"object": "star", "colour": "red", "box": [24, 0, 40, 8]}]), 64, 64)
    assert not holds(Claim("position", Thing("star"), "left"), middle)
    assert not holds(Claim("position", Thing("star"), "right"), middle)
    assert holds(Claim("position", Thing("star"), "top"), middle)


def test_an_object_has_no_relation_to_itself() -> None:
    alone = Truth(TRUTH.objects[:1], 64, 64)
    assert not holds(Claim("relation", Thing("star"), "left", Thing("star")), alone)
    # one star is above the other
    assert holds(Claim("relation", Thing("star"), "above", Thing("star")), TRUTH)


def test_plurals_and_spellings_are_in_the_lexicon() -> None:
    lexicon = Lexicon.of(["cross", "berry", "star"], ["Grey"])
    assert lexicon.nouns["crosses"] == "cross"
    assert lexicon.nouns["berries"] == "berry"
    assert lexicon.nouns["stars"] == "star"
    assert lexicon.colors["gray"] == lexicon.colors["grey"] == "grey"


def test_a_row_without_exact_truth_has_none() -> None:
    both = {"truth": {"a": {"objects": OBJECTS}, "b": {"objects": ELSEWHERE}}}
    assert truths_in(json.dumps(both)) == (seen(OBJECTS), seen(ELSEWHERE))
    assert truths_in("{}") is None
    assert truths_in("") is None
    assert truths_in(json.dumps({"truth": {"a": {"objects": OBJECTS}}})) is None
    assert (
        truths_in(
            json.dumps({"truth": {"a": {"objects": [{"object": "star"}]}, "b": {"objects": []}}})
        )
        is None
    )


@pytest.mark.parametrize(
    "objects",
    [
        [{"object": "star", "colour": "red", "box": None}],
        [{"object": "star", "colour": "red", "box": [1, 2, 3]}],
        [{"object": "star", "colour": "red", "box": [1, 2, 3, "4"]}],
        [{"object": "star", "colour": "red", "box": [1, 2, 3, float("nan")]}],
        [{"object": None, "colour": "red", "box": [1, 2, 3, 4]}],
        [{"object": "star", "colour": 7, "box": [1, 2, 3, 4]}],
        [*OBJECTS, {"object": "", "colour": "red", "box": [1, 2, 3, 4]}],
        ["star"],
        None,
    ],
)
def test_a_truth_that_cannot_be_used_is_none(objects: object) -> None:
    assert (
        truths_in(json.dumps({"truth": {"a": {"objects": OBJECTS}, "b": {"objects": objects}}}))
        is None
    )


@pytest.mark.parametrize("meta", ["a note", "[1", "[]", "null", '{"truth": "yes"}', None])
def test_a_meta_of_another_kind_has_no_truth(meta: str | None) -> None:
    assert truths_in(meta) is None


def test_repeating_a_claim_does_not_count_it_twice() -> None:
    check = check_answer("A cross. A cross. A cross.", DESCRIBE, TRUTH, LEXICON)
    assert check == (1, 1)


@pytest.mark.slow
def test_every_caption_of_a_scene_is_read_as_true_of_its_own_image_and_false_of_the_other() -> None:
    section = ScenesSection(kind="scenes", num_pairs=300, seed=7)
    pairs = list(ScenesSource(section).read(0, 300))
    truths = [truths_in(pair.meta) for pair in pairs]
    lexicon = lexicon_of(side for row in truths if row for side in row)
    for pair, row in zip(pairs, truths, strict=True):
        assert row is not None
        for own, other, caption in (
            (row[0], row[1], pair.caption_a),
            (row[1], row[0], pair.caption_b),
        ):
            num_claims, num_false = check_answer(
                caption, pair.question or "", Truth(own, 64, 64), lexicon
            )
            _, num_false_of_other = check_answer(
                caption, pair.question or "", Truth(other, 64, 64), lexicon
            )
            claims = read_claims(caption, pair.question or "", lexicon)
            assert num_claims >= 1, (pair.question, caption)
            assert num_false == 0, (pair.question, caption, claims, own)
            assert num_false_of_other >= 1, (pair.question, caption, claims, other)


@pytest.mark.parametrize("words", ["1 ", "red ", "the ", "left ", "not "])
def test_an_answer_of_any_length_is_read(words: str) -> None:
    lexicon = Lexicon.of({"star"}, {"red"})
    assert len(read_claims(words * 20_000, "Is there a star?", lexicon)) <= 1
