#!/usr/bin/env python3
"""The whole path on a small cluster that loses a node in the middle of each job: build, training,
evaluation by `ray job submit`.

    python bench/soak_jobs.py                      # about 5 minutes on 2 cores
    python bench/soak_jobs.py --out build/soak-jobs

A head without work of its own and two nodes run on this machine. Each job is submitted as a user
would; when it is in its middle, the node with most of its workers is killed, and another joins, as
a cluster's manager would see to. The job must end well by itself, and its result must be whole:
every candidate accounted for, every step trained, every pair scored.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NUM_PAIRS, NUM_STEPS, NUM_SCORED = 800, 60, 240
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{BIN}:{os.environ['PATH']}"}


def build(out: Path) -> list[str]:
    """Scenes in 40 chunks."""
    return [
        "pipeline/build_mvc.py",
        f"sources.0.num_pairs={NUM_PAIRS}",
        f"workers.chunk_pairs={NUM_PAIRS // 40}",
        f"out={out / 'mvc'}",
    ]


def train(out: Path) -> list[str]:
    """A tiny LLaVA without time to learn, then steps of two workers that commit often."""
    small = (
        "tiny.vision_dim=32 tiny.text_dim=32 tiny.vision_layers=1 tiny.text_layers=1"
        " tiny.num_eye_images=64 tiny.num_texts=64"
    )
    steps = (
        f"optim.max_steps={NUM_STEPS} optim.batch_pairs=4 optim.micro_batch_pairs=2"
        " checkpoint.every_steps=4 eval_every_steps=0"
    )
    place = (
        f"workers.num_workers=2 workers.cpus_per_worker=1 log.num_samples=0 data={out / 'mvc'}"
        f" out={out / 'model'}"
    )
    return ["training/train_svco.py", *small.split(), *steps.split(), *place.split()]


def evaluate(out: Path) -> list[str]:
    """Two workers, small chunks."""
    few = (
        f"split=train max_pairs={NUM_SCORED} pairs_per_chunk=4 generate.max_new_tokens=4"
        " workers.num_workers=2 workers.cpus_per_worker=1"
    )
    return [
        "eval/run_eval.py",
        *few.split(),
        f"model={out / 'model'}",
        f"data={out / 'mvc'}",
        f"out={out / 'eval'}",
    ]


def progress_of(out: Path) -> dict[str, Callable[[], float]]:
    """How far each job is, from 0 to 1, read from what it has committed."""
    return {
        "build": lambda: len(list((out / "mvc/.work/embed").glob("*/images-*.parquet"))) / 40,
        "train": lambda: _lines(out / "model/metrics.jsonl") / NUM_STEPS,
        "evaluate": lambda: len(list((out / "eval").rglob("*-*.parquet"))) / (2 * NUM_SCORED / 4),
    }


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def add_node(cluster: Any, homes: Path) -> None:
    """A node with a folder of its own: nodes that share one replace the program of the job that is
    running there.
    """
    cluster.add_node(num_cpus=1, temp_dir=tempfile.mkdtemp(dir=homes))


def busy(node: Any) -> int:
    """Number of a node's worker processes that have work."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    names = []
    for child in raylet.children():
        try:
            names.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue  # it has ended meanwhile
    return sum(
        name.startswith("ray::") and "IDLE" not in name and "Actor" not in name for name in names
    )


def run_with_a_kill(
    name: str, submit: list[str], done: Callable[[], float], cluster: Any, homes: Path
) -> str:
    """Submits a job, kills a node in its middle, and waits for its end; returns a line about it.

    Raises:
        SystemExit: The job failed, or ended before it was hit.
    """
    job = subprocess.Popen(
        submit,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while done() < 0.3 and job.poll() is None:
        time.sleep(0.02)
    victim = max(cluster.worker_nodes, key=busy)
    workers, at = busy(victim), done()
    cluster.remove_node(victim, allow_graceful=False)
    add_node(cluster, homes)
    said, _ = job.communicate(timeout=900)
    if job.returncode:
        raise SystemExit(
            f"{name}: a node was killed at {at:.0%}, and the job ended with"
            f" {job.returncode}\n{said}"
        )
    if not 0 < at < 1:
        raise SystemExit(f"{name}: the kill was meant to hit the middle, and came at {at:.0%}")
    return (
        f"{name}: the node with {workers} of its workers was killed at {at:.0%}; the job went on"
        " and ended well"
    )


def check(out: Path) -> None:
    """The results are whole.

    Raises:
        SystemExit: They are not.
    """
    rows = json.loads((out / "mvc/manifest.json").read_text())["rows"]
    steps = json.loads((out / "model/svco.json").read_text())["steps"]
    pairs = json.loads((out / "eval/scores.json").read_text())["overall"]["text_score"]["before"][
        "n"
    ]
    if (rows["in"], rows["kept"] + rows["dropped"], steps, pairs) != (
        NUM_PAIRS,
        NUM_PAIRS,
        NUM_STEPS,
        NUM_SCORED,
    ):
        raise SystemExit(f"not whole: rows {rows}, {steps} steps, {pairs} pairs scored")


def main() -> None:
    """The three jobs, each with a kill."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/soak-jobs"))
    out = parser.parse_args().out.resolve()
    if out.exists():
        raise SystemExit(f"{out} exists; name another folder with --out, or delete it")
    out.mkdir(parents=True)
    from ray.cluster_utils import Cluster

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": port},
    )
    runtime = json.dumps(
        {
            "env_vars": {
                "SVCO_CACHE": str(out / "cache"),
                "PATH": ENVIRONMENT["PATH"],
                "OMP_WAIT_POLICY": "PASSIVE",
            }
        }
    )
    submit = [
        str(BIN / "ray"),
        "job",
        "submit",
        "--address",
        f"http://127.0.0.1:{port}",
        "--working-dir",
        ".",
    ]
    submit += ["--runtime-env-json", runtime, "--"]
    homes = Path(tempfile.mkdtemp(prefix="svco-"))  # a short path, because sockets lie in it
    try:
        for _ in range(2):
            add_node(cluster, homes)
        done = progress_of(out)
        for name, command in (
            ("build", build(out)),
            ("train", train(out)),
            ("evaluate", evaluate(out)),
        ):
            print(
                run_with_a_kill(name, [*submit, *command], done[name], cluster, homes), flush=True
            )
    finally:
        cluster.shutdown()
        shutil.rmtree(homes, ignore_errors=True)
    check(out)
    print(f"results are whole: {out}")


if __name__ == "__main__":
    main()
