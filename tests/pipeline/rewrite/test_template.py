import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rewrite.template import write
from pipeline.text.captions import sentence
from pipeline.text.contrast import contrast, leaked_words, words


def test_the_contrast_is_what_changes_and_shared_is_what_stays() -> None:
    found = contrast("A red star.", "A blue star.")
    assert (found.words_a, found.words_b, found.shared) == ({"red"}, {"blue"}, ("A", "", "star"))


@pytest.mark.parametrize(
    ("caption_a", "caption_b", "category", "question"),
    [
        (
            "A hand holding up two fingers.",
            "A hand holding up three fingers.",
            "count",
            'Complete this sentence about what you see: "A hand holding up ... fingers."',
        ),
        (
            "A hand with all fingers curled into a ring.",
            "A hand holding up one finger.",
            "attribute",
            'Complete this sentence about what you see: "A hand ..."',
        ),
        (
            "a cat left of a dog",
            "a dog left of a cat",
            "relation",
            'Complete this sentence about what you see: "a ... left of a ..."',
        ),
        ("two dogs", "three cats", "count", "What does the image show, and how many?"),
        # The frame itself may not name the contrast.
        (
            "A complete view of it all",
            "A broken view of it all",
            "other",
            'Finish the sentence so that it fits the picture: "A ... view of it all."',
        ),
        # A word that both have by chance, between two changes, says nothing.
        (
            "A hand with all fingers curled",
            "A hand holding up fingers apart",
            "other",
            'Complete this sentence about what you see: "A hand ..."',
        ),
    ],
)
def test_the_question_invites_the_detail_and_does_not_give_it_away(
    caption_a: str, caption_b: str, category: str, question: str
) -> None:
    written = write(caption_a, caption_b, category)
    assert written is not None
    assert written.question == question


def test_a_question_of_the_source_is_kept_unless_it_leaks() -> None:
    kept = write("A red star.", "A blue star.", "attribute", "What colour is the star?")
    replaced = write("A red star.", "A blue star.", "attribute", "Is the star red?")
    assert kept is not None and kept.question == "What colour is the star?"
    assert replaced is not None and "red" not in words(replaced.question)


@pytest.mark.parametrize(
    ("caption_a", "caption_b", "question"),
    [
        (
            "It is -5 today.",
            "It is 5 today.",
            'Complete this sentence about what you see: "It is ... today."',
        ),
        (
            "A face \U0001f600 on a wall",
            "A face \U0001f622 on a wall",
            'Complete this sentence about what you see: "A face ... on a wall."',
        ),
        (
            "A C++ program.",
            "A C# program.",
            'Complete this sentence about what you see: "A ... program."',
        ),
        (
            "\u092f\u0939 \u090f\u0915 \u0932\u0921\u093c\u0915\u093e",
            "\u092f\u0939 \u090f\u0915 \u0932\u0921\u093c\u0915\u0940",
            'Complete this sentence about what you see: "\u092f\u0939 \u090f\u0915 ..."',
        ),
    ],
    ids=["sign", "emoji", "symbols", "Hindi boy and girl"],
)
def test_a_contrast_that_is_no_plain_word_is_left_out_too(
    caption_a: str, caption_b: str, question: str
) -> None:
    written = write(caption_a, caption_b, "other")
    assert written is not None
    assert written.question == question


@pytest.mark.parametrize(
    "question", ["Where is the cat's bowl?", "Which cat-like animal is it?", "Is it a CAT?"]
)
def test_a_contrast_word_inside_a_compound_leaks(question: str) -> None:
    assert leaked_words(question, "A cat on a mat.", "A dog on a mat.") == {"cat"}


def test_every_wording_leaks_where_the_contrast_is_in_the_questions_themselves() -> None:
    everything = (
        "what does the image show describe picture do you see is in can be seen which things finish"
        " sentence fits complete fill left out"
    )
    assert write(everything, "nothing of the kind", "other") is None


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("two dogs on a sofa ", "Two dogs on a sofa."),
        ("Is it \n a bird?", "Is it a bird?"),
        ("iPhone on a desk.", "iPhone on a desk."),
        ("It says \u201cstop.\u201d", "It says \u201cstop.\u201d"),
        ("(a dog)", "(a dog)."),
        ("\u72ac\u304c\u3044\u307e\u3059\u3002", "\u72ac\u304c\u3044\u307e\u3059\u3002"),
    ],
)
def test_a_caption_becomes_a_sentence(caption: str, expected: str) -> None:
    assert sentence(caption) == expected


_TEXT = st.lists(
    st.sampled_from(
        "a the red blue star circle two three left right image of what does show".split()
    ),
    min_size=1,
    max_size=8,
).map(" ".join)


@given(_TEXT, _TEXT, st.sampled_from(["object", "count", "other"]))
def test_no_written_question_holds_a_word_that_only_one_caption_has(
    caption_a: str, caption_b: str, category: str
) -> None:
    written = write(caption_a, caption_b, category)
    if written is not None:
        assert not set(words(written.question)) & (set(words(caption_a)) ^ set(words(caption_b)))
        assert not leaked_words(written.question, caption_a, caption_b)
        assert (written.answer_a, written.answer_b) == (sentence(caption_a), sentence(caption_b))
