"""What the three job entry points share: a Ray session, and how a command ends. The one ground
module that knows Ray.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from pipeline.core.progress import say
from pipeline.core.recipe import UserError

# What every job takes besides its recipe and overrides.
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
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Ray while the body runs: the cluster that RAY_ADDRESS names, or one started here and ended
    afterwards.
    """
    # Read when Ray Train is imported: how often its controller looks at the workers, which each
    # report waits for.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    say("starting Ray (about 10 s)")
    # A cluster is joined where RAY_ADDRESS names it (inside a submitted job it does; "auto" finds
    # one on this machine). Without an address Ray would join any that happens to run here, a
    # stranger's test among them.
    named = os.environ.get("RAY_ADDRESS")
    options = {} if named else {"address": "local", "include_dashboard": False}
    ray.init(**options, log_to_driver=False, logging_level="ERROR")
    # Our own progress says what matters; Ray Data's plans and timings stay in its log file.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()
