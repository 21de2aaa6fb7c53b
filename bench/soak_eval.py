#!/usr/bin/env python3
"""Kills evaluations at any moment, again and again, and asks each time for the bytes of an
undisturbed one.

    python bench/soak_eval.py --runs 20           # about 4 minutes on 2 cores
    python bench/soak_eval.py --runs 4 --seed 7

Two evaluations take turns: pairs and a benchmark by a small random LLaVA and its base, and a
benchmark by a server. The process group of one is killed (SIGKILL) after a drawn time, every third
time within half a second after the first of its results is written, and the same command is run
again. Then every result must be that of the undisturbed run, byte by byte, and no answer that was
kept at the kill may be made again. A run counts only if the kill hit a running evaluation.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # a script's own folder otherwise, in which eval.py is a benchmark

from eval.generation.cache import open_answers  # noqa: E402
from tests.eval.benchmarks.native_benchmarks import SIZES, write  # noqa: E402
from tests.eval.conftest import scene_rows, write_llava, write_mvc  # noqa: E402
from tests.pipeline.chat_server import ChatServer  # noqa: E402

NUM_PAIRS, MAX_IN_FLIGHT = 24, 4
RESULTS = ("scores.json", "items.parquet", "benchmarks/*")
# Notes every answer that somebody wants to keep, also one that is kept already.
NOTE_ATTEMPTS = (
    "CREATE TABLE attempts (key TEXT);"
    "CREATE TRIGGER note BEFORE INSERT ON answers BEGIN INSERT INTO attempts VALUES (NEW.key); END;"
)


@dataclasses.dataclass
class Job:
    """One evaluation: its name and its command for a folder."""

    name: str
    command: Callable[[Path], list[str]]

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Starts it in a process group of its own."""
        return subprocess.Popen(
            self.command(folder),
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )


