#!/usr/bin/env python3
"""Kills training in the middle, again and again, and asks each time for the weights of an
undisturbed run.

    python bench/soak_train.py --runs 10           # about 15 minutes on 2 cores
    python bench/soak_train.py --runs 3 --seed 7

Each run trains a small random LLaVA with two gloo workers, waits until a drawn step is done, and
kills the driver with all that it started, one of the workers, or a whole node of a cluster of
three. A killed driver's command is run again; after a killed worker or node the job must go on by
itself. A run counts only if the kill fell between the first and the last step; the weights must
then be those of the undisturbed run, bit by bit.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # a script's own folder comes first otherwise

from tests.training.conftest import mvc_row, write_mvc  # noqa: E402
from tests.training.tiny_families import write_tiny_llava  # noqa: E402

NUM_STEPS = 60
VICTIMS = ("driver", "worker", "node")


def prepare(folder: Path) -> tuple[Path, Path]:
    """A random model and a few pairs: what is trained does not matter here."""
    model = write_tiny_llava(folder / "model", chatml=False)
    rows = [mvc_row(index) for index in range(24)]
    return model, write_mvc(folder / "mvc", {"train": rows[:20], "validation": rows[20:]})


def command(model: Path, data: Path, out: Path) -> list[str]:
    """The user's command."""
    options = [
        f"model={model}",
        f"data={data}",
        f"out={out}",
        "optim.batch_pairs=4",
        "optim.micro_batch_pairs=2",
        "optim.lr=1e-3",
        f"optim.max_steps={NUM_STEPS}",
        "eval_every_steps=20",
        "checkpoint.every_steps=4",
        "workers.num_workers=2",
        "log.num_samples=0",
    ]
    return [
        sys.executable,
        "training/train_svco.py",
        "--recipe",
        "recipes/svco_tiny.yaml",
        *options,
    ]


def steps_done(out: Path) -> int:
    """The last training step in the log."""
    try:
        lines = [
            json.loads(line)
            for line in (out / "metrics.jsonl").read_text().splitlines()
            if line.endswith("}")
        ]
    except FileNotFoundError:
        return 0
    return max((line["step"] for line in lines if line["split"] == "train"), default=0)


def wait_for(out: Path, step: int, job: subprocess.Popen) -> None:
    """Waits until a step is done."""
    deadline_s = time.monotonic() + 400
    while steps_done(out) < step:
        if job.poll() is not None or time.monotonic() > deadline_s:
            raise SystemExit(
                f"step {step} was not reached: exit code {job.poll()}, step {steps_done(out)}"
            )
        time.sleep(0.01)


def kill(job: subprocess.Popen, victim: str, cluster: Any) -> str:
    """Kills the driver with all that it started, one worker, or a node that has one; returns what
    was killed.
    """
    if victim == "driver":
        os.killpg(job.pid, signal.SIGKILL)
        return "the driver's process group"
    workers = _workers(cluster.head_node if cluster else None, job)
    if victim == "worker":
        workers[-1].kill()
        return f"worker {workers[-1].pid}"
    for node in list(cluster.worker_nodes):
        raylet = node.all_processes["raylet"][0].process.pid
        if any(raylet in (parent.pid for parent in worker.parents()) for worker in workers):
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)  # as a cluster's manager would
            return f"the node with raylet {raylet}"
    raise SystemExit("no node has a worker")


def _workers(head: Any, job: subprocess.Popen) -> list[psutil.Process]:
    roots = [psutil.Process(job.pid)] if head is None else [psutil.Process()]
    found = []
    for child in (child for root in roots for child in root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
    if not found:
        raise SystemExit("no worker is at work")
    return found


@contextlib.contextmanager
def nodes(wanted: bool) -> Iterator[tuple[Any, dict[str, str]]]:
    """A Ray cluster on this machine with two nodes beside its head, and the environment in which a
    job joins it.
    """
    if not wanted:
        yield None, dict(os.environ)
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster, {**os.environ, "RAY_ADDRESS": cluster.address}
    finally:
        cluster.shutdown()


def killed_run(model: Path, data: Path, out: Path, kills: Sequence[tuple[str, int]]) -> list[str]:
    """Trains with a kill of each victim after its step; returns what happened. The folder `out` is
    then finished.

    Raises:
        SystemExit: The job did not go on as it should.
    """
    shutil.rmtree(out, ignore_errors=True)
    arguments, lines = command(model, data, out), []
    on_nodes = any(victim == "node" for victim, _ in kills)
    if on_nodes:
        arguments.append("workers.cpus_per_worker=1")  # one on each node
    with nodes(on_nodes) as (cluster, environment):
        options = {
            "cwd": ROOT,
            "start_new_session": True,
            "env": environment,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.PIPE,
        }
        job = subprocess.Popen(arguments, **options)
        for victim, step in kills:
            wait_for(out, step, job)
            killed = kill(job, victim, cluster)
            at = steps_done(out)
            if at >= NUM_STEPS:
                job.communicate(timeout=400)
                return []
            if victim == "driver":
                job.communicate()
                job = subprocess.Popen(arguments, **options)
            lines.append(
                f"{killed} killed after step {at} of {NUM_STEPS};"
                f" {'run again' if victim == 'driver' else 'went on by itself'}"
            )
        _, said = job.communicate(timeout=400)
    if job.returncode:
        raise SystemExit(
            f"{'; '.join(lines)}: the job ended with {job.returncode}\n{said.decode()}"
        )
    return lines


def same_weights(one: Path, other: Path) -> bool:
    """Whether two results are equal bit by bit."""
    ours, theirs = (load_file(out / "model.safetensors") for out in (one, other))
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def main() -> None:
    """Runs until so many runs were hit in the middle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="svco-soak-") as name:
        folder = Path(name)
        model, data = prepare(folder)
        whole, killed = folder / "whole", folder / "killed"
        subprocess.run(command(model, data, whole), cwd=ROOT, check=True, capture_output=True)
        hit = missed = 0
        while hit < options.runs and missed <= options.runs:
            lines = killed_run(
                model, data, killed, [(VICTIMS[hit % 3], rng.randint(3, NUM_STEPS - 12))]
            )
            if not lines:
                missed += 1
                continue
            hit += 1
            if not same_weights(whole, killed):
                raise SystemExit(
                    f"{lines[0]}: the weights differ from those of the undisturbed run"
                )
            print(f"{hit}/{options.runs}: {lines[0]}; same weights", flush=True)
    print(
        f"{hit} runs were hit in the middle and ended with the weights of the undisturbed one;"
        f" {missed} kills missed"
    )


if __name__ == "__main__":
    main()
