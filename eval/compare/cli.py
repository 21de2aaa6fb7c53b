"""`svco compare`: finished evaluations side by side, and which differences are more than luck."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from eval.compare.comparison import Comparison, compare_runs
from eval.compare.runs import Run, read_runs
from eval.compare.tables import difference_rows, family_of, score_rows, title_of
from eval.stats.significance import NUM_FLIPS
from pipeline.core.progress import say, summary_table
from pipeline.core.recipe import RecipeError
from pipeline.pages.numbers import show_share


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
    folders: Sequence[Path], *, against: str = "", num_draws: int, confidence: float, seed: int
) -> Comparison:
    """The comparison of the models in these folders: of every two, and of each with its base.

    Args:
        against: The label of the only one to compare the others with.

    Raises:
        UserError: Folders that cannot be compared, or no model of that name.
    """
    by_folder = [
        read_runs(folder, label) for folder, label in zip(folders, labels_of(folders), strict=True)
    ]
    named = [of_folder[0] for of_folder in by_folder]
    base_of = bases_of(by_folder)
    bases = {run.label: run for run in base_of.values() if run not in named}
    runs = [*bases.values(), *named]
    pairs = [(later.label, earlier.label) for earlier, later in itertools.combinations(named, 2)]
    pairs += [(label, base.label) for label, base in base_of.items()]
    if against:
        one = next((run for run in runs if run.label == against), None)
        if one is None:
            labels = ", ".join(repr(run.label) for run in runs)
            raise RecipeError(f"--against {against!r}: expected one of {labels}")
        others = [run for run in named if run is not one]
        runs = [one, *(others or bases.values())]
        pairs = [(run.label, against) for run in runs[1:]]
    comparison = compare_runs(
        runs, list(dict.fromkeys(pairs)), num_draws=num_draws, confidence=confidence, seed=seed
    )
    if len(bases) > 1 and not against:
        comparison["notes"].append(
            f"the models were finetuned from different ones ({', '.join(sorted(bases))}); the"
            f" average and the dependency on the image are those of {runs[0].label}"
        )
    return comparison


def bases_of(by_folder: Sequence[Sequence[Run]]) -> dict[str, Run]:
    """The run of the model that each one was finetuned from, by label; one for all that share it.

    A named folder may be that of the base.
    """
    known = {of_folder[0].model: of_folder[0] for of_folder in by_folder if of_folder[0].model}
    bases = {}
    for named, *base in by_folder:
        for run in base:
            bases[named.label] = known.setdefault(run.model, run) if run.model else run
    return bases


def print_comparison(comparison: Comparison, confidence: float) -> None:
    """The tables and the notes."""
    summary_table("Scores", *score_rows(comparison))
    points = f"differences in points with {show_share(confidence, 0)} intervals"
    say(f"{points}; {family_of(comparison)}")
    for pairing in comparison["pairings"]:
        summary_table(title_of(pairing), *difference_rows(comparison, pairing))
    for label, shares in comparison["unreadable"].items():
        unread = ", ".join(f"{name} {show_share(share)}" for name, share in shares.items() if share)
        if unread:
            say(f"{label}: answers that could not be read count as wrong: {unread}")
    for note in comparison["notes"]:
        say(f"note: {note}")


def run(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR [DIR ...]",
            help="Folders of finished evaluations: every two are compared, and each with its base.",
        ),
    ],
    against: Annotated[
        str,
        typer.Option(metavar="NAME", help="Compare the others with this one alone, by its label."),
    ] = "",
    draws: Annotated[
        int, typer.Option(min=100, help="Random sign flips where there are too many to try all.")
    ] = NUM_FLIPS,
    confidence: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Of the intervals, and 1 - the level of the tests."),
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the sign flips.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Also write everything to this file.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write a page (HTML) to this file.")
    ] = None,
) -> None:
    """Print the scores of several evaluations and which differences are more than luck."""
    from pipeline.core.storage import write_json

    comparison = comparison_of(
        folders, against=against, num_draws=draws, confidence=confidence, seed=seed
    )
    print_comparison(comparison, confidence)
    if json is not None:
        write_json(json, comparison)
    if page is not None:
        from eval.compare.page import write_comparison_page

        write_comparison_page(comparison, confidence, page)
