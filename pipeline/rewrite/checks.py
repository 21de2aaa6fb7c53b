"""What a question and two answers must fulfil before they become data: a `Failure` or none.

Word checks are exact where captions and answers keep their wording, which the prompts ask for; they
are conservative elsewhere: a synonym counts as one word lost and one added. They see words, not
meaning: a text that passes can be wrong.
"""

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache

from pydantic import Field

from pipeline.core.recipe import Section
from pipeline.llm.structured_chat import Failure
from pipeline.text.captions import num_changed_words
from pipeline.text.contrast import FUNCTION_WORDS, contrast, leaked_words, words
from pipeline.text.language import other_language, small_words
from pipeline.text.stemming import FREE, GRAMMAR, NUMBERS_AND_NEGATIONS, ONE, stem, stems

VERSION = 1

MIN_QUESTION_WORDS = 3
_REFUSAL = re.compile(
    r"(i'?m |i am |we are |we're )?(very |so )?(sorry|afraid)\b|as an ai\b|unfortunately\b|"
    r"(i|we) (can'?t|cannot|can not|am unable|are unable|am not able|won'?t|will not|must"
    r" decline)\b|(i )?apologi[sz]e",
    re.IGNORECASE,
)
_CONTROL = re.compile("[\\x00-\\x1f]")
# A question or answer is about one picture: the other one is not known to who reads it.
_PAIR = re.compile(
    r"\b(captions?|(image|picture|photo|caption|answer|side) [ab]\b|(both|two|these)"
    r" (images|pictures|photos)|"
    r"(first|second|other|another) (image|picture|photo)|(difference|differ|changed?) between)",
    re.IGNORECASE,
)


class ChecksSection(Section):
    """How far a rewrite may go from its captions, in words.

    `max_extra_changed_words`: how many more words the answers may differ in than the captions do.
    `max_new_words` and `max_lost_words`: content words of an answer that neither caption nor
    question has, and the other way round; numbers and negations may never be added, contrast words
    never be lost.
    """

    max_extra_changed_words: int = Field(default=2, ge=0)
    max_new_words: int = Field(default=2, ge=0)
    max_lost_words: int = Field(default=0, ge=0)
    max_question_words: int = Field(default=40, gt=0)
    max_answer_words: int = Field(default=80, gt=0)


@dataclass(frozen=True, slots=True)
class Kept:
    """What each answer must keep of the contrast, side a first.

    `own`: stems that only this side's caption has. `telling`: those of them that the other answer
    must not have. `swapped`: stems that both captions have, in another order. `is_exact`: these are
    words, not stems, because the captions differ in endings alone.
    """

    own: tuple[frozenset[str], frozenset[str]]
    telling: tuple[frozenset[str], frozenset[str]]
    swapped: frozenset[str]
    is_exact: bool


@lru_cache(maxsize=4096)
def kept_words(caption_a: str, caption_b: str) -> Kept:
    """The contrast as stems; endings count only where nothing else differs.

    "one finger" / "two fingers"  ->  own {one} / {two}
    "a dog" / "dogs"              ->  own {dog} / {dogs}
    """
    side_a, side_b = frozenset(stems(caption_a)), frozenset(stems(caption_b))
    changed = contrast(caption_a, caption_b)
    swapped = frozenset(map(stem, (changed.words_a & changed.words_b) - FUNCTION_WORDS))
    is_exact = not swapped and not (side_a ^ side_b) - GRAMMAR
    if is_exact:
        side_a, side_b = frozenset(words(caption_a)), frozenset(words(caption_b))
    own_a, own_b = side_a - side_b, side_b - side_a
    return Kept(
        (_strongest(own_a), _strongest(own_b)),
        (_telling(own_a), _telling(own_b)),
        swapped,
        is_exact,
    )


def _strongest(marks: frozenset[str]) -> frozenset[str]:
    """Without articles and forms of "to be", unless there is nothing else."""
    return (marks - GRAMMAR) or marks


def _telling(marks: frozenset[str]) -> frozenset[str]:
    """What gives a side away wherever it stands: also without "in" and "on" if anything is left."""
    return (marks - FREE) or (marks - GRAMMAR)


def words_to_avoid(caption_a: str, caption_b: str) -> list[str]:
    """The words that no question may hold, sorted."""
    return sorted(leaked_words(f"{caption_a} {caption_b}", caption_a, caption_b))


