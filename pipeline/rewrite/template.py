"""The offline writer: a shared question and two answers made from the captions themselves, with no model."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.rewrite.contrast import contrast, leaked_words, words

VERSION = 1

# With the changed stretches left out, what remains must still say something.
MIN_SHARED_WORDS = 2

_BY_CATEGORY = {
    "object": ("What can be seen in the image?", "Which things does the picture show?"),
    "attribute": ("What does the image show, and what is it like?", "How would you describe what the picture shows?"),
    "count": ("What does the image show, and how many?", "How many of which things does the picture show?"),
    "position": ("What does the image show, and where?", "Where is everything in the picture?"),
    "relation": ("What does the image show, and how is it arranged?", "How are things arranged in the picture?"),
    "other": ("What does the image show?", "What is in the picture?"),
}
_FRAMES = (
    'Complete this description of the image: "{}"',
    'Finish the sentence so that it fits the picture: "{}"',
    'Fill in what is left out: "{}"',
)
_LAST_RESORT = ("What does the image show?", "Describe the picture.", "What do you see?", "Describe.")


@dataclass(frozen=True, slots=True)
class Written:
    """A conversation for a pair: one question, one answer per image."""

    question: str
    answer_a: str
    answer_b: str


def write(caption_a: str, caption_b: str, category: str, question: str | None = None) -> Written | None:
    """One shared question that gives no contrast word away, and the captions as answers.

    The source's own `question` is kept if it leaks nothing; otherwise the shared part of the captions with the contrast
    left out, otherwise a general question. None where every wording would leak (captions that differ in the very words
    of the questions).

        "A hand holding up two fingers." / "... three fingers."
            ->  'Complete this description of the image: "A hand holding up ... fingers."'
    """
    for wording in _wordings(caption_a, caption_b, category, question):
        if not leaked_words(wording, caption_a, caption_b):
            return Written(wording, sentence(caption_a), sentence(caption_b))
    return None


def _wordings(caption_a: str, caption_b: str, category: str, question: str | None) -> Iterator[str]:
    if question and question.strip():
        yield " ".join(question.split())
    shared = contrast(caption_a, caption_b).shared
    if len(words(" ".join(shared))) >= MIN_SHARED_WORDS:
        blanked = " ".join(stretch if stretch else "..." for stretch in shared)
        end = "" if blanked.endswith("...") else "."
        for frame in _FRAMES:
            yield frame.format(" ".join(blanked.split()) + end)
    yield from _BY_CATEGORY.get(category, ())
    yield from _LAST_RESORT


def sentence(caption: str) -> str:
    """A caption as a sentence: one line, a capital first letter, a full stop; no other change.

    "two dogs on a sofa "  ->  "Two dogs on a sofa."
    """
    line = " ".join(caption.split())
    line = line[:1].upper() + line[1:]
    return line if line.endswith((".", "!", "?", "\u3002", "\u2026", '."', '!"', '?"')) else f"{line}."
