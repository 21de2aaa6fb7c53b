#!/usr/bin/env python3
"""The paper's comparison where the truth is known: one base, eight objectives, two worlds, in
training's own kinds and beyond them.

    python studies/objectives/study.py                    # drawn scenes; about an hour on 2 cores
    python studies/objectives/study.py --photos FOLDER    # and hands: pairs.jsonl with images/
    python studies/objectives/study.py --report-only      # tables and plots of the rows at hand

Every finished run is a row of studies/objectives/results.jsonl: a second start goes on where the
first was stopped, and one that finds all rows makes the report alone. Worlds and bases are made
once, in build/study. `studies/objectives/worlds.py` says what they are,
`studies/objectives/plan.py` by which rules settings are chosen, `docs/results.md` what came out.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[0] = str(ROOT)  # a script's own folder comes first otherwise

from pipeline.core.progress import say  # noqa: E402
from pipeline.core.recipe import UserError  # noqa: E402
from pipeline.core.storage import read_json, write_json  # noqa: E402
from studies.objectives.plan import (  # noqa: E402
    CANDIDATES,
    OBJECTIVES,
    QUESTIONS,
    ablation_runs,
    base_runs,
    chosen_settings,
    test_runs,
    tune_runs,
)
from studies.objectives.rows import append_row, missing, read_rows, split_stale  # noqa: E402
from studies.objectives.run import Run, execute  # noqa: E402
from studies.objectives.worlds import World, hands_world, make_world, scenes_world  # noqa: E402

RESULTS, WORLDS = HERE / "results.jsonl", HERE / "worlds.json"
STAGES = ("worlds", "base", "tune", "test", "candidates", "ablations")


class Study:
    """The worlds at hand, where rows go, and how runs are made."""

    def __init__(self, options: argparse.Namespace, worlds: Sequence[World]) -> None:
        self.options, self.worlds, self.root = options, worlds, Path(options.build).resolve()
        self.facts: dict[str, Any] = read_json(WORLDS) if WORLDS.is_file() else {}
        self.results = Path(options.results)

    def make_worlds(self) -> None:
        """Makes what is missing of the worlds; notes their facts, and that they are what was
        committed.

        Raises:
            UserError: A world that was committed came out otherwise.
        """
        from studies.objectives.score import item_facts

        for world in self.worlds:
            made = make_world(world, self.root)
            noted = self.facts.get(world.name)
            if (
                noted is not None
                and noted["fingerprint"] != made["fingerprint"]
                and not self.options.new_worlds
            ):
                raise UserError(
                    f"{world.name}: the world made here is not the one of {WORLDS.name} (other"
                    " photographs, or changed recipes), so its rows would be stale; give"
                    " --new-worlds to note it, and all its runs are made anew"
                )
            prior = read_json(self.root / world.name / "base" / "prior.json")["favoured"]
            pairs = item_facts(self.root / world.name / "test", prior)
            self.facts[world.name] = {
                **made,
                "base": (noted or {}).get("base", {}),
                "test_pairs": pairs,
            }
        write_json(WORLDS, self.facts)

    def rows(self) -> list[dict[str, Any]]:
        """The rows that count; stale ones are named and not used."""
        fresh, stale = split_stale(read_rows(self.results), self.facts)
        if stale:
            say(
                f"{len(stale)} rows are stale (another world, setting or version) and not used, for"
                f" example {stale[0]}"
            )
        return fresh

    def run(self, runs: Sequence[Run], title: str) -> None:
        """Makes the rows that are missing, `--jobs` at a time."""
        todo = missing(runs, self.rows(), self.facts)
        say(f"{title}: {len(runs)} runs, {len(todo)} to make")
        started_s = time.monotonic()
        for number, row in enumerate(self._made(todo), 1):
            append_row(self.results, row)
            measures = row["measures"]["all"]
            left_s = (time.monotonic() - started_s) / number * (len(todo) - number)
            say(
                f"{number:4}/{len(todo)} {row['key']}:"
                f" hallucination {measures['hallucination']:.3f},"
                f" group {measures['group_score']:.3f}, {sum(row['seconds'].values()):.0f} s;"
                f" {left_s / 60:.0f} min left"
            )

    def _made(self, todo: Sequence[Run]) -> Iterator[dict[str, Any]]:
        options = self.options
        if options.jobs <= 1:
            yield from (
                execute(run, self.root, self.facts[run.world], options.device) for run in todo
            )
            return
        if not todo:
            return
        with ProcessPoolExecutor(
            min(options.jobs, len(todo)), multiprocessing.get_context("spawn")
        ) as pool:
            # A few ahead, so that an interrupted sweep ends after the runs in flight.
            waiting, running = list(todo), set[Any]()
            while waiting or running:
                while waiting and len(running) < options.jobs + 1:
                    run = waiting.pop(0)
                    running.add(
                        pool.submit(execute, run, self.root, self.facts[run.world], options.device)
                    )
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)

    def chosen(self, world: str, objectives: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The settings that won on validation, by question and objective."""
        rows = self.rows()
        return {
            name: {
                objective: setting
                for objective, (setting, _) in chosen_settings(
                    rows, world, objectives, of.chosen_on
                ).items()
            }
            for name, of in QUESTIONS.items()
        }


