"""A comparison as one self-contained page. Takes what `eval.compare.comparison` computed; computes
nothing that it shows.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from eval.compare.comparison import difference_rows, score_rows
from pipeline.pages.page import PageSection, figure_svg, html_table, paragraph, plots, render_page

BETTER, WORSE, UNSURE = "#1f5fbf", "#b3261e", "#9aa5b4"


def write_comparison_page(comparison: dict[str, Any], confidence: float, path: Path) -> None:
    """Scores with chance, each model's differences with intervals and tests, answers that could not
    be read, and the notes.
    """
    labels = [model["label"] for model in comparison["models"]]
    sections = [PageSection("Scores", html_table(*score_rows(comparison)) + _notes(comparison))]
    for label in labels[1:]:
        remark = (
            f"Differences of shares are in percentage points, with {confidence:.0%} intervals from"
            " a bootstrap over pairs or images. The test is McNemar's where every question stands"
            " alone, otherwise the bootstrap; p is adjusted by Holm over these scores."
        )
        figures = [forest(comparison, label), *dependency_plot(comparison, label)]
        figure = plots([figure_svg(one) for one in figures])
        sections.append(
            PageSection(
                f"{label} minus {labels[0]}",
                figure + html_table(*difference_rows(comparison, label)) + paragraph(remark),
            )
        )
    unread = comparison["unreadable"]
    names = list(unread[labels[0]])
    rows = [[label, *(f"{unread[label][name]:.1%}" for name in names)] for label in labels]
    sections.append(
        PageSection("Answers that could not be read", html_table(["model", *names], rows))
    )
    lead = "; ".join(f"{model['label']}: {model['model']}" for model in comparison["models"])
    render_page("Comparison", sections, path, lead)


def _notes(comparison: dict[str, Any]) -> str:
    return "".join(paragraph(note) for note in comparison["notes"])


def forest(comparison: dict[str, Any], label: str) -> Figure:
    """One line per score that is a share: the difference in points, its interval, and whether it is
    more than luck.
    """
    found = [
        (column, comparison["differences"][label][column["key"]])
        for column in comparison["columns"]
        if column["unit"] == "share"
    ]
    lines = [(column, one) for column, one in found if one is not None]
    figure = Figure(figsize=(7, 0.9 + 0.36 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, (column, one) in enumerate(reversed(lines)):
        gain = one["value"] if column["higher_is_better"] is not False else -one["value"]
        colour = UNSURE if not one["significant"] else BETTER if gain > 0 else WORSE
        if one["low"] is not None:
            axes.plot(
                [100 * one["low"], 100 * one["high"]], [place, place], color=colour, linewidth=2.2
            )
        axes.plot(100 * one["value"], place, "o", color=colour, markersize=6)
    axes.axvline(0.0, color="#444", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [_heading(column) for column, _ in reversed(lines)])
    axes.set_xlabel("points; blue is better, red is worse, grey may be luck")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def dependency_plot(comparison: dict[str, Any], label: str) -> list[Figure]:
    """Improvement against dependency on the image, one point per score; nothing where fewer than
    two are known.
    """
    points = []
    for column in comparison["columns"]:
        dependency, improvement = (
            comparison["dependency"][column["key"]],
            comparison["improvement"][label][column["key"]],
        )
        if dependency is not None and improvement is not None:
            points.append(
                (100 * dependency["value"], 100 * improvement["value"], column["heading"])
            )
    if len(points) < 2:
        return []
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for across, up, heading in points:
        axes.plot(across, up, "o", color=BETTER, markersize=6)
        axes.annotate(heading, (across, up), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.axhline(0.0, color="#444", linewidth=0.8)
    axes.margins(0.2)
    axes.set_xlabel("lost by the base without images, % of its score")
    axes.set_ylabel("improvement over the base, %")
    axes.spines[["top", "right"]].set_visible(False)
    return [figure]


def _heading(column: dict[str, Any]) -> str:
    return (
        f"{column['heading']} (lower is better)"
        if column["higher_is_better"] is False
        else str(column["heading"])
    )