def prepare(folder: Path, server: ChatServer) -> list[Job]:
    """A random model with its base, pairs and two benchmarks: what is said does not matter."""
    rows = scene_rows(NUM_PAIRS)
    data = write_mvc(folder / "mvc", rows)
    texts = [row[name] for row in rows for name in ("question", "answer_a", "answer_b")]
    model = write_llava(folder / "tuned", texts, seed=1)
    write_llava(model / "base", texts, seed=0)
    (model / "svco.json").write_text(json.dumps({"base_model": "base"}))
    entries = {
        name: f"[{{name: {name}, source: {write(name, folder / name)},"
        f" expected_size: {SIZES[name]}}}]"
        for name in ("mmvp", "pope")
    }
    endpoint = (
        f"{{model: vlm, base_url: {server.base_url}, api_key_env: null,"
        f" max_in_flight: {MAX_IN_FLIGHT}, cache: %s}}"
    )

    def command(recipe: str, out: Path, *more: str) -> list[str]:
        options = [
            f"out={out / 'eval'}",
            f"answers.cache={out / 'answers.sqlite'}",
            "answers.max_new_tokens=4",
            "workers.num_workers=0",
            "intervals.num_draws=200",
            *more,
        ]
        recipe_path = str(ROOT / "recipes" / f"{recipe}.yaml")
        return [sys.executable, "eval/run_eval.py", "--recipe", recipe_path, *options]

    local = [f"model={model}", f"data={data}", f"benchmarks={entries['mmvp']}"]
    local += ["generate.max_new_tokens=6", "pairs_per_chunk=4", "answers.batch=3"]
    return [
        Job("pairs and mmvp", lambda out: command("eval_contrast", out, *local)),
        Job(
            "pope by a server",
            lambda out: command(
                "eval_core",
                out,
                f"benchmarks={entries['pope']}",
                f"endpoint={endpoint % (out / 'replies.sqlite')}",
            ),
        ),
    ]


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every result."""
    files = [path for name in RESULTS for path in sorted((folder / "eval").glob(name))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fresh(folder: Path) -> Path:
    """An empty folder with a store of answers that notes who wants to keep what."""
    shutil.rmtree(folder, ignore_errors=True)
    with open_answers(str(folder / "answers.sqlite")):
        pass
    with contextlib.closing(sqlite3.connect(folder / "answers.sqlite")) as store:
        store.executescript(NOTE_ATTEMPTS)
    return folder


def num_kept(folder: Path) -> tuple[int, int]:
    """Answers that are kept, and how often one was handed over."""
    with contextlib.closing(sqlite3.connect(folder / "answers.sqlite")) as store:
        counts = "SELECT (SELECT COUNT(*) FROM answers), (SELECT COUNT(*) FROM attempts)"
        return store.execute(counts).fetchone()


def whole(job: Job, folder: Path) -> float:
    """Runs an evaluation to its end; returns the seconds that it took.

    Raises:
        SystemExit: It failed.
    """
    started_s = time.monotonic()
    process = job.start(folder)
    _, said = process.communicate(timeout=400)
    if process.returncode:
        raise SystemExit(f"{job.name}: ended with {process.returncode}\n{said.decode()}")
    return time.monotonic() - started_s


def killed(job: Job, folder: Path, after_s: float, at_results: float | None) -> str | None:
    """Kills an evaluation; returns where it was, or None where it had ended before.

    Args:
        at_results: Instead of `after_s`: so many seconds after the first result is written.
    """
    started_s, process = time.monotonic(), job.start(folder)
    while process.poll() is None and time.monotonic() - started_s < after_s:
        if at_results is not None and hashes_begun(folder):
            time.sleep(at_results)
            break
        time.sleep(0.005)
    if process.poll() is not None:
        process.communicate()
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    written = sum(path.is_file() for name in RESULTS for path in (folder / "eval").glob(name))
    seconds = time.monotonic() - started_s
    return f"killed after {seconds:.1f} s with {num_kept(folder)[0]} answers, {written} results"


def hashes_begun(folder: Path) -> bool:
    """Whether any result is there, complete or not."""
    return any(path for name in RESULTS for path in (folder / "eval").glob(name))


def main() -> None:
    """Runs until so many evaluations were hit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, hit, missed = random.Random(options.seed), 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="svco-soak-") as name,
        ChatServer(lambda _: "raw Yes.", delay_s=0.05) as server,
    ):
        folder = Path(name)
        jobs = prepare(folder, server)
        seconds = [whole(job, fresh(folder / f"whole-{place}")) for place, job in enumerate(jobs)]
        expected = [hashes(folder / f"whole-{place}") for place in range(len(jobs))]
        total = [num_kept(folder / f"whole-{place}")[0] for place in range(len(jobs))]
        for job, took_s in zip(jobs, seconds, strict=True):
            print(f"undisturbed: {job.name}, {took_s:.1f} s", flush=True)
        while hit < options.runs and missed <= options.runs:
            place, out = hit % len(jobs), fresh(folder / "killed")
            at_results = rng.uniform(0.0, 0.5) if hit % 3 == 2 else None
            limit_s = 400.0 if at_results is not None else rng.uniform(0.2, seconds[place])
            num_before = server.num_requests
            where = killed(jobs[place], out, limit_s, at_results)
            if where is None:
                missed += 1
                seconds[place] *= 0.8  # the machine has less to do than before
                continue
            took_s = whole(jobs[place], out)
            if hashes(out) != expected[place]:
                raise SystemExit(f"{jobs[place].name}, {where}: other results than undisturbed")
            kept, attempts = num_kept(out)
            if (kept, attempts) != (total[place], total[place]):
                raise SystemExit(f"{jobs[place].name}, {where}: {attempts} answers for {kept}")
            num_twice = server.num_requests - num_before - total[place]
            if place == 1 and num_twice > MAX_IN_FLIGHT:
                raise SystemExit(f"{jobs[place].name}, {where}: {num_twice} were asked twice")
            hit += 1
            print(
                f"{hit}/{options.runs}: {jobs[place].name}: {where}; again {took_s:.1f} s;"
                " same bytes, nothing kept was made again",
                flush=True,
            )
    print(f"{hit} evaluations were hit and ended as undisturbed; {missed} kills missed")


if __name__ == "__main__":
    main()
