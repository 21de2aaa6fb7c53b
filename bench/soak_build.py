#!/usr/bin/env python3
"""Kills builds in the middle, again and again, and asks each time for the bytes of an undisturbed
one.

    python bench/soak_build.py --runs 20           # about 20 minutes on 2 cores
    python bench/soak_build.py --runs 3 --seed 7

Each run starts a build, waits until a drawn number of chunks is finished, kills the driver, a Ray
worker that does the work, or a whole second node, and runs the same command again. A run counts
only if the kill fell in the middle of the stage; the shards must then be those of the undisturbed
build, byte by byte, and finished chunks untouched.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
NUM_PAIRS, CHUNK_PAIRS = 2000, 50
NUM_CHUNKS = NUM_PAIRS // CHUNK_PAIRS
STAGES = {"ingest": "rows-*.parquet", "embed": "images-*.parquet", "rewrite": "rows-*.arrow"}


def command(out: Path, *more: str) -> list[str]:
    """The user's command."""
    options = [
        f"sources.0.num_pairs={NUM_PAIRS}",
        f"workers.chunk_pairs={CHUNK_PAIRS}",
        f"out={out}",
        *more,
    ]
    return [sys.executable, "pipeline/build_mvc.py", "--recipe", "recipes/mvc_demo.yaml", *options]


def hashes(out: Path) -> dict[str, str]:
    """The sha256 of every shard."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("*/*.parquet"))
    }


def finished(out: Path, stage: str) -> list[Path]:
    """The chunks of a stage that are complete."""
    return sorted((out / ".work" / stage).glob(f"*/{STAGES[stage]}"))


def wait_for(out: Path, stage: str, num: int, job: subprocess.Popen) -> int:
    """Waits until `num` chunks of a stage are finished; returns how many are."""
    deadline_s = time.monotonic() + 300
    while time.monotonic() < deadline_s and job.poll() is None:
        found = len(finished(out, stage))
        if found >= num:
            return found
        time.sleep(0.005)
    raise SystemExit(f"{stage}: {num} chunks were not reached; exit code {job.poll()}")


def kill(job: subprocess.Popen, victim: str, cluster: Any) -> str:
    """Kills the driver with all that it started, one process that does its work, or the second node
    with all of its own.
    """
    if victim == "driver":
        os.killpg(job.pid, signal.SIGKILL)
        return "the driver's process group"
    if victim == "node":
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        return "the second node"
    workers = []
    for child in psutil.Process(job.pid).children(recursive=True):
        try:
            if "ray::" in " ".join(child.cmdline()) and "Map" in " ".join(child.cmdline()):
                workers.append(child)
        except psutil.Error:
            continue
    if not workers:
        return ""
    workers[0].kill()
    return f"worker {workers[0].pid}"


@contextlib.contextmanager
def two_nodes(wanted: bool) -> Iterator[tuple[Any, dict[str, str]]]:
    """A Ray cluster of two nodes on this machine, and the environment in which a build joins it."""
    if not wanted:
        yield None, dict(os.environ)
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        yield cluster, {**os.environ, "RAY_ADDRESS": cluster.address}
    finally:
        cluster.shutdown()


def one_run(folder: Path, rng: random.Random, expected: dict[str, str]) -> str:
    """One killed build; returns a line about it, or "missed"."""
    stage, victim = rng.choice(sorted(STAGES)), rng.choice(("driver", "worker", "node"))
    out, at = folder / "killed", rng.randint(1, NUM_CHUNKS - 8)
    shutil.rmtree(out, ignore_errors=True)
    with two_nodes(victim == "node") as (cluster, environment):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        job = subprocess.Popen(
            command(out), cwd=ROOT, start_new_session=True, env=environment, **quiet
        )
        wait_for(out, stage, at, job)
        killed = kill(job, victim, cluster)
        done = finished(out, stage)
        times = {path: path.stat().st_mtime_ns for path in done}
        code = job.wait()
    if not killed or len(done) >= NUM_CHUNKS:
        return "missed"
    if code:
        subprocess.run(command(out), cwd=ROOT, check=True, capture_output=True)
    if hashes(out) != expected:
        raise SystemExit(
            f"{stage}, {killed} after {len(done)} chunks: the shards differ from the undisturbed"
            " build's"
        )
    if {path: path.stat().st_mtime_ns for path in done} != times:
        raise SystemExit(f"{stage}: finished chunks were made again")
    ended = "run again" if code else "went on by itself"
    return f"{stage} after {len(done)} of {NUM_CHUNKS} chunks: {killed} killed; {ended}; same bytes"


def main() -> None:
    """Runs until so many builds were hit in the middle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="svco-soak-") as name:
        folder = Path(name)
        subprocess.run(command(folder / "whole"), cwd=ROOT, check=True, capture_output=True)
        expected = hashes(folder / "whole")
        hit = missed = 0
        while hit < options.runs:
            line = one_run(folder, rng, expected)
            missed += line == "missed"
            hit += line != "missed"
            print(f"{hit}/{options.runs}: {line}", flush=True)
            if missed > 2 * options.runs:
                raise SystemExit("too many kills missed the middle of their stage")
    print(
        f"{hit} builds were hit in the middle and ended with the bytes of the undisturbed one;"
        f" {missed} kills missed"
    )


if __name__ == "__main__":
    main()
