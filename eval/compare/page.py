"""A comparison as one self-contained page; computes nothing that it shows."""

from pathlib import Path

from matplotlib.figure import Figure

from eval.compare.comparison import Comparison, Pairing
from eval.compare.tables import difference_rows, family_of, score_rows, title_of
from eval.report.plots import improvement_plot
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
    remark = (
        f"Differences of shares are in percentage points, with {show_share(confidence, 0)}"
        " intervals over pairs, images or people. The test is McNemar's where every question"
        " stands alone, otherwise signs of whole pairs, images or people are flipped;"
        f" {family_of(comparison)}."
    )
    scores = html_table(*score_rows(comparison)) + paragraph(remark) + notes
    sections = [PageSection("Scores", scores)]
    for pairing in comparison["pairings"]:
        figures = [forest(comparison, pairing), *dependency_plots(comparison, pairing)]
        html = plots([figure_svg(figure) for figure in figures])
        html += html_table(*difference_rows(comparison, pairing))
        sections.append(PageSection(title_of(pairing), html))
    unread = comparison["unreadable"]
    names = list(unread[labels[0]])
    rows = [[label, *(show_share(unread[label][name]) for name in names)] for label in labels]
    sections.append(
        PageSection("Answers that could not be read", html_table(["model", *names], rows))
    )
    lead = "; ".join(f"{model['label']}: {model['model']}" for model in comparison["models"])
    render_page("Comparison", sections, path, lead)


def forest(comparison: Comparison, pairing: Pairing) -> Figure:
    """One line per score that is a share: its difference in points, and whether it may be luck."""
    differences = pairing["differences"]
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


def dependency_plots(comparison: Comparison, pairing: Pairing) -> list[Figure]:
    """Improvement against dependency on the image where the first model is subtracted.

    A point per score; no plot of fewer than two.
    """
    if pairing["subtrahend"] != comparison["models"][0]["label"]:
        return []
    improvements = comparison["improvement"][pairing["minuend"]]
    points = [
        {"label": column["heading"], "dependency": dependency, "improvement": improvement}
        for column in comparison["columns"]
        if (dependency := comparison["dependency"].get(column["key"])) is not None
        and (improvement := improvements[column["key"]]) is not None
    ]
    return [improvement_plot(points, base=pairing["subtrahend"])] if len(points) > 1 else []