def stages_of(study: Study, only: Sequence[str]) -> None:
    """The sweep in its order: base, tune, test; then the candidates in the same way; then the
    ablations.
    """
    worlds = [world.name for world in study.worlds]
    if "base" in only:
        study.run([run for world in worlds for run in base_runs(world)], "base")
    for wanted, objectives in (("test", OBJECTIVES), ("candidates", tuple(CANDIDATES))):
        if wanted in only or (wanted == "test" and "tune" in only):
            study.run([run for world in worlds for run in tune_runs(world, objectives)], "settings")
        if wanted in only:
            runs = [
                run for world in worlds for run in test_runs(world, study.chosen(world, objectives))
            ]
            # Seed by seed over both worlds: a sweep that is stopped early has whole comparisons.
            study.run(sorted(runs, key=lambda run: run.seed), wanted)
    if "ablations" in only and "scenes" in worlds:
        svco = study.chosen("scenes", ("svco",))["all"].get("svco")
        if svco is not None:
            study.run(ablation_runs(svco), "ablations")


def note_bases(study: Study) -> None:
    """Writes what the bases measure beside the worlds' fingerprints."""
    for row in study.rows():
        if row["stage"] == "base":
            study.facts[row["world"]]["base"][row["measured"]] = row["measures"]
    write_json(WORLDS, study.facts)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=("all", "scenes", "hands"), default="all")
    parser.add_argument(
        "--photos", type=Path, help="the folder of photographs for hands: pairs.jsonl and images/"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--only", nargs="+", choices=STAGES, help="these stages alone; without it, all"
    )
    parser.add_argument(
        "--build", default=str(ROOT / "build" / "study"), help="where worlds and bases are made"
    )
    parser.add_argument("--results", default=str(RESULTS), help="the rows")
    parser.add_argument(
        "--new-worlds", action="store_true", help="note worlds that are not the committed ones"
    )
    parser.add_argument(
        "--report-only",
        action="store_true",
        help="make tables and plots from the rows that are there",
    )
    return parser.parse_args(arguments)


def worlds_of(options: argparse.Namespace) -> list[World]:
    """The worlds that can be made: hands needs the user's photographs."""
    worlds = [scenes_world()] if options.world in ("all", "scenes") else []
    if options.world in ("all", "hands"):
        if options.photos is None:
            say(
                "hands is skipped: it needs photographs that are not in the repository; give"
                " --photos FOLDER"
            )
        else:
            worlds.append(hands_world(options.photos))
    return worlds


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    options = parse(arguments)
    try:
        study = Study(options, [] if options.report_only else worlds_of(options))
        only = options.only or STAGES
        if not options.report_only:
            study.make_worlds()
            stages_of(study, only)
            note_bases(study)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if options.results == str(RESULTS):
        from studies.objectives.report import write_report

        write_report(study.rows(), study.facts, ROOT / "docs")


if __name__ == "__main__":
    main()