def question_failure(
    question: str, caption_a: str, caption_b: str, section: ChecksSection
) -> Failure | None:
    """The first thing that is wrong with a shared question, or None."""
    failure = _text_failure(
        "question", question, section.max_question_words, f"{caption_a} {caption_b}"
    )
    if failure is not None:
        return failure
    if len(words(question)) < MIN_QUESTION_WORDS:
        return Failure(
            "question_too_short", f"The question has fewer than {MIN_QUESTION_WORDS} words."
        )
    telling = frozenset(stems(question)).intersection(
        frozenset.union(*kept_words(caption_a, caption_b).telling)
    )
    if leaked := leaked_words(question, caption_a, caption_b) | telling:
        return Failure(
            "question_leaks_contrast",
            f"The question gives the detail away with: {listed(leaked, question)}.",
        )
    return None


def answers_failure(
    question: str, answers: tuple[str, str], captions: tuple[str, str], section: ChecksSection
) -> Failure | None:
    """The first thing that is wrong with the two answers to a question, or None."""
    kept = kept_words(*captions)
    for number, side in enumerate("ab"):
        name, answer, caption = f"answer_{side}", answers[number], captions[number]
        failure = (
            _text_failure(name, answer, section.max_answer_words, caption)
            or _contrast_failure(name, answer, caption, kept, number)
            or _facts_failure(name, answer, caption, question, section)
        )
        if failure is not None:
            return failure
    changed = max(num_changed_words(*map(words, answers)))
    allowed = max(num_changed_words(*map(words, captions))) + section.max_extra_changed_words
    if changed > allowed:
        return Failure(
            "answers_differ_beyond_contrast",
            f"The answers differ in {changed} words; at most {allowed} may differ.",
        )
    return None


def _text_failure(name: str, text: str, max_words: int, captions: str) -> Failure | None:
    if not text.strip():
        return Failure(f"{name}_empty", f"{name} is empty.")
    if _CONTROL.search(text):
        return Failure(f"{name}_control_character", f"{name} has a character that is no text.")
    if _REFUSAL.match(text.replace("\u2019", "'").strip()):
        return Failure(
            f"{name}_refuses", f"{name} refuses or apologises; write it as the instructions say."
        )
    if len(words(text)) > max_words:
        return Failure(
            f"{name}_too_long",
            f"{name} has {len(words(text))} words; at most {max_words} are allowed.",
        )
    if (said := _PAIR.search(text)) and not _PAIR.search(captions):
        return Failure(
            f"{name}_mentions_pair",
            f'{name} must speak of one picture alone, without "{said.group()}".',
        )
    if other_language(text, captions):
        return Failure(f"{name}_other_language", f"{name} is not in the language of the captions.")
    return None


def _contrast_failure(
    name: str, answer: str, caption: str, kept: Kept, side: int
) -> Failure | None:
    said, swapped = frozenset(words(answer) if kept.is_exact else stems(answer)), kept.swapped
    if lost := kept.own[side] - said - (ONE if said & ONE else set()):
        return Failure(
            f"{name}_lost_contrast",
            f"{name} must hold these words of its caption: {listed(lost, caption)}.",
        )
    if foreign := kept.telling[1 - side] & said:
        return Failure(
            f"{name}_has_other_contrast",
            f"{name} holds words that belong to the other side: {listed(foreign, answer)}.",
        )
    if swapped and _order(answer, swapped) != _order(caption, swapped):
        return Failure(
            f"{name}_changes_order",
            f"{name} must name these in the order of its caption: {listed(swapped, caption)}.",
        )
    return None


def _order(text: str, chosen: frozenset[str]) -> list[str]:
    """The chosen stems in the order in which the text first has them."""
    return list(dict.fromkeys(part for part in stems(text) if part in chosen))


def _facts_failure(
    name: str, answer: str, caption: str, question: str, section: ChecksSection
) -> Failure | None:
    stated, said, asked = (frozenset(stems(text)) for text in (caption, answer, question))
    free = FREE | {stem(word) for word in small_words(caption)}
    lost = stated - said - free
    if len(lost) > section.max_lost_words:
        return Failure(
            f"{name}_lost_words",
            f"{name} leaves out what its caption says: {listed(lost, caption)}.",
        )
    new = said - stated - free
    if claims := new & NUMBERS_AND_NEGATIONS:
        return Failure(
            f"{name}_new_number_or_negation",
            f"{name} says what its caption does not: {listed(claims, answer)}.",
        )
    if len(new - asked) > section.max_new_words:
        return Failure(
            f"{name}_new_words",
            f"{name} adds what its caption does not say: {listed(new - asked, answer)}.",
        )
    return None


def listed(chosen: Set[str], text: str) -> str:
    """The words of a text that are chosen, or have a chosen stem, as a list for a model to read."""
    hits = (word for word in words(text) if word in chosen or not chosen.isdisjoint(stems(word)))
    return ", ".join(dict.fromkeys(hits))
