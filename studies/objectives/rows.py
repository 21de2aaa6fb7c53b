"""The study's results file: one line per finished run, appended whole, found again by key and
fingerprint.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.objectives.plan import setting_of
from studies.objectives.run import Run

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows; a last line that a kill has cut off is left out. Of rows with one key the last
    counts.
    """
    if not path.is_file():
        return []
    rows: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            row = json.loads(line)
            rows[row["key"]] = row
    return list(rows.values())


def append_row(path: Path, row: Row) -> None:
    """Adds a row in one write, after mending a line that a kill has cut off."""
    line = json.dumps(row, separators=(",", ":")) + "\n"
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def missing(runs: Iterable[Run], rows: Sequence[Row], worlds: Mapping[str, Row]) -> list[Run]:
    """The runs that have no row, or a stale one: of another world, other settings or another
    version of the study.
    """
    done = {(row["key"], row["fingerprint"]) for row in rows}
    return [
        run
        for run in runs
        if (run.key, run.fingerprint(worlds[run.world]["fingerprint"])) not in done
    ]


def split_stale(
    rows: Sequence[dict[str, Any]], worlds: Mapping[str, Row]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the worlds as they are now, and the keys of the others, which are not used."""
    fresh, stale = [], []
    for row in rows:
        names = ("world", "stage", "train", "measured", "objective", "seed", "steps")
        run = Run(
            **{name: row[name] for name in names},
            setting=setting_of(row) if row["setting"] else None,
        )
        known = row["world"] in worlds and row["fingerprint"] == run.fingerprint(
            worlds[row["world"]]["fingerprint"]
        )
        fresh.append(row) if known else stale.append(row["key"])
    return fresh, stale
