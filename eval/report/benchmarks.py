"""What a person reads about benchmarks: tables, and the page's sections with bars, the dependency
plot and galleries.

Takes results as they are written; computes nothing that it shows, but for picking which items a
gallery holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.config import EvalSection
from eval.inputs import Role
from eval.report.gallery import galleries
from eval.report.pairs import role_names
from eval.suite.run import BenchmarkResults
from eval.suite.scores import STATUSES, dependency_points
from pipeline.pages.page import PageSection, figure_svg, html_table, paragraph, plots, text

Number = Mapping[str, Any]
CONDITION_NAMES = {
    "image": "its image",
    "none": "no image",
    "blank": "a grey image",
    "shuffled": "another item's image",
    "counterpart": "the pair's other image",
}


def show(number: Number | None, unit: str, *, difference: bool = False) -> str:
    """A number with its interval: shares in %, differences of shares in points, a judge's points as
    they are; "-" for none.

    0.5, 0.4, 0.6 "share" -> "50.0% [40.0, 60.0]"
    """
    if number is None:
        return "-"
    scale, digits = (100.0, 1) if unit == "share" else (1.0, 2)
    sign, end = ("+", "") if difference else ("", "%" if unit == "share" else "")
    value = f"{number['value'] * scale:{sign}.{digits}f}{end}"
    if number["low"] is None:
        return value
    return f"{value} [{number['low'] * scale:.{digits}f}, {number['high'] * scale:.{digits}f}]"


def _chance(number: Number | None) -> str:
    return (
        show({"value": number["chance"], "low": None}, str(number["unit"]))
        if number and number["chance"] is not None
        else ""
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def overview(
    results: Sequence[Mapping[str, Any]], *, brief: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of all benchmarks: the headline score of each; its drop is the
    evaluated model's.

    brief: as a terminal has room for, with intervals of differences and drops only.
    """
    roles: list[Role] = list(results[0]["models"])
    names = role_names(roles)
    columns = ["", "chance", *names.values(), *(["difference"] if "before" in roles else [])]
    columns += ["drop, no image", "unreadable", "n"]
    rows = []
    for one in results:
        key = one["headline"]
        image, without = one["scores"]["image"], one["dependency"].get("none", {})
        numbers: dict[Role, Number | None] = {
            role: image[role]["metrics"].get(key) for role in roles
        }
        unit = next((number["unit"] for number in numbers.values() if number), "share")
        shown = [
            show({**number, "low": None} if brief and number else number, unit)
            for number in numbers.values()
        ]
        change = (
            [show((one["difference"] or {}).get(key, {}).get("plain"), unit, difference=True)]
            if "before" in roles
            else []
        )
        lost = (without.get("after", {}).get("metrics", {}).get(key) or {}).get("drop")
        counted = f"{one['num_questions']:,}" + (
            "" if one["limit"] is None else f" of {one['expected_size']:,}"
        )
        row = [
            f"{one['label']}: {key.replace('_', ' ')}",
            _chance(numbers["after"]),
            *shown,
            *change,
            show(lost, unit, difference=True),
        ]
        rows.append([*row, _share(image["after"]["answers"]["frac_unreadable"]), counted])
    return columns, rows


def sentence(benchmarks: BenchmarkResults) -> str:
    """The result in one sentence."""
    count = len(benchmarks.results)
    num_questions = sum(one["num_questions"] for one in benchmarks.results)
    return (
        f"{count} benchmark{'s' if count > 1 else ''}, {num_questions:,} questions,"
        f" {benchmarks.facts['num_requests']:,} answers."
    )


def benchmark_sections(benchmarks: BenchmarkResults, section: EvalSection) -> list[PageSection]:
    """What the page says about benchmarks."""
    results = benchmarks.results
    columns, rows = overview(results)
    note = (
        f"Brackets: {section.intervals.confidence:.0%} intervals, bootstrap over pairs or images"
        f" ({section.intervals.num_draws:,} draws); differences and drops of shares are in"
        " percentage points, their intervals paired. Chance is what guessing without looking"
        " gives. Unreadable answers count as wrong; they are those that name several answers or"
        " none."
    )
    sections = [
        PageSection(
            "Benchmarks", html_table(columns, rows) + paragraph(note) + _agreement(benchmarks.facts)
        )
    ]
    if any(one["dependency"] for one in results):
        sections.append(PageSection("Dependency on the image", _dependency(results)))
    for run, responses, one in zip(benchmarks.runs, benchmarks.responses, results, strict=True):
        sections.append(
            PageSection(one["label"], _one(one) + galleries(run, responses, section.page.max_cards))
        )
    return sections


