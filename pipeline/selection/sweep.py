"""`svco sweep DIR`: how many pairs other thresholds would keep, from stored scores.

Reads no picture and needs neither Ray nor torch. Which pairs are counted, and why:
`stored.swept_rows`.
"""

# Shapes: N pairs, X and Y thresholds of the two axes.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.core.recipe import UserError
from pipeline.core.schema import BOUNDED_SCORES, CATEGORIES, DECIMALS, SCORE_COLUMNS
from pipeline.selection.rules import (
    Columns,
    ScoreBound,
    SelectionSection,
    resolved_bounds,
    score_of,
)
from pipeline.selection.stored import swept_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scores = NDArray[np.float64]

# DINOv2 sees the detail in which a minimal contrast differs; by every other score more alike, or
# truer, is better.
_USUAL_SIDE = {"dinov2_image_cos": "max"}


@dataclass(frozen=True, slots=True)
class Axis:
    """A bound that is varied: the `side` ("min" or "max") of a score, over ascending `edges`.

    `own` is the build's bound.
    """

    score: str
    side: str
    edges: Scores
    own: float | None = None

    @property
    def name(self) -> str:
        """As a recipe names it: clip_image_cos.min."""
        return f"{self.score}.{self.side}"


def sweep_grid(x_N: Scores, y_N: Scores, x: Axis, y: Axis) -> NDArray[np.int64]:
    """How many pairs each pair of thresholds keeps, [X, Y].

    Bounds are inclusive; a null score (NaN) keeps no bound.

        x 0.6, 0.8 with edges 0.5, 0.7 (min); y 0.1, 0.9 with edge 0.5 (max)  ->  [[1], [0]]

    Each pair is counted once, at the strictest threshold that it meets on both axes; sums towards
    the lax side do the rest.
    """
    counts = np.zeros((len(x.edges) + 1, len(y.edges) + 1), np.int64)
    np.add.at(counts, (_strictest(x_N, x), _strictest(y_N, y)), 1)
    lax_last = counts[:-1, :-1].cumsum(0).cumsum(1)
    return lax_last[:: 1 if x.side == "max" else -1, :: 1 if y.side == "max" else -1]


def _strictest(values_N: Scores, axis: Axis) -> NDArray[np.int64]:
    """The place, counted from the strictest edge, of the first that each value meets.

    Beyond the last edge if there is none, as for NaN, which sorts last.
    """
    sign = 1 if axis.side == "max" else -1
    return np.searchsorted(np.sort(sign * axis.edges), sign * values_N)


def make_axis(
    columns: Columns,
    name: str,
    *,
    steps: int = 11,
    edges: Sequence[float] = (),
    own: float | None = None,
) -> Axis:
    """An axis over given thresholds, or `steps` of them that part the pairs evenly.

    Quantiles, so that every step decides on as many pairs; the lowest score and the highest are
    among them, and the build's own bound.

    Args:
        name: A score, or a score and its side ("clip_image_cos.min").

    Raises:
        UserError: Not a score, not a side, or no pair has this score.
    """
    score, _, side = _full_name(name).partition(".")
    if score not in BOUNDED_SCORES or side not in ("min", "max"):
        raise UserError(
            f"axis {name!r}: expected SCORE, SCORE.min or SCORE.max, where SCORE is one of"
            f" {', '.join(BOUNDED_SCORES)}"
        )
    values = score_of(columns, score)
    known = values[~np.isnan(values)]
    if not edges and not known.size:
        raise UserError(f"axis {name!r}: no pair that was judged by its scores has this one")
    wanted = edges or np.quantile(known, np.linspace(0.0, 1.0, steps)).tolist()
    rounded = np.round(wanted, DECIMALS) + 0.0  # no -0
    return Axis(score, side, np.unique([*rounded, *([] if own is None else [own])]), own)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The counted pairs of one part of the rows (all of them, or one category) and their grid."""

    name: str
    num_pairs: int
    x: Axis
    y: Axis
    counts: NDArray[np.int64]

    @property
    def title(self) -> str:
        """The part and its size."""
        return f"{self.name}: {self.num_pairs:,} pairs judged"


def sweep_figure(sweep: Sweep) -> "Figure":
    """A heat map of how many pairs each pair of thresholds keeps, the build's own framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    x, y, counts_YX = sweep.x, sweep.y, sweep.counts.T
    figure = Figure(figsize=(1.6 + 0.62 * len(x.edges), 1.4 + 0.36 * len(y.edges)))
    axes = figure.add_subplot(xlabel=x.name, ylabel=y.name)
    axes.imshow(counts_YX, origin="lower", aspect="auto", cmap="Blues", vmin=0)
    for (row, column), count in np.ndenumerate(counts_YX):
        axes.text(
            column,
            row,
            f"{count:,}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if count > 0.5 * counts_YX.max() else "#1c2430",
        )
    axes.set_xticks(range(len(x.edges)), [f"{edge:g}" for edge in x.edges], rotation=45, fontsize=8)
    axes.set_yticks(range(len(y.edges)), [f"{edge:g}" for edge in y.edges], fontsize=8)
    axes.spines[:].set_visible(False)
    (left, width), (bottom, height) = (
        (-0.5, len(axis.edges))
        if axis.own is None
        else (float(np.searchsorted(axis.edges, axis.own)) - 0.5, 1)
        for axis in (x, y)
    )
    if x.own is not None or y.own is not None:
        axes.add_patch(
            Rectangle(
                (left, bottom),
                width,
                height,
                fill=False,
                edgecolor="#b3261e",
                linewidth=1.6,
                clip_on=False,
            )
        )
    return figure


