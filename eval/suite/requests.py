"""What is asked of which model, and what came back: benchmarks as requests and as verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.registry import benchmark as benchmark_named
from eval.config import BenchmarkSection, EvalSection
from eval.generation.cache import Answer, answer_key
from eval.generation.generator import Request, decoding
from eval.generation.image_conditions import (
    ImageInput,
    ablated_images,
    own_images,
    possible_ablations,
)
from eval.inputs import EvaluatedModel, Role
from eval.parsing.harness_parsers import Parser, parser
from eval.question import Question, Verdict
from pipeline.core.recipe import fingerprint


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One benchmark with its questions, and each one's image by condition (None: not asked)."""

    entry: BenchmarkSection
    benchmark: Benchmark
    questions: list[Question]
    image_inputs: Mapping[str, list[ImageInput | None]]  # "image" first
    parse: Parser

    def rows(self, condition: str) -> list[int]:
        """The places of the questions that are asked under a condition."""
        return [row for row, image in enumerate(self.image_inputs[condition]) if image is not None]

    def sha256(self) -> str:
        """One hash over everything that the questions hold."""
        return fingerprint(
            [
                [repr(replace(question, image=None)), image and image.name]
                for question, image in zip(self.questions, self.image_inputs["image"], strict=True)
            ]
        )


@dataclass(frozen=True, slots=True)
class Responses:
    """What one model answered under one condition, by asked question; None: the server did not."""

    questions: list[Question]
    image_inputs: list[ImageInput]
    answers: list[Answer | None]
    verdicts: list[Verdict]


ResponsesByCondition = dict[tuple[Role, str], Responses]  # by role and condition


def load_benchmarks(section: EvalSection) -> list[BenchmarkRun]:
    """Every benchmark of the recipe with its conditions.

    Raises:
        UserError: An unknown benchmark, or files that cannot be used.
    """
    runs = []
    for entry in section.benchmarks:
        benchmark = benchmark_named(entry.name)
        questions = benchmark.load(
            entry.source, limit=entry.limit, expected_size=entry.expected_size, **entry.options
        )
        if section.answers.max_new_tokens is not None:
            questions = [
                replace(question, max_new_tokens=section.answers.max_new_tokens)
                for question in questions
            ]
        runs.append(with_conditions(entry, benchmark, questions, section))
    return runs


def with_conditions(
    entry: BenchmarkSection, benchmark: Benchmark, questions: list[Question], section: EvalSection
) -> BenchmarkRun:
    """The questions with every wanted condition that exists for them."""
    own = own_images(questions)
    image_inputs: dict[str, list[ImageInput | None]] = {"image": list(own)}
    for ablation in possible_ablations(section.answers.ablations, own, questions):
        image_inputs[ablation] = ablated_images(ablation, questions, own, section.seed)
    return BenchmarkRun(entry, benchmark, questions, image_inputs, parser(entry.parser, entry.name))


def requests_of(
    run: BenchmarkRun, model: EvaluatedModel, condition: str, section: EvalSection
) -> Iterator[Request]:
    """One request per question that is asked under a condition, in order."""
    for row in run.rows(condition):
        question, image = run.questions[row], run.image_inputs[condition][row]
        assert image is not None, "rows() leaves out what is not asked"
        settings = decoding(section, question.max_new_tokens, image)
        key = answer_key(model.weights, question.prompt, image.name, settings)
        label = f"{run.entry.display_name}: item {question.item_id} ({condition})"
        yield Request(key, model.folder, label, question.prompt, image, question.max_new_tokens)


def alone(
    requests: Sequence[Request], models: Sequence[EvaluatedModel], section: EvalSection
) -> list[tuple[Request, Request]]:
    """Some requests, each with the same in a batch of its own.

    Empty where a batch cannot change an answer (fp32 on a CPU).
    """
    if (
        section.endpoint is not None
        or section.answers.batch == 1
        or (section.dtype == "float32" and not section.workers.use_gpu)
    ):
        return []
    pairs = []
    for model in models:
        own = {request.key: request for request in requests if request.model == model.folder}
        # keys are hashes: a sample that no order of the items can bias
        for _, request in sorted(own.items())[: section.answers.num_checked]:
            settings = decoding(section, request.max_new_tokens) | {"batch": "alone"}
            key = answer_key(model.weights, request.prompt, request.image_input.name, settings)
            pairs.append((request, replace(request, key=key, alone=True)))
    return pairs


def agreement(
    pairs: Sequence[tuple[Request, Request]], answers: Mapping[str, Answer]
) -> dict[str, int] | None:
    """How many answers are the same when made alone; None where nothing was checked."""
    if not pairs:
        return None
    same = [answers[batched.key].text == answers[single.key].text for batched, single in pairs]
    return {"num_checked": len(same), "num_same": sum(same)}
