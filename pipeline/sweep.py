"""`svco sweep DIR`: how many pairs other thresholds would keep, from a folder's stored scores.

Reads no picture and needs neither Ray nor torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.core.progress import say, summary_table
from pipeline.core.recipe import UserError
from pipeline.core.schema import read_manifest
from pipeline.pages.page import PageSection, figure_svg, render_page
from pipeline.selection.stored import read_scores
from pipeline.selection.sweep import (
    Axis,
    Sweep,
    axis_names,
    sweep_figure,
    sweeps,
)


def _print(sweep: Sweep) -> None:
    def shown(axis: Axis, edge: float) -> str:
        return f"{edge:g}{' *' if edge == axis.own else ''}"

    rows = [
        [shown(sweep.x, edge), *(f"{count:,}" for count in line)]
        for edge, line in zip(sweep.x.edges, sweep.counts, strict=True)
    ]
    title = f"{sweep.title}; kept by {sweep.x.name} (down) and {sweep.y.name} (across)"
    summary_table(title, ["", *(shown(sweep.y, edge) for edge in sweep.y.edges)], rows)


def write_page(parts: Sequence[Sweep], lead: str, name: str, path: Path) -> None:
    """Writes the heat maps as one self-contained page."""
    sections = [PageSection(sweep.title, figure_svg(sweep_figure(sweep))) for sweep in parts]
    try:
        render_page(f"Thresholds: {name}", sections, path, lead)
    except OSError as error:
        raise UserError(
            f"out={path}: cannot be written ({error.strerror}); choose another file with --out"
        ) from error


def _numbers(given: str, option: str) -> list[float]:
    try:
        numbers = [float(number) for number in given.split(",") if number.strip()]
    except ValueError:
        numbers = [float("nan")]
    if not np.isfinite(numbers).all():
        raise UserError(
            f"{option} {given!r}: expected numbers between commas, for example 0.6,0.7,0.8"
        )
    return numbers


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A finished MVC folder.")],
    x: Annotated[
        str | None,
        typer.Option(
            help="Bound that is varied downwards in the table, for example clip_image_cos.min."
        ),
    ] = None,
    y: Annotated[
        str | None,
        typer.Option(help="Bound that is varied across, for example dinov2_image_cos.max."),
    ] = None,
    x_values: Annotated[
        str,
        typer.Option(help="Its values, for example 0.6,0.7,0.8; otherwise --steps quantiles."),
    ] = "",
    y_values: Annotated[str, typer.Option(help="The same for --y.")] = "",
    steps: Annotated[
        int, typer.Option(min=2, max=50, help="Number of values where none are given.")
    ] = 11,
    out: Annotated[
        Path | None, typer.Option(help="The page to write; by default DIR/sweep.html.")
    ] = None,
) -> None:
    """Show how many pairs other thresholds would keep, per category, from the stored scores."""
    columns, section = read_scores(folder)
    edges = _numbers(x_values, "--x-values"), _numbers(y_values, "--y-values")
    parts = sweeps(columns, section, axis_names(columns, x, y), steps=steps, edges=edges)
    for sweep in parts:
        _print(sweep)
    lead = (
        f"{parts[0].num_pairs:,} of {len(columns['category']):,} pairs that reached selection are"
        " judged by these bounds"
    )
    if any(axis.own is not None for sweep in parts for axis in (sweep.x, sweep.y)):
        lead += "; the build's own bounds are marked (*, in the page framed)"
    path = out or folder / "sweep.html"
    write_page(parts, f"{lead}.", str(read_manifest(folder).get("name", folder.name)), path)
    say(f"{lead}.\npage    {path}")