def own_bound(bounds: Sequence[ScoreBound], axis: str, categories: Iterable[str]) -> float | None:
    """The build's bound on an axis where all categories have the same one, else None."""
    score, _, side = axis.partition(".")
    bounds = [bound for bound in bounds if bound.score == score]
    limits = {
        next((getattr(bound, side) for bound in bounds if category in bound.categories), None)
        for category in categories
    }
    return limits.pop() if len(limits) == 1 else None


def axis_names(columns: Columns, x: str | None, y: str | None) -> tuple[str, str]:
    """Both axes in full: as given, else the first two scores, or both sides of the only one.

    Raises:
        UserError: There is no score at all.
    """
    there = [score for score in SCORE_COLUMNS if not np.isnan(columns[score]).all()]
    if not there:
        raise UserError("no pair reached selection, so there is no score to sweep")
    usual = (
        [_full_name(score) for score in there]
        if len(there) > 1
        else [f"{there[0]}.min", f"{there[0]}.max"]
    )
    across = _full_name(x) if x else next(name for name in usual if not y or name != _full_name(y))
    return across, _full_name(y) if y else next(name for name in usual if name != across)


def _full_name(axis: str) -> str:
    return f"{axis}.{_USUAL_SIDE.get(axis, 'min')}" if axis in BOUNDED_SCORES else axis


def sweeps(
    columns: Columns,
    section: SelectionSection,
    names: tuple[str, str],
    *,
    steps: int = 11,
    edges: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> list[Sweep]:
    """The grid of all counted rows, then of each category, over the same thresholds.

    The build's own for that part are added.

    Raises:
        UserError: An axis that cannot be swept.
    """
    bounds, counted = resolved_bounds(columns, section), swept_rows(columns, section, names)
    columns = {name: values[counted] for name, values in columns.items()}
    present = [category for category in CATEGORIES if (columns["category"] == category).any()]
    lax = [
        make_axis(columns, name, steps=steps, edges=given)
        for name, given in zip(names, edges, strict=True)
    ]
    parts = []
    for title, categories in [("all", present), *((category, [category]) for category in present)]:
        part = {
            name: values[np.isin(columns["category"], categories)]
            for name, values in columns.items()
        }
        x, y = (
            make_axis(
                part,
                axis.name,
                edges=axis.edges.tolist(),
                own=own_bound(bounds, axis.name, categories),
            )
            for axis in lax
        )
        counts = sweep_grid(score_of(part, x.score), score_of(part, y.score), x, y)
        parts.append(Sweep(title, len(part["category"]), x, y, counts))
    return parts
