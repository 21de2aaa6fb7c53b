"""The report's part on scores: histograms with the bounds in force, and what others would keep."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.core.recipe import UserError
from pipeline.core.schema import CAPTION_MARGIN_SUM, CATEGORIES
from pipeline.pages.page import figure_svg, html_table, paragraph, plots, subsection
from pipeline.report.margins import margin_shares, margins_html
from pipeline.report.rows import Mask, Rows
from pipeline.selection.rules import Columns, ScoreBound, SelectionSection, score_of
from pipeline.selection.sweep import axis_names, sweep_figure, sweeps

KEPT_COLOR, DROPPED_COLOUR, BOUND_COLOUR = "#1f5fbf", "#b4becc", "#b3261e"
NUM_BINS = 60


def scores_html(rows: Rows, bounds: Sequence[ScoreBound]) -> Markup:
    """Histograms and quantiles of every score that was computed, with the bounds in force."""
    scores, kept = with_margin_sum(rows.scores()), rows.kept
    if not scores:
        return paragraph("No row reached scoring.")
    figures = [figure_svg(histogram(values, kept, name, bounds)) for name, values in scores.items()]
    columns = ["score", "scored", "kept: 5 %", "median", "95 %", "dropped: 5 %", "median", "95 %"]
    numbers = [
        [name, f"{np.isfinite(v).sum():,}", *_quantiles(v[kept]), *_quantiles(v[~kept])]
        for name, v in scores.items()
    ]
    rules = [
        [bound.score, _of(bound), *("" if b is None else f"{b:g}" for b in (bound.min, bound.max))]
        for bound in bounds
    ]
    stated = (
        html_table(["score", "of", "at least", "at most"], rules)
        if rules
        else paragraph("The recipe sets no bound on a score.")
    )
    quantiles = subsection("Quantiles", html_table(columns, numbers))
    margins = margins_html(margin_shares(rows.scores(), rows.groups()))
    return plots(figures) + margins + quantiles + subsection("Bounds", stated)


def with_margin_sum(scores: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The scores, and the sum of both caption margins where they were made."""
    if "caption_margin_a" not in scores or "caption_margin_b" not in scores:
        return scores
    return scores | {CAPTION_MARGIN_SUM: score_of(scores, CAPTION_MARGIN_SUM)}


def thresholds_html(columns: Columns, section: SelectionSection) -> Markup:
    """How many pairs other thresholds on the first two scores would keep, as a heat map.

    Args:
        columns: What `pipeline.selection.stored.read_scores` reads.
    """
    try:
        everything = sweeps(columns, section, axis_names(columns, None, None))[0]
    except UserError as error:  # every pair left for another reason, or is exempt
        return paragraph(f"No heat map: {error}.")
    note = (
        f"How many each pair of thresholds keeps ({everything.title}); this build's own are framed."
        " svco sweep shows the same for each category and for other scores."
    )
    return figure_svg(sweep_figure(everything)) + paragraph(note)


def histogram(
    values_N: NDArray[np.float64], kept_N: Mask, name: str, bounds: Sequence[ScoreBound]
) -> Any:
    """How a score is distributed over kept and dropped candidates, its bounds as lines.

    Args:
        values_N: One per candidate, NaN where it was not scored.
        bounds: Those on other scores are left out.
    """
    from matplotlib.figure import Figure

    scored_N = np.isfinite(values_N)
    low, high = float(values_N[scored_N].min()), float(values_N[scored_N].max())
    parts = [
        ("kept", values_N[scored_N & kept_N], KEPT_COLOR),
        ("dropped", values_N[scored_N & ~kept_N], DROPPED_COLOUR),
    ]
    labels, values, colours = zip(*(part for part in parts if part[1].size), strict=True)
    figure = Figure(figsize=(6.0, 2.3))
    axes = figure.add_subplot()
    edges = list(np.linspace(low, max(high, low + 1e-3), NUM_BINS + 1))
    axes.hist(values, bins=edges, stacked=True, color=colours, label=labels)
    for bound in bounds:
        for word, cut in (("min", bound.min), ("max", bound.max)):
            if bound.score == name and cut is not None:
                axes.axvline(
                    cut, color=BOUND_COLOUR, linewidth=1.2, label=f"{word} {cut:g} ({_of(bound)})"
                )
    axes.set_title(name, loc="left", fontsize=10)
    axes.set_ylabel("pairs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False,
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.14),
        ncols=4,
        columnspacing=1.2,
        handlelength=1.4,
    )
    return figure


def _of(bound: ScoreBound) -> str:
    others = [category for category in CATEGORIES if category not in bound.categories]
    if len(others) < len(bound.categories):
        return f"all but {', '.join(others)}" if others else "all"
    return ", ".join(bound.categories)


def _quantiles(values: NDArray[np.float64]) -> list[str]:
    scored = values[np.isfinite(values)]
    return (
        [f"{value:.3f}" for value in np.quantile(scored, [0.05, 0.5, 0.95])]
        if scored.size
        else ["-"] * 3
    )
