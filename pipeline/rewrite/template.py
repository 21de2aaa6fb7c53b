"""The offline writer: a shared question and two answers, made from the captions themselves."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.text.captions import sentence
from pipeline.text.contrast import contrast, leaked_words, words

VERSION = 2

# With the changed stretches left out, what remains must still say something.
MIN_SHARED_WORDS = 2

_BY_CATEGORY = {
    "object": ("What can be seen in the image?", "Which things does the picture show?"),
    "attribute": (
        "What does the image show, and what is it like?",
        "How would you describe what the picture shows?",
    ),
    "count": (
        "What does the image show, and how many?",
        "How many of which things does the picture show?",
    ),
    "position": ("What does the image show, and where?", "Where is everything in the picture?"),
    "relation": (
        "What does the image show, and how is it arranged?",
        "How are things arranged in the picture?",
    ),
    "other": ("What does the image show?", "What is in the picture?"),
}
# The first has few words that captions differ in, so nearly every pair of a data set is asked in
# the same way.
_FRAMES = (
    'Complete this sentence about what you see: "{}"',
    'Complete this description of the image: "{}"',
    'Finish the sentence so that it fits the picture: "{}"',
    'Fill in what is left out: "{}"',
)
_LAST_RESORT = (
    "What does the image show?",
    "Describe the picture.",
    "What do you see?",
    "Describe.",
)


@dataclass(frozen=True, slots=True)
class Written:
    """A conversation for a pair: one question, one answer per image."""

    question: str
    answer_a: str
    answer_b: str


def write(
    caption_a: str, caption_b: str, category: str, question: str | None = None
) -> Written | None:
    """One shared question that gives no contrast word away, and the captions as answers.

    The source's own `question` is kept if it leaks nothing; otherwise the shared part of the
    captions with the contrast left out, otherwise a general question. None where every wording
    would leak (captions that differ in the very words of the questions).

        "A hand holding up two fingers." / "... three fingers."
            ->  'Complete this sentence about what you see: "A hand holding up ... fingers."'
    """
    for wording in _wordings(caption_a, caption_b, category, question):
        if not leaked_words(wording, caption_a, caption_b):
            return Written(wording, sentence(caption_a), sentence(caption_b))
    return None


def _wordings(caption_a: str, caption_b: str, category: str, question: str | None) -> Iterator[str]:
    if question and question.strip():
        yield " ".join(question.split())
    blanked = _blanked(contrast(caption_a, caption_b).shared)
    if len(words(blanked)) >= MIN_SHARED_WORDS:
        for frame in _FRAMES:
            yield frame.format(blanked if blanked.endswith("...") else f"{blanked}.")
    yield from _BY_CATEGORY.get(category, ())
    yield from _LAST_RESORT


def _blanked(shared: tuple[str, ...]) -> str:
    """The shared stretches with "..." for what changed.

    A lone word between two changes is chance, and left out too.
    """
    parts: list[str] = []
    for position, stretch in enumerate(shared):
        inside = 0 < position < len(shared) - 1
        part = "..." if inside and len(words(stretch)) < MIN_SHARED_WORDS else stretch or "..."
        if part != "..." or parts[-1:] != ["..."]:
            parts.append(part)
    return " ".join(parts)
