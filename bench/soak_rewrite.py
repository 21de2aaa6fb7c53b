#!/usr/bin/env python3
"""Kills builds while a model rewrites, again and again, and asks the server what it was paid for
twice.

    python bench/soak_rewrite.py                   # ten kills: a few minutes on 2 cores
    python bench/soak_rewrite.py --kills 3 --seed 7

A server of ours answers after 150 ms and notes each reply that it has sent to the end. The build is
killed with everything it started after a drawn number of replies, and the same command is run
again. No reply that was sent more than a quarter of a second before a kill may be asked for again;
those on the wire, and those sent to the dead, are counted. At the end the shards must be those of a
build that nobody disturbed, byte by byte.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUM_PAIRS, ON_THE_WIRE_S = 600, 0.25


@contextlib.contextmanager
def server(log: Path) -> Iterator[str]:
    """A server process; its address."""
    command = [
        sys.executable,
        "-m",
        "tests.pipeline.chat_server",
        "--delay-s",
        "0.15",
        "--log",
        str(log),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def command(out: Path, base_url: str, cache: Path) -> list[str]:
    """The user's command."""
    options = [
        f"sources.0.num_pairs={NUM_PAIRS}",
        "workers.chunk_pairs=50",
        f"out={out}",
        "audit.enabled=false",
        "rewrite.backend=openai",
    ]
    endpoint = {
        "model": "soak",
        "base_url": base_url,
        "identity": "soak",
        "api_key_env": "null",
        "max_in_flight": 8,
        "cache": cache,
    }
    options += [f"rewrite.endpoint.{name}={value}" for name, value in endpoint.items()]
    return [sys.executable, "pipeline/build_mvc.py", "--recipe", "recipes/mvc_demo.yaml", *options]


def replies(log: Path) -> list[tuple[str, float]]:
    """Key and time of each reply that was sent to the end."""
    # what follows the last line end is still being written
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [(line["key"], line["answered_s"]) for line in map(json.loads, lines)]


def hashes(out: Path) -> dict[str, str]:
    """The sha256 of every shard."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("*/*.parquet"))
    }


def killed(arguments: list[str], log: Path, num_replies: int) -> float | None:
    """Runs a build and kills it after so many more replies; when that was, or None if the build was
    finished before.
    """
    before = len(replies(log))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    job = subprocess.Popen(arguments, cwd=ROOT, start_new_session=True, **quiet)
    while job.poll() is None:
        if len(replies(log)) >= before + num_replies:
            at = time.time()
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            return at
        time.sleep(0.02)
    if job.returncode:
        raise SystemExit(f"the build failed by itself with exit code {job.returncode}")
    return None


def main() -> None:
    """Kills, finishes, and compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="svco-soak-") as name:
        folder = Path(name)
        with server(folder / "whole.jsonl") as base_url:
            subprocess.run(
                command(folder / "whole", base_url, folder / "whole.sqlite"),
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
        total, log, kills = len(replies(folder / "whole.jsonl")), folder / "killed.jsonl", []
        with server(log) as base_url:
            arguments = command(folder / "killed", base_url, folder / "killed.sqlite")
            for number in range(options.kills):
                at = killed(
                    arguments, log, rng.randint(1, max(2, int(1.6 * total / options.kills)))
                )
                if at is None:
                    raise SystemExit(f"finished after {number} kills; take more pairs")
                kills.append(at)
                print(
                    f"kill {number + 1} of {options.kills}: after {len(replies(log)):,} of"
                    f" {total:,} replies",
                    flush=True,
                )
            subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True)
        last: dict[str, float] = {}
        lost = on_the_wire = too_late = 0
        for key, answered_s in replies(log):
            if key in last:
                # how long before each kill the reply was sent
                ages_s = [at - last[key] for at in kills]
                on_the_wire += (is_fresh := any(0 <= age <= ON_THE_WIRE_S for age in ages_s))
                too_late += (is_late := not is_fresh and any(-2 <= age < 0 for age in ages_s))
                lost += not is_fresh and not is_late
            last[key] = answered_s
        if lost:
            raise SystemExit(f"{lost} replies were paid for twice although they had long arrived")
        if len(last) != total or hashes(folder / "killed") != hashes(folder / "whole"):
            raise SystemExit("the shards differ from those of the undisturbed build")
        print(
            f"{total:,} requests, {options.kills} kills: no reply that had arrived was asked for"
            " again; same bytes as undisturbed"
        )
        print(
            f"asked for again: {on_the_wire} sent within {ON_THE_WIRE_S} s before a kill,"
            f" {too_late} sent to a process that was dead"
        )


if __name__ == "__main__":
    main()
