"""report.html and the summary on the terminal: pairs and benchmarks of one run together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.config import EvalSection
from eval.inputs import EvaluatedModel, Role
from eval.outputs import Entries, PairScores
from eval.pairs.results import PairResults
from eval.report.benchmarks import benchmark_sections, overview, sentence
from eval.report.pairs import (
    HEADLINE,
    TERMINAL,
    headline,
    left_out_of,
    pair_sections,
    role_names,
    table,
)
from eval.suite.run import BenchmarkResults
from pipeline.core.intervals import caution
from pipeline.core.progress import say, summary_table
from pipeline.pages.numbers import show_share
from pipeline.pages.page import render_page


def write_page(
    section: EvalSection,
    models: Mapping[Role, EvaluatedModel],
    pairs: PairResults | None,
    benchmarks: BenchmarkResults | None,
    path: Path,
) -> None:
    """Writes report.html: one file that opens anywhere."""
    lead = [f"{role}: {model.name}" for role, model in models.items()]
    sections = []
    if benchmarks is not None:
        lead.insert(0, sentence(benchmarks))
        sections += benchmark_sections(benchmarks, section)
    if pairs is not None:
        lead.insert(0, headline(pairs.scores["overall"], role_names(list(pairs.model_scores))))
        lead.append(f"data: {section.data}, split {section.split}")
        sections += pair_sections(pairs, section)
    words = [part if part.endswith((".", ")")) else f"{part};" for part in lead[:-1]]
    render_page(
        "Does the model look at the image?", sections, path, lead=" ".join([*words, lead[-1]])
    )


def headline_scores(scores: PairScores) -> Entries:
    """The scores of pairs that result.json repeats."""
    return {key: scores["overall"][key] for key in HEADLINE if key in scores["overall"]}


def print_summary(
    section: EvalSection, pairs: PairResults | None, benchmarks: BenchmarkResults | None
) -> None:
    """The most important numbers on the terminal."""
    confidence = show_share(section.intervals.confidence, 0)
    if pairs is not None:
        title = (
            f"{pairs.items.num_rows:,} pairs of split {section.split}{left_out_of(pairs)},"
            f" {confidence} intervals; differences of shares in points"
        )
        summary_table(
            title, *table(pairs.scores["overall"], TERMINAL, role_names(list(pairs.model_scores)))
        )
        if warning := caution(len(set(pairs.items["group"].to_pylist()))):
            say(f"pairs: {warning}")
    if benchmarks is not None:
        summary_table(
            f"Benchmarks, {confidence} intervals; differences and drops of shares in points",
            *overview(benchmarks.results, brief=True),
        )
        for result in benchmarks.results:
            for line in warnings_about(result):
                say(f"{result['label']}: {line}")


def warnings_about(result: Mapping[str, Any]) -> list[str]:
    """What a reader of a score must know: a part of the benchmark, answers that are not whole."""
    warnings = []
    if result["limit"] is not None:
        warnings.append(
            f"the first {result['num_questions']:,} of {result['expected_size']:,} questions only;"
            " not comparable with the whole"
        )
    headline = result["scores"]["image"]["after"]["metrics"].get(result["headline"])
    if headline and (few := caution(headline["num_clusters"], "pairs or images")):
        warnings.append(few)
    for role, of_role in result["scores"]["image"].items():
        answers = of_role["answers"]
        without = answers["num_without_answer"]
        counts = {
            "got no answer from the server and are in no score": without,
            "were cut off at the bound on their tokens": answers["num_not_ended"],
            "were judged by nobody and are in no score": answers["statuses"]["missing"] - without,
        }
        warnings += [
            f"{role}: {count:,} of {answers['num_asked']:,} answers {words}"
            for words, count in counts.items()
            if count
        ]
    return warnings
