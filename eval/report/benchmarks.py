"""What a person reads about benchmarks: tables, and the page's sections with plots and galleries.

Takes results as they are written; computes nothing that it shows, but for picking which items a
gallery holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from eval.config import EvalSection
from eval.inputs import Role
from eval.report.gallery import galleries
from eval.report.pairs import role_names
from eval.suite.run import BenchmarkResults
from eval.suite.scores import STATUSES, BenchmarkScores, dependency_points
from pipeline.pages.numbers import show_chance, show_number, show_share
from pipeline.pages.page import (
    PageSection,
    figure_svg,
    folded,
    html_table,
    paragraph,
    plots,
    subsection,
)

Number = Mapping[str, Any]
CONDITION_NAMES = {
    "image": "its image",
    "none": "no image",
    "blank": "a grey image",
    "shuffled": "another item's image",
    "counterpart": "the pair's other image",
}


def _score_columns(names: Mapping[Role, str]) -> list[str]:
    """The columns of `_score_cells`."""
    return ["chance", *names.values(), *(["difference"] if "before" in names else [])]


def _unit(result: Mapping[str, Any], key: str) -> str:
    """The unit of a metric; a share where no model has a number for it."""
    numbers = [of_role["metrics"].get(key) for of_role in result["scores"]["image"].values()]
    return next((str(number["unit"]) for number in numbers if number), "share")


def _score_cells(result: Mapping[str, Any], key: str, *, brief: bool = False) -> list[str]:
    """One metric of a benchmark with the true image: chance, each model, their difference."""
    image, unit = result["scores"]["image"], _unit(result, key)
    numbers: dict[Role, Number | None] = {
        role: image[role]["metrics"].get(key) for role in result["models"]
    }
    chance = (numbers["after"] or {}).get("chance")
    shown = [{"value": n["value"]} if brief and n else n for n in numbers.values()]
    cells = [show_chance(chance, unit), *(show_number(number, unit) for number in shown)]
    if "before" in numbers:
        change = (result["difference"] or {}).get(key, {}).get("plain")
        cells.append(show_number(change, unit, is_difference=True))
    return cells


def overview(
    results: Sequence[Mapping[str, Any]], *, brief: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of all benchmarks: the headline score of each.

    The drop is the evaluated model's.

    Args:
        brief: As a terminal has room for, with intervals of differences and drops only.
    """
    columns = [
        "",
        *_score_columns(role_names(list(results[0]["models"]))),
        "drop, no image",
        "unreadable",
        "not finished",
        "n",
    ]
    rows = []
    for result in results:
        key, answers = result["headline"], result["scores"]["image"]["after"]["answers"]
        without = result["dependency"].get("none", {}).get("after", {}).get("metrics", {})
        lost = (without.get(key) or {}).get("drop")
        whole = "" if result["limit"] is None else f" of {result['expected_size']:,}"
        rows.append(
            [
                f"{result['label']}: {key.replace('_', ' ')}",
                *_score_cells(result, key, brief=brief),
                show_number(lost, _unit(result, key), is_difference=True),
                show_share(answers["frac_unreadable"]),
                show_share(answers["frac_unfinished"]),
                f"{result['num_questions']:,}{whole}",
            ]
        )
    return columns, rows


def sentence(benchmarks: BenchmarkResults) -> str:
    """The result in one sentence."""
    count = len(benchmarks.results)
    return (
        f"{count} benchmark{'s' if count > 1 else ''},"
        f" {sum(result['num_questions'] for result in benchmarks.results):,} questions,"
        f" {benchmarks.facts['num_requests']:,} answers."
    )


def benchmark_sections(benchmarks: BenchmarkResults, section: EvalSection) -> list[PageSection]:
    """What the page says about benchmarks."""
    results = benchmarks.results
    note = (
        f"Brackets: {show_share(section.intervals.confidence, 0)} intervals over pairs or images,"
        " of which each is left out once; none below 6. Differences and drops of shares are in"
        " percentage points, their intervals paired. Chance is what guessing without looking"
        " gives. Unreadable answers, which name several answers or none, count as wrong; so do"
        " those that were not finished: cut off before they said anything, as a model that reasons"
        " first may be."
    )
    sections = [
        PageSection(
            "Benchmarks",
            html_table(*overview(results)) + paragraph(note) + _agreement(benchmarks.facts),
        )
    ]
    if any(result["dependency"] for result in results):
        sections.append(PageSection("Dependency on the image", _dependency(results)))
    for run, responses, result in zip(benchmarks.runs, benchmarks.responses, results, strict=True):
        html = _benchmark_html(result) + galleries(run, responses, section.page.max_cards)
        sections.append(PageSection(result["label"], html))
    return sections


