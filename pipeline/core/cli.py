"""What all commands share: options, and how a command ends."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.recipe import UserError

# What every job takes.
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
