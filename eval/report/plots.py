"""The pictures of the report: scores by category, and where margins lie. Values in, figures out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.inputs import Role
from eval.pairs.arrays import ModelScores
from eval.pairs.measures import MEASURES
from eval.pairs.paired_scores import margins

COLORS: dict[Role, str] = {"before": "#9aa5b4", "after": "#1f5fbf"}
BARS = ("text_score", "image_score", "group_score", "side_accuracy")
MARGINS = {
    "matching_contradictory": "matching over contradictory",
    "matching_none": "matching over none",
    "none_contradictory": "none over contradictory",
}


def category_bars(
    by_category: Mapping[str, Mapping[str, Any]], names: Mapping[Role, str]
) -> Figure:
    """Paired scores and side accuracy per category with intervals; the dashed line is chance."""
    categories = list(by_category)
    figure = Figure(figsize=(11, 1.1 + 0.5 * len(categories)), layout="constrained")
    panels = figure.subplots(1, len(BARS), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, BARS, strict=True):
        for offset, role in zip((0.19, -0.19) if len(names) > 1 else (0.0,), names, strict=True):
            _bars(
                axes,
                np.arange(len(categories))[::-1] + offset,
                [by_category[category][key][role] for category in categories],
                COLORS[role],
                names[role],
            )
        chance = MEASURES[key].chance
        if chance is not None:
            axes.axvline(chance, color="#b3261e", linewidth=0.9, linestyle="--")
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        _clean(axes, MEASURES[key].label)
    panels[0].set_yticks(np.arange(len(categories))[::-1], categories)
    _legend(figure, panels[0], 2)
    return figure


def _bars(
    axes: Axes,
    places: "np.ndarray[Any, Any]",
    numbers: Sequence[Mapping[str, Any]],
    color: str,
    label: str,
    height: float = 0.36,
) -> None:
    axes.barh(
        places, [number["value"] for number in numbers], height=height, color=color, label=label
    )
    for place, number in zip(places, numbers, strict=True):
        if number["low"] is not None:
            axes.plot([number["low"], number["high"]], [place] * 2, color="#1c2430", linewidth=1)


def _legend(figure: Figure, axes: Axes, num_columns: int) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=num_columns,
        frameon=False,
        fontsize=9,
    )


def margin_histograms(
    model_scores: Mapping[Role, ModelScores], names: Mapping[Role, str]
) -> Figure:
    """How the three margins of single texts are distributed, in nats; right of 0 is right."""
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    panels = figure.subplots(1, len(MARGINS), squeeze=False)[0]
    for axes, (name, label) in zip(panels, MARGINS.items(), strict=True):
        values = {
            role: getattr(margins(scores.logps_P32), f"{name}_P2").ravel()
            for role, scores in model_scores.items()
        }
        # a few far ones would hide the rest
        low, high = np.quantile(np.concatenate(list(values.values())), [0.005, 0.995])
        edges = np.linspace(min(low, -0.1), max(high, 0.1), 41)
        for role, of_role in values.items():
            axes.hist(
                np.clip(of_role, edges[0], edges[-1]),
                bins=list(edges),
                color=COLORS[role],
                alpha=0.65,
                label=names[role],
                density=True,
            )
        axes.axvline(0, color="#1c2430", linewidth=0.9)
        axes.set_xlabel("nats", fontsize=9)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _clean(axes, label)
    _legend(figure, panels[0], 2)
    return figure


def _clean(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def slices_of(
    image: Mapping[str, Any], names: Mapping[Role, str]
) -> dict[str, dict[str, dict[Role, Any]]]:
    """Metrics named "kind/slice" by kind and slice.

    Of kinds with at least two slices that both models have numbers for.
    """
    kinds: dict[str, dict[str, dict[Role, Any]]] = {}
    for key in image["after"]["metrics"]:
        kind, slash, slice_name = key.partition("/")
        numbers = {role: image[role]["metrics"].get(key) for role in names}
        if slash and all(numbers.values()):
            kinds.setdefault(kind, {})[slice_name] = numbers
    return {kind: slices for kind, slices in kinds.items() if len(slices) > 1}


def slice_bars(
    title: str, slices: Mapping[str, Mapping[Role, Any]], names: Mapping[Role, str]
) -> Figure:
    """One score per slice of a benchmark with intervals; a red mark is chance, if known."""
    figure = Figure(figsize=(5.4, 0.9 + 0.42 * len(slices)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(slices))[::-1].astype(float)
    for offset, role in zip((0.19, -0.19) if len(names) > 1 else (0.0,), names, strict=True):
        _bars(
            axes,
            places + offset,
            [of_slice[role] for of_slice in slices.values()],
            COLORS[role],
            names[role],
        )
    for place, of_slice in zip(places, slices.values(), strict=True):
        chance = of_slice["after"]["chance"]
        if chance is not None:
            axes.plot([chance] * 2, [place - 0.4, place + 0.4], color="#b3261e", linewidth=1.2)
    axes.set_yticks(places, list(slices))
    _score_axis(axes, str(next(iter(slices.values()))["after"]["unit"]))
    _clean(axes, title)
    return figure


def _score_axis(axes: Axes, unit: str) -> None:
    if unit == "share":
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    else:
        axes.set_xlim(left=0)


CONDITION_COLORS = {
    "image": "#1f5fbf",
    "none": "#9aa5b4",
    "blank": "#c3cad4",
    "shuffled": "#d99a4e",
    "counterpart": "#b3261e",
}


def condition_bars(
    results: Sequence[Mapping[str, Any]], names: Mapping[Role, str], conditions: Mapping[str, str]
) -> Figure:
    """The headline of every benchmark that is a share, under every condition; a panel per model."""
    shown = [
        result
        for result in results
        if (_headline(result, "image", "after") or {}).get("unit") == "share"
    ]
    used = [name for name in conditions if any(name in result["scores"] for result in shown)]
    figure = Figure(
        figsize=(11 if len(names) > 1 else 7.5, 1.1 + 0.14 * (len(used) + 1) * max(1, len(shown))),
        layout="constrained",
    )
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    centers = np.arange(len(shown))[::-1].astype(float)
    height = 0.8 / max(1, len(used))
    for axes, role in zip(panels, names, strict=True):
        for rank, condition in enumerate(used):
            numbers = [_headline(result, condition, role) for result in shown]
            is_known = np.array([number is not None for number in numbers], bool)
            known = [number for number in numbers if number is not None]
            places = centers[is_known] + 0.4 - height * (rank + 0.5)
            _bars(
                axes,
                places,
                known,
                CONDITION_COLORS[condition],
                conditions[condition],
                height * 0.92,
            )
        _score_axis(axes, "share")
        _clean(axes, names[role])
    panels[0].set_yticks(centers, [result["label"] for result in shown])
    _legend(figure, panels[-1], 5)
    return figure


def _headline(result: Mapping[str, Any], condition: str, role: Role) -> dict[str, Any] | None:
    of_role = result["scores"].get(condition, {}).get(role, {})
    return of_role.get("metrics", {}).get(result["headline"])


def improvement_plot(points: Sequence[Mapping[str, Any]], base: str = "the base") -> Figure:
    """What a model loses without an image against what another gains on it, a point per score.

    Both in % of the first one's score.
    """
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for point in points:
        across, up = point["dependency"], point["improvement"]
        for number, horizontal in ((across, True), (up, False)):
            if number["low"] is not None:
                ends = [100 * number["low"], 100 * number["high"]]
                fixed = [100 * (up if horizontal else across)["value"]] * 2
                axes.plot(
                    *((ends, fixed) if horizontal else (fixed, ends)), color="#9aa5b4", linewidth=1
                )
        axes.plot(
            100 * across["value"], 100 * up["value"], "o", color=COLORS["after"], markersize=6
        )
        axes.annotate(
            point["label"],
            (100 * across["value"], 100 * up["value"]),
            textcoords="offset points",
            xytext=(7, 5),
            fontsize=9,
        )
    axes.axhline(0, color="#1c2430", linewidth=0.8)
    axes.set_xlabel(f"{base} without an image loses, % of its score", fontsize=9)
    axes.set_ylabel(f"gain over {base}, % of its score", fontsize=9)
    axes.tick_params(labelsize=9, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
