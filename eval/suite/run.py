"""From a recipe's benchmarks to their tables and scores: ask what was never asked before, read,
judge, write.

Knows no Ray: it is given a way to have batches answered, so that this process, actors and a server
are alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.config import EvalSection
from eval.generation.cache import Answer, AnswerStore
from eval.generation.generator import Request
from eval.inputs import BENCHMARK_FOLDER, Role
from eval.suite.judge import judge_benchmark
from eval.suite.requests import (
    Asked,
    Heard,
    Hearings,
    Subject,
    agreement,
    alone,
    read_answers,
    requests_of,
)
from eval.suite.scores import answers_table, benchmark_scores
from pipeline.core.progress import Progress, say
from pipeline.core.storage import cache_dir, write_json, write_table

Keep = Callable[[Sequence[tuple[str, Answer]]], None]
Asks = dict[tuple[Role, str], list[Request]]  # of one benchmark, by role and condition
# answers requests in any order, handing over each batch when it is ready
AnswerAll = Callable[[Sequence[Request], Keep], None]


@dataclass(frozen=True, slots=True)
class BenchmarkResults:
    """What a run says about its benchmarks, in the order of the recipe."""

    asked: list[Asked]
    hearings: list[Hearings]
    results: list[dict[str, Any]]
    facts: dict[str, Any]  # about the run: requests, those without an answer, agreement of batches


def run_benchmarks(
    asked: Sequence[Asked],
    subjects: Mapping[Role, Subject],
    section: EvalSection,
    answer_all: AnswerAll,
) -> BenchmarkResults:
    """Every benchmark under every condition by every model.

    Raises:
        UserError: Something that the user can mend; what was answered until then is kept.
    """
    asks: list[Asks] = [
        {
            (role, condition): list(requests_of(one, subject, condition, section))
            for role, subject in subjects.items()
            for condition in one.shown
        }
        for one in asked
    ]
    requests = [
        request for one in asks for of_condition in one.values() for request in of_condition
    ]
    singles = alone(requests, list(subjects.values()), section)
    answers = answers_to([*requests, *singles], section, answer_all)
    results, hearings = [], []
    for one, own in zip(asked, asks, strict=True):
        heard = hearings_of(one, own, answers)
        heard, result = write_benchmark(one, heard, subjects, section)
        results.append(result)
        hearings.append(heard)
    num_missing = sum(request.key not in answers for request in requests)
    if num_missing:
        say(
            f"{num_missing:,} of {len(requests):,} requests were not answered; run the same command"
            " again to ask them once more"
        )
    facts = {
        "num_requests": len(requests),
        "num_without_answer": num_missing,
        "batch_agreement": agreement(requests, singles, answers),
    }
    return BenchmarkResults(list(asked), hearings, results, facts)


def write_benchmark(
    asked: Asked, heard: Hearings, subjects: Mapping[Role, Subject], section: EvalSection
) -> tuple[Hearings, dict[str, Any]]:
    """Has free answers judged, and writes the benchmark's files; returns what was heard with
    ratings, and the scores.
    """
    folder, name = Path(section.out) / BENCHMARK_FOLDER, asked.entry.shown
    judged = judge_benchmark(asked, heard, section)
    if judged is not None:
        heard = judged.heard
        write_table(folder / f"{name}.judge.parquet", judged.table)
    result = benchmark_scores(asked, heard, subjects, section) | {"judge": judged and judged.facts}
    write_table(folder / f"{name}.parquet", answers_table(asked, heard))
    write_json(folder / f"{name}.json", result)
    return heard, result


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What result.json says about one benchmark: its headline score, and by how much the image and
    the finetuning change it.
    """
    name, without = result["headline"], result["dependency"].get("none", {})
    image = result["scores"]["image"]
    return {
        "headline": name,
        "num_questions": result["num_questions"],
        "limit": result["limit"],
        **{role: of_role["metrics"].get(name) for role, of_role in image.items()},
        "difference": (result["difference"] or {}).get(name, {}).get("plain"),
        "drop_without_image": {
            role: of_role["metrics"].get(name) for role, of_role in without.items()
        },
        "frac_unreadable": {
            role: of_role["answers"]["frac_unreadable"] for role, of_role in image.items()
        },
    }


def answers_to(
    requests: Sequence[Request], section: EvalSection, answer_all: AnswerAll
) -> dict[str, Answer]:
    """The answer to each request by its key; equal requests are answered once, and what was
    answered before is not again.
    """
    path = Path(section.answers.cache) if section.answers.cache else cache_dir() / "answers.sqlite"
    with AnswerStore(path) as store:
        answers = store.get(request.key for request in requests)
        missing = list(
            {request.key: request for request in requests if request.key not in answers}.values()
        )
        if answers:
            say(
                f"{len(answers):,} answers are kept from before ({path}); {len(missing):,} are to"
                " be made"
            )
        if missing:
            with Progress("answer", len(missing), "answers") as progress:

                def keep(made: Sequence[tuple[str, Answer]]) -> None:
                    store.put(made)
                    answers.update(made)
                    progress.advance(len(made))

                answer_all(missing, keep)
    return answers


def hearings_of(asked: Asked, asks: Asks, answers: Mapping[str, Answer]) -> Hearings:
    """What each model answered under each condition, read."""
    heard: Hearings = {}
    for (role, condition), requests in asks.items():
        questions = [asked.questions[row] for row in asked.rows(condition)]
        found = [answers.get(request.key) for request in requests]
        heard[role, condition] = Heard(
            questions,
            [request.shown for request in requests],
            found,
            read_answers(asked, questions, found),
        )
    return heard
