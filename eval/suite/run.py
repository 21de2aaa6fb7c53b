"""From benchmarks to tables and scores: ask what was never asked before, read, judge, write.

Knows no Ray: it is given a way to have batches answered, so that this process, actors and a server
are alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.config import EvalSection
from eval.generation.cache import Answer, open_answers
from eval.generation.generator import Request
from eval.inputs import EvaluatedModel, Role
from eval.outputs import BENCHMARK_FOLDER, BenchmarkSummary, RunFacts
from eval.parsing.harness_parsers import Parser
from eval.question import Question, Verdict
from eval.suite.judge import judge_benchmark
from eval.suite.requests import (
    BenchmarkRun,
    Responses,
    ResponsesByCondition,
    agreement,
    alone,
    requests_of,
)
from eval.suite.scores import BenchmarkScores, answers_table, benchmark_scores
from pipeline.core.progress import Progress, say
from pipeline.core.storage import write_json, write_table
from pipeline.llm.protocol import EveryRequestRefusedError

Keep = Callable[[Sequence[tuple[str, Answer]]], None]
# of one benchmark, by role and condition
RequestsByCondition = dict[tuple[Role, str], list[Request]]
# answers requests in any order, handing over each batch when it is ready
GenerateFn = Callable[[Sequence[Request], Keep], None]


@dataclass(frozen=True, slots=True)
class BenchmarkResults:
    """What a run says about its benchmarks, in the order of the recipe."""

    runs: list[BenchmarkRun]
    responses: list[ResponsesByCondition]
    results: list[BenchmarkScores]
    facts: RunFacts


def run_benchmarks(
    runs: Sequence[BenchmarkRun],
    models: Mapping[Role, EvaluatedModel],
    section: EvalSection,
    generate: GenerateFn,
) -> BenchmarkResults:
    """Every benchmark under every condition by every model.

    Raises:
        UserError: Something that the user can mend; what was answered until then is kept.
    """
    requests_of_runs: list[RequestsByCondition] = [
        {
            (role, condition): list(requests_of(run, model, condition, section))
            for role, model in models.items()
            for condition in run.image_inputs
        }
        for run in runs
    ]
    requests = [
        request
        for by_condition in requests_of_runs
        for of_condition in by_condition.values()
        for request in of_condition
    ]
    checked = alone(requests, list(models.values()), section)
    answers = answers_to([*requests, *(single for _, single in checked)], section, generate)
    written = [
        write_benchmark(run, responses_of(run, by_condition, answers), models, section)
        for run, by_condition in zip(runs, requests_of_runs, strict=True)
    ]
    num_missing = sum(request.key not in answers for request in requests)
    if num_missing:
        say(
            f"{num_missing:,} of {len(requests):,} requests were not answered; run the same command"
            " again to ask them once more"
        )
    num_unfinished = sum(
        verdict.status == "unfinished"
        for responses, _ in written
        for heard in responses.values()
        for verdict in heard.verdicts
    )
    if num_unfinished:
        say(
            f"{num_unfinished:,} of {len(requests):,} answers were cut off before they said"
            " anything, and count as wrong; raise answers.max_new_tokens, which a model that"
            " reasons first needs"
        )
    facts: RunFacts = {
        "num_requests": len(requests),
        "num_without_answer": num_missing,
        "batch_agreement": agreement(checked, answers),
    }
    return BenchmarkResults(
        list(runs),
        [responses for responses, _ in written],
        [result for _, result in written],
        facts,
    )


def write_benchmark(
    run: BenchmarkRun,
    responses: ResponsesByCondition,
    models: Mapping[Role, EvaluatedModel],
    section: EvalSection,
) -> tuple[ResponsesByCondition, BenchmarkScores]:
    """Has free answers judged and writes the files; the responses with ratings, and the scores."""
    folder, name = Path(section.out) / BENCHMARK_FOLDER, run.entry.display_name
    judged = judge_benchmark(run, responses, section)
    if judged is not None:
        responses = judged.responses
        write_table(folder / f"{name}.judge.parquet", judged.table)
    result = benchmark_scores(run, responses, models, section)
    result["judge"] = judged.facts if judged else None
    write_table(folder / f"{name}.parquet", answers_table(run, responses))
    write_json(folder / f"{name}.json", result)
    return responses, result


def summary_of(result: BenchmarkScores) -> BenchmarkSummary:
    """What result.json says about one benchmark."""
    name, without = result["headline"], result["dependency"].get("none", {})
    image = result["scores"]["image"]
    return {
        "headline": name,
        "num_questions": result["num_questions"],
        "limit": result["limit"],
        **{role: of_role["metrics"].get(name) for role, of_role in image.items()},  # type: ignore[typeddict-item]
        "difference": (result["difference"] or {}).get(name, {}).get("plain"),
        "drop_without_image": {
            role: of_role["metrics"].get(name) for role, of_role in without.items()
        },
        "frac_unreadable": {
            role: of_role["answers"]["frac_unreadable"] for role, of_role in image.items()
        },
        "frac_unfinished": {
            role: of_role["answers"]["frac_unfinished"] for role, of_role in image.items()
        },
    }


def answers_to(
    requests: Sequence[Request], section: EvalSection, generate: GenerateFn
) -> dict[str, Answer]:
    """The answer to each request by its key.

    Equal requests are answered once, and what was answered before is not again.
    """
    with open_answers(section.answers.cache) as store:
        answers = store.get(request.key for request in requests)
        missing = {request.key: request for request in requests if request.key not in answers}
        if answers:
            say(
                f"{len(answers):,} answers are kept from before ({store.path}); {len(missing):,}"
                " are to be made"
            )
        if missing:
            with Progress("answer", len(missing), "answers") as progress:

                def keep(made: Sequence[tuple[str, Answer]]) -> None:
                    store.put(made)
                    answers.update(made)
                    progress.advance(len(made))

                try:
                    generate(list(missing.values()), keep)
                except EveryRequestRefusedError as error:
                    if not answers:
                        raise
                    say(str(error))  # others were answered, so it is the fault of these questions
    return answers


def read_answer(parse: Parser, question: Question, answer: Answer | None) -> Verdict:
    """What an answer says; "unfinished" where it was cut off before it said anything."""
    if answer is None:
        return Verdict(None, "missing")
    if not answer.said and not answer.ended:
        return Verdict(None, "unfinished")
    return parse(question, answer.text)


def responses_of(
    run: BenchmarkRun, requests_of_run: RequestsByCondition, answers: Mapping[str, Answer]
) -> ResponsesByCondition:
    """What each model answered under each condition, read.

    A verdict is missing where no answer came, and where only a judge could tell.
    """
    responses: ResponsesByCondition = {}
    for (role, condition), requests in requests_of_run.items():
        questions = [run.questions[row] for row in run.rows(condition)]
        given = [answers.get(request.key) for request in requests]
        verdicts = [
            read_answer(run.parse, question, answer)
            for question, answer in zip(questions, given, strict=True)
        ]
        shown = [request.image_input for request in requests]
        responses[role, condition] = Responses(questions, shown, given, verdicts)
    return responses