def _agreement(facts: Mapping[str, Any]) -> Markup:
    agreement = facts["batch_agreement"]
    if agreement is None:
        return Markup()
    return paragraph(
        "In this precision an answer may depend on the other answers of its batch: of"
        f" {agreement['num_checked']} answers that were made alone as well,"
        f" {agreement['num_same']} are the same."
    )


def _dependency(results: Sequence[BenchmarkScores]) -> Markup:
    from eval.report.plots import condition_bars, improvement_plot

    names = role_names(list(results[0]["models"]))
    figures = figure_svg(condition_bars(results, names, CONDITION_NAMES))
    points = dependency_points(results)
    words = (
        "Bars: the headline score of each benchmark with the true image and with something else in"
        " its place. A model that does not look loses nothing. Corrected: the drop on a scale where"
        " chance is 0 and perfect is 1. Flips: answers that become other ones, of those readable"
        " under both; with the pair's other image every answer should."
    )
    if points:
        figures += figure_svg(improvement_plot(points))
        words += (
            " Points: what the base loses without an image against what finetuning gained, both as"
            " a share of the base's score with the image: does finetuning help most where looking"
            " matters most?"
        )
    rows = [
        [
            f"{result['label']}, {names[role]}",
            CONDITION_NAMES[condition],
            show_number(of_headline.get("drop"), unit, is_difference=True),
            show_number(of_headline.get("corrected"), "share", is_difference=True),
            show_number(dependency["flip_rate"], "share"),
            f"{(dependency['flip_rate'] or {'n': 0})['n']:,} of {dependency['n']:,}",
        ]
        for result in results
        for unit in [_unit(result, result["headline"])]
        for condition, roles in result["dependency"].items()
        for role, dependency in roles.items()
        for of_headline in [dependency["metrics"].get(result["headline"]) or {}]
    ]
    table = html_table(["", "instead", "drop", "corrected", "flips", "readable"], rows)
    return figures + paragraph(words) + folded("The numbers", table)


def _benchmark_html(result: Mapping[str, Any]) -> Markup:
    """One benchmark: every metric, bars per slice, and what its answers are like."""
    from eval.report.plots import slice_bars, slices_of

    names = role_names(list(result["models"]))
    image = result["scores"]["image"]
    rows = []
    for key in image["after"]["metrics"]:
        known = next((of[key] for role in names if (of := image[role]["metrics"]).get(key)), None)
        rows.append([key, *_score_cells(result, key), f"{known['n']:,}" if known else "0"])
    html = html_table(["", *_score_columns(names), "n"], rows)
    if slices := slices_of(image, names):
        html += plots([figure_svg(slice_bars(*slice_, names)) for slice_ in slices.items()])
    return html + subsection("What the answers are like", _answers(result, names), _judge(result))


def _answers(result: Mapping[str, Any], names: Mapping[Role, str]) -> Markup:
    rows = []
    for condition, roles in result["scores"].items():
        for role, of_role in roles.items():
            facts = of_role["answers"]
            total = facts["num_asked"]
            statuses = [
                show_share(facts["statuses"][status] / total if total else None)
                for status in STATUSES
            ]
            words = "-" if facts["mean_words"] is None else f"{facts['mean_words']:.1f}"
            who = f", {names[role]}" if len(names) > 1 else ""
            rows.append(
                [
                    CONDITION_NAMES[condition] + who,
                    *statuses,
                    f"{facts['num_empty']:,}",
                    f"{facts['num_not_ended']:,}",
                    words,
                    f"{total:,}",
                ]
            )
    note = (
        "Exact: the answer is nothing but its value. Extracted: the value stands in a sentence."
        " Ambiguous: it names several. Failed: it names none. Unfinished: it was cut off before it"
        " said anything. Missing: nobody answered or judged; left out of every score. Cut off:"
        " stopped at the bound on its tokens."
    )
    return html_table(["", *STATUSES, "empty", "cut off", "words", "n"], rows) + paragraph(note)


def _judge(result: Mapping[str, Any]) -> Markup:
    judge = result["judge"]
    if not judge:
        return Markup()
    faults = (
        ", ".join(f"{fault} {count}" for fault, count in judge["faults"].items()) or "no faults"
    )
    words = (
        f"Rated by {judge['model']} with this project's own wording, from texts alone:"
        f" {judge['num_asked']:,} requests, {judge['num_missing']:,} without a judgement"
        f" ({faults}). Not to be compared with numbers of another judge or wording."
    )
    comparison = judge.get("comparison")
    if comparison and comparison["win_rate"]:
        counts = ", ".join(
            f"{name.replace('_', ' ')} {count}" for name, count in comparison["counts"].items()
        )
        rate = show_number(comparison["win_rate"], "share")
        words += (
            f" Of {comparison['n']:,} comparisons in both orders the finetuned model wins {rate}"
            f" ({counts})."
        )
    return paragraph(words)
