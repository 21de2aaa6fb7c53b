"""What a person sees while a job runs: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column, Table

LOG_EVERY_S = 10.0


def console() -> Console:
    """The terminal for progress and tables: standard error, as standard output is for results."""
    # A log file has no width of its own; 120 keeps tables whole.
    return Console(
        stderr=True, highlight=False, soft_wrap=False, width=None if sys.stderr.isatty() else 120
    )


def say(text: str) -> None:
    """Prints one plain line at once, also into a log."""
    console().print(text, markup=False, soft_wrap=True)


class Progress:
    """Counts `total` units of work.

    with Progress("embed", 100, "images") as progress:
        progress.advance(8, loss=0.1)
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self._done = 0
        self._started_s = self._logged_s = time.monotonic()
        self._first: tuple[float, int] | None = None  # when work was first reported, and how much
        self._console = console()
        self._bar = (
            Bar(
                TextColumn("[bold]{task.description:<22}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
                console=self._console,
            )
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, facts="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            elapsed_s = time.monotonic() - self._started_s
            say(f"{self.title}: {self._done} {self.unit} in {elapsed_s:.1f} s")

    def advance(self, n: int = 1, **facts: float | str) -> None:
        """Reports `n` more units done, with facts to show beside them (numbers are shortened)."""
        self._done += n
        shown = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in facts.items()
        )
        if self._bar is not None:
            self._bar.update(self._task, advance=n, facts=shown)
            return
        now_s = time.monotonic()
        self._first = self._first or (now_s, self._done)
        if now_s - self._logged_s >= LOG_EVERY_S and self._done < self.total:
            self._logged_s = now_s
            # The pace since the first report: what came before it loaded models, or counted the
            # work of an earlier run.
            since_s, before = self._first if self._done > self._first[1] else (self._started_s, 0)
            s_per_unit = (now_s - since_s) / max(self._done - before, 1)
            say(
                f"{self.title}: {self._done}/{self.total} {self.unit}, about"
                f" {s_per_unit * (self.total - self._done):.0f} s left  {shown}".rstrip()
            )


def summary_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with a title; the first column is left-aligned, the others right-aligned."""
    headers = [
        Column(name, justify="right" if index else "left", overflow="fold")
        for index, name in enumerate(columns)
    ]
    table = Table(
        *headers, title=title, title_justify="left", title_style="bold", header_style="bold"
    )
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)
