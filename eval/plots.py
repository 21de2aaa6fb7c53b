"""The pictures of the report: scores by category and where the margins lie. Values in, matplotlib figures out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.grounding import margins
from eval.items import Role
from eval.measures import MEASURES
from eval.views import View

COLOURS: dict[Role, str] = {"before": "#9aa5b4", "after": "#1f5fbf"}
BARS = ("text_score", "image_score", "group_score", "side_accuracy")
MARGINS = {
    "matching_contradictory": "matching over contradictory",
    "matching_none": "matching over none",
    "none_contradictory": "none over contradictory",
}


def category_bars(by_category: Mapping[str, Mapping[str, Any]], names: Mapping[Role, str]) -> Figure:
    """Paired scores and side accuracy per category with intervals; the dashed line is chance."""
    categories = list(by_category)
    figure = Figure(figsize=(11, 1.1 + 0.5 * len(categories)), layout="constrained")
    panels = figure.subplots(1, len(BARS), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, BARS, strict=True):
        for offset, role in zip((0.19, -0.19) if len(names) > 1 else (0.0,), names, strict=True):
            numbers = [by_category[category][key][role] for category in categories]
            _bars(axes, np.arange(len(categories))[::-1] + offset, numbers, role, names[role])
        chance = MEASURES[key].chance
        if chance is not None:
            axes.axvline(chance, color="#b3261e", linewidth=0.9, linestyle="--")
        axes.set_title(MEASURES[key].label, fontsize=10, loc="left")
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        _clean(axes)
    panels[0].set_yticks(np.arange(len(categories))[::-1], categories)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def _bars(axes: Axes, positions: "np.ndarray[Any, Any]", numbers: list[dict[str, Any]], role: Role, name: str) -> None:
    values = [number["value"] for number in numbers]
    axes.barh(positions, values, height=0.36, color=COLOURS[role], label=name)
    for position, number in zip(positions, numbers, strict=True):
        if number["low"] is not None:
            axes.plot([number["low"], number["high"]], [position] * 2, color="#1c2430", linewidth=1)


def margin_histograms(views: Mapping[Role, View], names: Mapping[Role, str]) -> Figure:
    """How the three margins of single texts are distributed, in nats; right of the line is right."""
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    panels = figure.subplots(1, len(MARGINS), squeeze=False)[0]
    for axes, (name, label) in zip(panels, MARGINS.items(), strict=True):
        values = {role: getattr(margins(view.logps_P32), f"{name}_P2").ravel() for role, view in views.items()}
        low, high = np.quantile(np.concatenate(list(values.values())), [0.005, 0.995])  # a few far ones would hide the rest
        edges = np.linspace(min(low, -0.1), max(high, 0.1), 41)
        for role, of_role in values.items():
            held = np.clip(of_role, edges[0], edges[-1])
            axes.hist(held, bins=list(edges), color=COLOURS[role], alpha=0.65, label=names[role], density=True)
        axes.axvline(0, color="#1c2430", linewidth=0.9)
        axes.set_title(label, fontsize=10, loc="left")
        axes.set_xlabel("nats", fontsize=9)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _clean(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def _clean(axes: Axes) -> None:
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
