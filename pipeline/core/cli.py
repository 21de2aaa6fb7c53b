"""What all commands share: options, and how a command ends."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from pipeline.core.recipe import Section, UserError, load_recipe, resolved_yaml

Shape = TypeVar("Shape", bound=Section)

Recipe = Annotated[
    str,
    typer.Option("--recipe", help="A recipe: a YAML file, or the name of one that comes along."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value]...", help="Keys of the recipe, for example out=build/run."),
]
PrintRecipe = Annotated[
    bool, typer.Option("--print-recipe", help="Show the resolved recipe and stop.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]


def recipe_command(
    shape: type[Shape],
    default: str,
    about: str,
    *,
    work: Callable[[Shape], object],
    show_plan: Callable[[Shape], None],
) -> Callable[..., None]:
    """The command of a job that a recipe describes.

    Args:
        default: The recipe that is meant where none is named.
        about: What its help says.
        show_plan: Called in place of `work` by --dry-run.
    """

    def run(
        overrides: Overrides = None,
        recipe: Recipe = default,
        print_recipe: PrintRecipe = False,
        dry_run: DryRun = False,
    ) -> None:
        section = load_recipe(recipe, overrides or [], shape)
        if print_recipe:
            print(resolved_yaml(section), end="")
        elif dry_run:
            show_plan(section)
        else:
            work(section)

    run.__doc__ = about
    return run


def run_command(command: Callable[..., None]) -> None:
    """Runs a typed function as a command line; what a user can mend is one line on standard error
    and exit code 2.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        # its own guess is wrong for `python -m svco`
        app(prog_name=Path(sys.argv[0]).name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
