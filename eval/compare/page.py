"""A comparison as one self-contained page; computes nothing that it shows."""

from pathlib import Path

from matplotlib.figure import Figure

from eval.compare.comparison import Comparison, difference_rows, score_rows
from pipeline.pages.numbers import show_share
from pipeline.pages.page import (
    PageSection,
    figure_svg,
    html_table,
    joined,
    paragraph,
    plots,
    render_page,
)

BETTER, WORSE, UNSURE = "#1f5fbf", "#b3261e", "#9aa5b4"


def write_comparison_page(comparison: Comparison, confidence: float, path: Path) -> None:
    """Scores, each model's differences with tests, answers that could not be read, and notes."""
    labels = [model["label"] for model in comparison["models"]]
    notes = joined(paragraph(note) for note in comparison["notes"])
    sections = [PageSection("Scores", html_table(*score_rows(comparison)) + notes)]
    for label in labels[1:]:
        remark = (
            f"Differences of shares are in percentage points, with {confidence:.0%} intervals from"
            " a bootstrap over pairs or images. The test is McNemar's where every question stands"
            " alone, otherwise the bootstrap; p is adjusted by Holm over these scores."
        )
        figures = [forest(comparison, label), *dependency_plot(comparison, label)]
        html = plots([figure_svg(figure) for figure in figures])
        html += html_table(*difference_rows(comparison, label)) + paragraph(remark)
        sections.append(PageSection(f"{label} minus {labels[0]}", html))
    unread = comparison["unreadable"]
    names = list(unread[labels[0]])
    rows = [[label, *(show_share(unread[label][name]) for name in names)] for label in labels]
    sections.append(
        PageSection("Answers that could not be read", html_table(["model", *names], rows))
    )
    lead = "; ".join(f"{model['label']}: {model['model']}" for model in comparison["models"])
    render_page("Comparison", sections, path, lead)


def forest(comparison: Comparison, label: str) -> Figure:
    """One line per score that is a share: its difference in points, and whether it may be luck."""
    differences = comparison["differences"][label]
    lines = [
        (column, entry)
        for column in comparison["columns"]
        if column["unit"] == "share" and (entry := differences[column["key"]]) is not None
    ]
    figure = Figure(figsize=(7, 0.9 + 0.36 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, (column, entry) in enumerate(reversed(lines)):
        gain = entry["value"] if column["higher_is_better"] is not False else -entry["value"]
        color = UNSURE if not entry["significant"] else BETTER if gain > 0 else WORSE
        if entry["low"] is not None and entry["high"] is not None:
            axes.plot(
                [100 * entry["low"], 100 * entry["high"]],
                [place, place],
                color=color,
                linewidth=2.2,
            )
        axes.plot(100 * entry["value"], place, "o", color=color, markersize=6)
    axes.axvline(0.0, color="#444", linewidth=0.8)
    axes.set_yticks(
        range(len(lines)),
        [
            column["heading"]
            + (" (lower is better)" if column["higher_is_better"] is False else "")
            for column, _ in reversed(lines)
        ],
    )
    axes.set_xlabel("points; blue is better, red is worse, grey may be luck")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def dependency_plot(comparison: Comparison, label: str) -> list[Figure]:
    """Improvement against dependency on the image, a point per score; none of fewer than two."""
    improvements = comparison["improvement"][label]
    points = [
        (100 * dependency["value"], 100 * improvement["value"], column["heading"])
        for column in comparison["columns"]
        if (dependency := comparison["dependency"][column["key"]]) is not None
        and (improvement := improvements[column["key"]]) is not None
    ]
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
