"""Cards of single items: image, question, what is right, what each model says and how it was read.
Neither best nor worst are picked.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.generation.image_conditions import ImageInput
from eval.inputs import Role
from eval.question import Question, Verdict
from eval.report.pairs import role_names
from eval.suite.judge_client import HALLUCINATION_BELOW
from eval.suite.requests import BenchmarkRun, ResponsesByCondition
from pipeline.pages.page import cards, pair_card, paragraph, text, thumbnail

MAX_QUESTION_CHARS, MAX_ANSWER_CHARS = 500, 300
KINDS = {
    "fixed": "Fixed: wrong before, right after",
    "wrong": "Wrong",
    "broken": "Broken: right before, wrong after",
    "right": "Right",
}


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    verdict: Verdict
    score: float | None
    ended: bool


def galleries(run: BenchmarkRun, responses: ResponsesByCondition, max_cards: int) -> str:
    """HTML of right, wrong and flipped items, each kind under its heading and in the order of a
    hash of the ids.
    """
    if not max_cards:
        return ""
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
    html = ""
    for kind, heading in KINDS.items():
        rows = [row for row in order if kinds[row] == kind]
        found = [
            _card(
                run.questions[row],
                run.image_inputs["image"][row],
                {r: said[r, "image"] for r in names},
                names,
            )
            for row in rows[:max_cards]
        ]
        html += _part(heading, found, len(rows), len(run.questions))
    exchanged = "counterpart" if "counterpart" in run.image_inputs else "none"
    if exchanged in run.image_inputs:
        html += _flipped(
            run, said["after", "image"], said["after", exchanged], exchanged, order, max_cards
        )
    return html


def _part(heading: str, found: Sequence[str], count: int, total: int) -> str:
    if not found:
        return ""
    counted = (
        f"{count:,} of {total:,} questions; shown: the first {len(found)} by a hash of their ids"
    )
    return f"<h3>{text(heading)}</h3>{paragraph(counted)}{cards(found)}"


def _said_of(
    run: BenchmarkRun, responses: ResponsesByCondition, key: tuple[Role, str]
) -> dict[str, _Said]:
    one = responses[key]
    return {
        question.item_id: _Said(
            "" if answer is None else answer.text,
            verdict,
            run.benchmark.score(question, verdict),
            answer is None or answer.ended,
        )
        for question, answer, verdict in zip(one.questions, one.answers, one.verdicts, strict=True)
    }


def _kind(said: Sequence[_Said], question: Question) -> str:
    """What happened to an item, from the first model (the base, if there are two) to the last; ""
    where nobody judged.
    """
    right = [_is_right(one, question) for one in said]
    if None in right:
        return ""
    before, after = right[0], right[-1]
    return {
        (False, True): "fixed",
        (True, False): "broken",
        (True, True): "right",
        (False, False): "wrong",
    }[bool(before), bool(after)]


def _is_right(said: _Said, question: Question) -> bool | None:
    if said.score is None:
        return None
    return said.score >= (HALLUCINATION_BELOW if question.kind == "free" else 0.5)


def _card(
    question: Question,
    image_input: ImageInput | None,
    said: Mapping[Role, Mapping[str, _Said]],
    names: Mapping[Role, str],
) -> str:
    beside = [_cut(question.prompt, MAX_QUESTION_CHARS), _truth(question)]
    below = [
        f"{names[role]}: {_words(answers[question.item_id])}" for role, answers in said.items()
    ]
    image = thumbnail(image_input.encoded() if image_input else None)
    one, two = (
        "".join(f'<p dir="auto">{text(line)}</p>' for line in lines) for lines in (beside, below)
    )
    return (
        f'<div class="card"><p>{text(question.item_id)}</p><div'
        f' class="sides"><div>{image}</div><div>{one}</div></div>{two}</div>'
    )


def _flipped(
    run: BenchmarkRun,
    seeing: Mapping[str, _Said],
    exchanged: Mapping[str, _Said],
    condition: str,
    order: Sequence[int],
    max_cards: int,
) -> str:
    """Items whose answer the evaluated model changes, and those whose answer it keeps, when the
    image is exchanged.
    """
    changed: dict[bool, list[int]] = {True: [], False: []}
    for row in order:
        item_id = run.questions[row].item_id
        if (
            item_id in exchanged
            and seeing[item_id].verdict.value is not None
            and exchanged[item_id].verdict.value is not None
        ):
            changed[seeing[item_id].verdict.value != exchanged[item_id].verdict.value].append(row)
    words = "the pair's other image" if condition == "counterpart" else "no image"
    html = ""
    for flips, heading in (
        (True, f"Flipped: another answer with {words}"),
        (False, f"Not flipped: the same answer with {words}"),
    ):
        found = []
        for row in changed[flips][:max_cards]:
            question, own, other = (
                run.questions[row],
                run.image_inputs["image"][row],
                run.image_inputs[condition][row],
            )
            images = [one.encoded() if one else None for one in (own, other)]
            said = (seeing[question.item_id], exchanged[question.item_id])
            lines = ([_truth(question), f"says {_words(said[0])}"], [f"says {_words(said[1])}"])
            found.append(
                pair_card(
                    images[0],
                    images[1],
                    *lines,
                    [_cut(question.prompt, MAX_QUESTION_CHARS)],
                    question.item_id,
                )
            )
        readable = len(changed[True]) + len(changed[False])
        html += _part(heading, found, len(changed[flips]), readable)
    return html


def _words(said: _Said) -> str:
    read = said.verdict.value if said.verdict.value is not None else "nothing"
    more = "" if said.ended else ", cut off"
    return (
        f"\u201c{_cut(said.text, MAX_ANSWER_CHARS)}\u201d (read as {_cut(read, 40)},"
        f" {said.verdict.status}{more})"
    )


def _truth(question: Question) -> str:
    accepted = (
        (question.truth,)
        if isinstance(question.truth, str)
        else tuple(dict.fromkeys(question.truth))
    )
    option = ""
    place = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".find(accepted[0]) if question.kind == "choice" else -1
    if 0 <= place < len(question.choices):
        option = f" ({question.choices[place]})"
    return _cut(f"truth: {' | '.join(accepted)}{option}", MAX_ANSWER_CHARS)


def _cut(words: str, limit: int) -> str:
    return words if len(words) <= limit else f"{words[:limit]} \u2026 ({len(words):,} characters)"
