"""Cards of single items: image, question, truth, what each model says and how it was read.

Neither best nor worst are picked.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from eval.generation.image_conditions import ImageInput
from eval.inputs import Role
from eval.question import LETTERS, Question, Verdict
from eval.report.pairs import KINDS, role_names
from eval.suite.judge_client import HALLUCINATION_BELOW
from eval.suite.requests import BenchmarkRun, ResponsesByCondition
from pipeline.pages.page import (
    card,
    cards,
    joined,
    pair_card,
    paragraph,
    subsection,
    text_lines,
    thumbnail,
)

MAX_QUESTION_CHARS, MAX_ANSWER_CHARS = 500, 300


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    verdict: Verdict
    score: float | None
    ended: bool


def galleries(run: BenchmarkRun, responses: ResponsesByCondition, max_cards: int) -> Markup:
    """Right, wrong and flipped items, each kind under its heading, in the order of a hash."""
    if not max_cards:
        return Markup()
    names = role_names([role for role, condition in responses if condition == "image"])
    said = {key: _said_of(run, responses, key) for key in responses}
    order = sorted(
        range(len(run.questions)),
        key=lambda row: hashlib.sha256(run.questions[row].item_id.encode()).hexdigest(),
    )
    kinds = [
        _kind([said[role, "image"][question.item_id] for role in names], question)
        for question in run.questions
    ]
    parts = []
    for kind, heading in KINDS.items():
        rows = [row for row in order if kinds[row] == kind]
        chosen = [
            _card(
                run.questions[row],
                run.image_inputs["image"][row],
                {r: said[r, "image"] for r in names},
                names,
            )
            for row in rows[:max_cards]
        ]
        parts.append(_part(heading, chosen, len(rows), len(run.questions)))
    exchanged = "counterpart" if "counterpart" in run.image_inputs else "none"
    if exchanged in run.image_inputs:
        parts += _flipped(
            run, said["after", "image"], said["after", exchanged], exchanged, order, max_cards
        )
    return joined(parts)


def _part(heading: str, chosen: Sequence[Markup], count: int, total: int) -> Markup:
    if not chosen:
        return Markup()
    counted = (
        f"{count:,} of {total:,} questions; shown: the first {len(chosen)} by a hash of their ids"
    )
    return subsection(heading, paragraph(counted), cards(chosen))


def _said_of(
    run: BenchmarkRun, responses: ResponsesByCondition, key: tuple[Role, str]
) -> dict[str, _Said]:
    answered = responses[key]
    return {
        question.item_id: _Said(
            "" if answer is None else answer.text,
            verdict,
            run.benchmark.score(question, verdict),
            answer is None or answer.ended,
        )
        for question, answer, verdict in zip(
            answered.questions, answered.answers, answered.verdicts, strict=True
        )
    }


def _kind(said: Sequence[_Said], question: Question) -> str:
    """What happened to an item from the first model to the last; "" where nobody judged."""
    right = [_is_right(answer, question) for answer in said]
    if None in right:
        return ""
    return {
        (False, True): "fixed",
        (True, False): "broken",
        (True, True): "right",
        (False, False): "wrong",
    }[bool(right[0]), bool(right[-1])]


def _is_right(said: _Said, question: Question) -> bool | None:
    if said.score is None:
        return None
    return said.score >= (HALLUCINATION_BELOW if question.kind == "free" else 0.5)


def _card(
    question: Question,
    image_input: ImageInput | None,
    said: Mapping[Role, Mapping[str, _Said]],
    names: Mapping[Role, str],
) -> Markup:
    beside = [_cut(question.prompt, MAX_QUESTION_CHARS), _truth(question)]
    below = [
        f"{names[role]}: {_words(answers[question.item_id])}" for role, answers in said.items()
    ]
    sides = thumbnail(_encoded(image_input)), text_lines(beside)
    return card(Markup("<p>{}</p>").format(question.item_id), sides, text_lines(below))


def _flipped(
    run: BenchmarkRun,
    seeing: Mapping[str, _Said],
    exchanged: Mapping[str, _Said],
    condition: str,
    order: Sequence[int],
    max_cards: int,
) -> Iterator[Markup]:
    """Items whose answer the evaluated model changes or keeps when the image is exchanged."""
    words = "the pair's other image" if condition == "counterpart" else "no image"
    values = {
        row: (seeing[question.item_id].verdict.value, exchanged[question.item_id].verdict.value)
        for row in order
        if (question := run.questions[row]).item_id in exchanged
    }
    readable = {
        row: own != other for row, (own, other) in values.items() if None not in (own, other)
    }
    for flips, heading in (
        (True, f"Flipped: another answer with {words}"),
        (False, f"Not flipped: the same answer with {words}"),
    ):
        rows = [row for row, flip in readable.items() if flip is flips]
        chosen = [
            pair_card(
                _encoded(run.image_inputs["image"][row]),
                _encoded(run.image_inputs[condition][row]),
                [_truth(question), f"says {_words(seeing[question.item_id])}"],
                [f"says {_words(exchanged[question.item_id])}"],
                [_cut(question.prompt, MAX_QUESTION_CHARS)],
                question.item_id,
            )
            for row in rows[:max_cards]
            for question in [run.questions[row]]
        ]
        yield _part(heading, chosen, len(rows), len(readable))


def _encoded(image_input: ImageInput | None) -> bytes | None:
    return image_input.encoded() if image_input else None


def _words(said: _Said) -> str:
    read = said.verdict.value if said.verdict.value is not None else "nothing"
    return (
        f"\u201c{_cut(said.text, MAX_ANSWER_CHARS)}\u201d (read as {_cut(read, 40)},"
        f" {said.verdict.status}{'' if said.ended else ', cut off'})"
    )


def _truth(question: Question) -> str:
    accepted = (
        (question.truth,)
        if isinstance(question.truth, str)
        else tuple(dict.fromkeys(question.truth))
    )
    place = LETTERS.find(accepted[0]) if question.kind == "choice" else -1
    option = f" ({question.choices[place]})" if 0 <= place < len(question.choices) else ""
    return _cut(f"truth: {' | '.join(accepted)}{option}", MAX_ANSWER_CHARS)


def _cut(words: str, limit: int) -> str:
    return words if len(words) <= limit else f"{words[:limit]} \u2026 ({len(words):,} characters)"