def _agreement(facts: Mapping[str, Any]) -> str:
    found = facts["batch_agreement"]
    if found is None:
        return ""
    return paragraph(
        "In this precision an answer may depend on the other answers of its batch: of"
        f" {found['num_checked']} answers that were made alone as well, {found['num_same']} are the"
        " same."
    )


def _dependency(results: Sequence[Mapping[str, Any]]) -> str:
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
    rows = []
    for one in results:
        unit = next((number["unit"] for number in _headlines(one) if number), "share")
        for condition, roles in one["dependency"].items():
            for role, found in roles.items():
                of_headline = found["metrics"].get(one["headline"]) or {}
                flip = show(found["flip_rate"], "share")
                shown = [
                    show(of_headline.get("drop"), unit, difference=True),
                    show(of_headline.get("corrected"), "share", difference=True),
                ]
                counted = (
                    f"{found['flip_rate']['n']:,} of {found['n']:,}"
                    if found["flip_rate"]
                    else f"0 of {found['n']:,}"
                )
                rows.append(
                    [
                        f"{one['label']}, {names[role]}",
                        CONDITION_NAMES[condition],
                        *shown,
                        flip,
                        counted,
                    ]
                )
    table = html_table(["", "instead", "drop", "corrected", "flips", "readable"], rows)
    return f"{figures}{paragraph(words)}<details><summary>The numbers</summary>{table}</details>"


def _headlines(one: Mapping[str, Any]) -> list[Number | None]:
    return [of_role["metrics"].get(one["headline"]) for of_role in one["scores"]["image"].values()]


def _one(one: Mapping[str, Any]) -> str:
    """One benchmark: every metric, bars per slice, and what its answers are like."""
    from eval.report.plots import slice_bars, slices_of

    names = role_names(list(one["models"]))
    image = one["scores"]["image"]
    rows = []
    for key in image["after"]["metrics"]:
        numbers = {role: image[role]["metrics"].get(key) for role in names}
        known = next((number for number in numbers.values() if number), None)
        unit = str(known["unit"]) if known else "share"
        change = (
            [show((one["difference"] or {}).get(key, {}).get("plain"), unit, difference=True)]
            if "before" in names
            else []
        )
        counted = f"{known['n']:,}" if known else "0"
        rows.append(
            [
                key,
                _chance(numbers["after"]),
                *(show(numbers[role], unit) for role in names),
                *change,
                counted,
            ]
        )
    columns = ["", "chance", *names.values(), *(["difference"] if "before" in names else []), "n"]
    slices = slices_of(image, names)
    drawn = (
        plots([figure_svg(slice_bars(title, numbers, names)) for title, numbers in slices.items()])
        if slices
        else ""
    )
    return (
        html_table(columns, rows)
        + drawn
        + f"<h3>{text('What the answers are like')}</h3>"
        + _answers(one, names)
        + _judge(one)
    )


def _answers(one: Mapping[str, Any], names: Mapping[Role, str]) -> str:
    rows = []
    for condition, roles in one["scores"].items():
        for role, of_role in roles.items():
            facts = of_role["answers"]
            total = facts["num_asked"]
            statuses = [
                _share(facts["statuses"][status] / total if total else None) for status in STATUSES
            ]
            words = "-" if facts["mean_words"] is None else f"{facts['mean_words']:.1f}"
            who = (
                f"{CONDITION_NAMES[condition]}, {names[role]}"
                if len(names) > 1
                else CONDITION_NAMES[condition]
            )
            rows.append(
                [
                    who,
                    *statuses,
                    f"{facts['num_empty']:,}",
                    f"{facts['num_not_ended']:,}",
                    words,
                    f"{total:,}",
                ]
            )
    note = (
        "Exact: the answer is nothing but its value. Extracted: the value stands in a sentence."
        " Ambiguous: it names several. Failed: it names none. Missing: nobody answered or judged;"
        " left out of every score. Cut off: stopped at the bound on its tokens."
    )
    columns = ["", *STATUSES, "empty", "cut off", "words", "n"]
    return html_table(columns, rows) + paragraph(note)


def _judge(one: Mapping[str, Any]) -> str:
    judge = one["judge"]
    if not judge:
        return ""
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
        rate = show(comparison["win_rate"], "share")
        words += (
            f" Of {comparison['n']:,} comparisons in both orders the finetuned model wins {rate}"
            f" ({counts})."
        )
    return paragraph(words)
