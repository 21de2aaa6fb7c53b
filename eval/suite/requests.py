"""What is asked of which model, and what came back: benchmarks with their image conditions, as
requests and as verdicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.benchmarks.registry import benchmark as benchmark_named
from eval.config import BenchmarkSection, EvalSection
from eval.generation.cache import Answer, answer_key
from eval.generation.generator import Request
from eval.generation.image_conditions import Shown, possible_ablations, shown_as_asked, shown_under
from eval.inputs import Role
from eval.parsing.harness_parsers import Parser, parser
from eval.question import Benchmark, Question, Verdict
from pipeline.core.recipe import fingerprint

ANSWER_VERSION = 1  # raise when the same request would be answered otherwise


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under test: what it is called, its folder ("" behind an endpoint), and a hash of all
    that decides its answers.
    """

    name: str
    folder: str
    weights: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One benchmark with its questions, and what is shown with each under each condition (None: not
    asked).
    """

    entry: BenchmarkSection
    benchmark: Benchmark
    questions: list[Question]
    shown: Mapping[str, list[Shown | None]]  # "image" first
    parse: Parser

    def rows(self, condition: str) -> list[int]:
        """The places of the questions that are asked under a condition."""
        return [row for row, shown in enumerate(self.shown[condition]) if shown is not None]

    def sha256(self) -> str:
        """One hash over everything that the questions hold."""
        asked = zip(self.questions, self.shown["image"], strict=True)
        return fingerprint(
            [
                [repr(replace(question, image=None)), shown and shown.name]
                for question, shown in asked
            ]
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """What one model answered under one condition: one entry per asked question; None where the
    server gave no answer.
    """

    questions: list[Question]
    shown: list[Shown]
    answers: list[Answer | None]
    verdicts: list[Verdict]


def load_benchmarks(section: EvalSection) -> list[Asked]:
    """Every benchmark of the recipe with its conditions.

    Raises:
        UserError: An unknown benchmark, or files that cannot be used.
    """
    found = []
    for entry in section.benchmarks:
        benchmark = benchmark_named(entry.name)
        questions = benchmark.load(
            entry.source, limit=entry.limit, expected_size=entry.expected_size, **entry.options
        )
        if section.answers.max_new_tokens is not None:
            questions = [
                replace(one, max_new_tokens=min(one.max_new_tokens, section.answers.max_new_tokens))
                for one in questions
            ]
        found.append(with_conditions(entry, benchmark, questions, section))
    return found


def with_conditions(
    entry: BenchmarkSection, benchmark: Benchmark, questions: list[Question], section: EvalSection
) -> Asked:
    """The questions with every wanted condition that exists for them."""
    asked = shown_as_asked(questions)
    shown: dict[str, list[Shown | None]] = {"image": list(asked)}
    for ablation in possible_ablations(section.answers.ablations, asked, questions):
        shown[ablation] = shown_under(ablation, questions, asked, section.seed)
    return Asked(entry, benchmark, questions, shown, parser(entry.parser, entry.name))


def decoding(section: EvalSection, max_new_tokens: int) -> dict[str, Any]:
    """How an answer is made: what its key holds beside model, prompt and picture."""
    settings: dict[str, Any] = {"version": ANSWER_VERSION, "max_new_tokens": max_new_tokens}
    if section.endpoint is None:
        settings |= {"dtype": section.dtype, "device": "cuda" if section.workers.use_gpu else "cpu"}
    return settings


def requests_of(
    asked: Asked, subject: Subject, condition: str, section: EvalSection
) -> Iterator[Request]:
    """One request per question that is asked under a condition, in order."""
    for row in asked.rows(condition):
        question, shown = asked.questions[row], asked.shown[condition][row]
        assert shown is not None, "rows() leaves out what is not asked"
        key = answer_key(
            subject.weights, question.prompt, shown.name, decoding(section, question.max_new_tokens)
        )
        label = f"{asked.entry.shown}: item {question.item_id} ({condition})"
        yield Request(key, subject.folder, label, question.prompt, shown, question.max_new_tokens)


def alone(
    requests: Sequence[Request], subjects: Sequence[Subject], section: EvalSection
) -> list[Request]:
    """Some requests once more, each in a batch of its own; empty where a batch cannot change an
    answer (fp32 on a CPU).
    """
    if (
        section.endpoint is not None
        or section.answers.batch == 1
        or (section.dtype == "float32" and not section.workers.use_gpu)
    ):
        return []
    chosen = []
    for subject in subjects:
        own = sorted(
            {one.key: one for one in requests if one.model == subject.folder}.values(),
            key=lambda one: one.key,
        )
        # keys are hashes: a sample that no order of the items can bias
        for one in own[: section.answers.num_checked]:
            settings = decoding(section, one.max_new_tokens) | {"batch": "alone"}
            chosen.append(
                replace(
                    one,
                    key=answer_key(subject.weights, one.prompt, one.shown.name, settings),
                    alone=True,
                )
            )
    return chosen


def read_answers(
    asked: Asked, questions: Sequence[Question], answers: Sequence[Answer | None]
) -> list[Verdict]:
    """What each answer says; missing where none came, and where only a judge could tell."""
    return [
        Verdict(None, "missing") if answer is None else asked.parse(question, answer.text)
        for question, answer in zip(questions, answers, strict=True)
    ]


def agreement(
    requests: Sequence[Request], singles: Sequence[Request], answers: Mapping[str, Answer]
) -> dict[str, Any] | None:
    """How many answers are the same when made alone; None where nothing was checked."""
    if not singles:
        return None
    batched = {
        (one.model, one.prompt, one.shown.name, one.max_new_tokens): one.key for one in requests
    }
    pairs = [
        (
            answers[batched[one.model, one.prompt, one.shown.name, one.max_new_tokens]],
            answers[one.key],
        )
        for one in singles
    ]
    return {
        "num_checked": len(pairs),
        "num_same": sum(one.text == other.text for one, other in pairs),
    }


Hearings = dict[tuple[Role, str], Heard]  # by role and condition
