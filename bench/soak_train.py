#!/usr/bin/env python3
"""Kills training again and again, and asks each time for the weights of an undisturbed run.

    python bench/soak_train.py --runs 20 --ray-runs 3     # about 15 minutes on 2 cores
    python bench/soak_train.py --runs 5 --seed 7

Most runs are without Ray: a small random LLaVA is trained by the user's command, which is killed
at a random moment of a phase (the reference pass, the steps before the first checkpoint, those
after, the writing of a checkpoint, the end with its export) and run again. With Ray two gloo
workers are at work when the driver with all that it started, one of the workers, or a whole node of
a cluster of three is killed; after a killed worker or node the job must go on by itself. A run
counts only if the kill fell before its end; the weights must then be those of the undisturbed run,
bit by bit.
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
from collections import Counter
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
# and how long, about, each lasts: the kill comes at a random moment of it
PHASES = {
    "reference": 0.8,
    "first steps": 0.05,
    "training": 0.5,
    "saving": 0.02,
    "export": 0.1,
}


def prepare(folder: Path, num_pairs: int = 20) -> tuple[Path, Path]:
    """A random model and some pairs: what is trained does not matter here."""
    model = write_tiny_llava(folder / "model", chatml=False)
    rows = [mvc_row(index) for index in range(num_pairs + 4)]
    for number, row in enumerate(rows):
        row["question"] = f"{row['question']} {number}"  # no two alike
    splits = {"train": rows[:num_pairs], "validation": rows[num_pairs:]}
    return model, write_mvc(folder / f"mvc-{num_pairs}", splits)


def command(
    model: Path, data: Path, out: Path, *, num_workers: int = 2, batch_pairs: int = 4
) -> list[str]:
    """The user's command."""
    options = [
        f"model={model}",
        f"data={data}",
        f"out={out}",
        f"optim.batch_pairs={batch_pairs}",
        "optim.micro_batch_pairs=2",
        "optim.lr=1e-3",
        f"optim.max_steps={NUM_STEPS}",
        "eval_every_steps=20",
        "checkpoint.every_steps=4",
        f"workers.num_workers={num_workers}",
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


def is_in(phase: str, out: Path) -> bool:
    """Whether a run is in a phase, by what it has written."""
    folder, step = out / ".checkpoints", steps_done(out)
    if (out / "svco.json").exists():
        return False
    if phase == "reference":
        return step == 0 and any(folder.glob("reference-train/*.parquet"))
    if phase == "saving":
        return any(path.suffix for path in folder.glob("step-*"))
    if phase == "export":
        return step == NUM_STEPS
    is_saved = any(folder.glob("step-*/state.json"))
    return 0 < step < NUM_STEPS and is_saved == (phase == "training")


def phase_of(out: Path) -> str:
    """The phase in which a run was killed; empty if it had ended, or not begun."""
    phases = ("saving", "export", "training", "first steps", "reference")
    return next((phase for phase in phases if is_in(phase, out)), "")


def killed_in(phase: str, arguments: list[str], out: Path, rng: random.Random) -> list[str]:
    """Kills a run at a random moment of a phase and runs it again; returns the phase that was hit
    and what the second run knew of the reference, or nothing if the run was at its end.

    Raises:
        SystemExit: The second run did not end well.
    """
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="svco-cache-") as cache:
        options: dict[str, Any] = {
            "cwd": ROOT,
            "env": {**os.environ, "SVCO_CACHE": cache},
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.PIPE,
        }
        log = subprocess.DEVNULL
        job = subprocess.Popen(arguments, **{**options, "stderr": log}, start_new_session=True)
        while job.poll() is None and not is_in(phase, out):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, PHASES[phase]))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        hit = phase_of(out)
        again = subprocess.run(arguments, **options, text=True, check=False)
    if again.returncode:
        raise SystemExit(f"killed in {hit}: the second run ended with {again.stderr}")
    known = [line for line in again.stderr.splitlines() if "pairs known" in line]
    return [hit, next(iter(known), "no reference known")] if hit else []


def soak_here(folder: Path, num_runs: int, seed: int) -> None:
    """Runs without Ray until so many were hit, as many in each phase."""
    model, data = prepare(folder, num_pairs=1000)
    whole, killed, hits = folder / "whole", folder / "killed", Counter[str]()
    environment = {**os.environ, "SVCO_CACHE": str(folder / "cache")}
    arguments = command(model, data, whole, num_workers=0, batch_pairs=16)
    subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, env=environment)
    rng = random.Random(seed)
    while hits.total() < num_runs:
        phase = min(PHASES, key=hits.__getitem__)
        facts = killed_in(phase, [*arguments, f"out={killed}"], killed, rng)
        if not facts:
            print(f"missed: {phase}", flush=True)
            continue
        hits[facts[0]] += 1
        if not same_weights(whole, killed):
            raise SystemExit(f"killed in {facts}: other weights than those of the undisturbed run")
        print(
            f"{hits.total()}/{num_runs}: killed in {facts[0]}; {facts[1]}; same weights", flush=True
        )
    print(f"{hits.total()} runs ended with the weights of the undisturbed one: {dict(hits)}")


def soak_ray(folder: Path, num_runs: int, seed: int) -> None:
    """Runs with two workers until so many were hit in the middle."""
    model, data = prepare(folder)
    whole, killed = folder / "whole-ray", folder / "killed-ray"
    subprocess.run(command(model, data, whole), cwd=ROOT, check=True, capture_output=True)
    rng, hit, missed = random.Random(seed), 0, 0
    while hit < num_runs and missed <= num_runs:
        lines = killed_run(
            model, data, killed, [(VICTIMS[hit % 3], rng.randint(3, NUM_STEPS - 12))]
        )
        if not lines:
            missed += 1
            continue
        hit += 1
        if not same_weights(whole, killed):
            raise SystemExit(f"{lines[0]}: the weights differ from those of the undisturbed run")
        print(f"{hit}/{num_runs}: {lines[0]}; same weights", flush=True)
    print(
        f"{hit} runs were hit in the middle and ended with the weights of the undisturbed one;"
        f" {missed} kills missed"
    )


def main() -> None:
    """Runs until so many runs were hit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--ray-runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="svco-soak-") as name:
        if options.runs:
            soak_here(Path(name), options.runs, options.seed)
        if options.ray_runs:
            os.environ["SVCO_CACHE"] = str(Path(name) / "cache-ray")
            soak_ray(Path(name), options.ray_runs, options.seed)


if __name__ == "__main__":
    main()
