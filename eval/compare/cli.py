"""`svco compare`: finished evaluations side by side, and which differences are more than luck."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from eval.compare.comparison import Comparison, compare_runs, difference_rows, score_rows
from pipeline.core.progress import say, summary_table
from pipeline.core.recipe import RecipeError


def labels_of(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: the last parts of its path that tell it from the others.

    runs/base, runs/svco -> base, svco;  base/eval, svco/eval -> base/eval, svco/eval
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise RecipeError("the same folder is given twice; expected different evaluations")
    named = (["/".join(names[-depth:]) for names in parts] for depth in itertools.count(1))
    return next(names for names in named if len(set(names)) == len(names))


def comparison_of(
    folders: Sequence[Path], *, num_draws: int, confidence: float, seed: int
) -> Comparison:
    """The comparison of the models in these folders; the others are compared with the first.

    That is the model from which the first folder's was finetuned, where that folder holds both,
    otherwise the first folder's own.

    Raises:
        UserError: Folders that cannot be compared.
    """
    from eval.compare.runs import read_runs

    by_folder = [
        read_runs(folder, label) for folder, label in zip(folders, labels_of(folders), strict=True)
    ]
    runs = [*by_folder[0][1:], *(of_folder[0] for of_folder in by_folder)]
    comparison = compare_runs(runs, num_draws=num_draws, confidence=confidence, seed=seed)
    bases = {of_folder[1].model for of_folder in by_folder if len(of_folder) > 1}
    if len(bases) > 1:
        comparison["notes"].append(
            f"the models were finetuned from different ones ({', '.join(sorted(bases))}); all are"
            f" compared with {runs[0].label}"
        )
    return comparison


def print_comparison(comparison: Comparison, confidence: float) -> None:
    """Both tables and the notes."""
    labels = [model["label"] for model in comparison["models"]]
    summary_table("Scores", *score_rows(comparison))
    for label in labels[1:]:
        summary_table(
            f"{label} minus {labels[0]}: points with {confidence:.0%} intervals, p by Holm over"
            " these scores",
            *difference_rows(comparison, label),
        )
    for label, shares in comparison["unreadable"].items():
        unread = ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share)
        if unread:
            say(f"{label}: answers that could not be read count as wrong: {unread}")
    for note in comparison["notes"]:
        say(f"note: {note}")


def run(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR [DIR ...]", help="Folders of finished evaluations; the first is the base."
        ),
    ],
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 4_000,
    confidence: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Of the intervals, and 1 - the level of the tests."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Also write everything to this file.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write a page (HTML) to this file.")
    ] = None,
) -> None:
    """Print the scores of several evaluations and which differences are more than luck."""
    from pipeline.core.storage import write_json

    comparison = comparison_of(folders, num_draws=draws, confidence=confidence, seed=seed)
    print_comparison(comparison, confidence)
    if json is not None:
        write_json(json, comparison)
    if page is not None:
        from eval.compare.page import write_comparison_page

        write_comparison_page(comparison, confidence, page)
