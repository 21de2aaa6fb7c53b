"""The three jobs as a cluster runs them: `ray job submit` to a head of our own, one after the
other, each on what the last one made.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from pipeline.core.schema import read_manifest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": f"{BIN}:{os.environ['PATH']}"}
PORTS = (
    "--port",
    "--dashboard-port",
    "--ray-client-server-port",
    "--dashboard-agent-listen-port",
    "--metrics-export-port",
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray head that runs as a child process on free ports, ended by its own
    process group.
    """
    # a socket's path may have 107 characters, so pytest's folders are too deep
    sockets = tempfile.mkdtemp(prefix="svco-")
    ports = _free_ports(len(PORTS))
    options = [
        "--head",
        "--block",
        "--num-cpus=2",
        "--include-dashboard=true",
        "--disable-usage-stats",
        f"--temp-dir={sockets}",
    ]
    options += [f"{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    path = tmp_path_factory.mktemp("head") / "head.log"
    with path.open("w") as log:
        head = subprocess.Popen(
            [BIN / "ray", "start", *options],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=ENVIRONMENT,
        )
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        _wait_until_it_answers(address, head, path)
        yield address
    finally:
        if head.poll() is None:
            os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)
                head.wait()
        shutil.rmtree(sockets, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _wait_until_it_answers(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        assert head.poll() is None, log.read_text()
        try:
            urlopen(f"{address}/api/jobs/", timeout=5).read()
        except (URLError, OSError):
            time.sleep(0.5)
        else:
            return
    pytest.fail("the Ray head did not answer: " + log.read_text())


@pytest.fixture(scope="module")
def submit(ray_head: str, tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """`submit(*command)`: runs an entry point as a job with this folder as its working directory,
    and waits for its end.
    """
    cache = str(tmp_path_factory.mktemp("cache"))
    runtime = json.dumps(
        {
            "env_vars": {
                "SVCO_CACHE": cache,
                "PATH": ENVIRONMENT["PATH"],
                "OMP_WAIT_POLICY": "PASSIVE",
            }
        }
    )

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        head = ["--address", ray_head, "--working-dir", ".", "--runtime-env-json", runtime]
        job = [str(BIN / "ray"), "job", "submit", *head, "--", *command]
        return subprocess.run(
            job, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600
        )

    return run


@pytest.fixture(scope="module")
def mvc(submit: Submit) -> Path:
    """The demonstration data, fewer of it, as a job without a recipe builds them where it says."""
    job = submit("pipeline/build_mvc.py", "sources.0.num_pairs=160")
    output = job.stdout + job.stderr
    assert job.returncode == 0, output
    assert "no --recipe given: using" in output
    printed = re.search(r"writing to (\S+)", output)
    assert printed is not None, output
    return Path(printed[1])


@pytest.fixture(scope="module")
def model(submit: Submit, mvc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA that a job made, without time to learn, and finetuned for two steps."""
    out = tmp_path_factory.mktemp("jobs") / "svco"
    small = (
        "tiny.vision_dim=32 tiny.text_dim=32 tiny.vision_layers=1 tiny.text_layers=1"
        " tiny.num_eye_images=64 tiny.num_texts=64"
    )
    steps = (
        "optim.max_steps=2 optim.batch_pairs=8 optim.micro_batch_pairs=8 eval_every_steps=0"
        " log.num_samples=0"
    )
    job = submit(
        "training/train_svco.py", f"data={mvc}", f"out={out}", *small.split(), *steps.split()
    )
    assert job.returncode == 0, job.stdout + job.stderr
    return out


def test_a_submitted_build_without_a_recipe_makes_the_demonstration_and_says_where(
    mvc: Path,
) -> None:
    assert mvc.is_absolute()
    rows = read_manifest(mvc)["rows"]
    assert rows["in"] == 160
    assert rows["kept"] > 0


def test_a_submitted_job_refuses_a_relative_path(submit: Submit) -> None:
    refused = submit("pipeline/build_mvc.py", "out=build/x")
    assert refused.returncode != 0
    assert "a relative path is lost there" in refused.stdout + refused.stderr


def test_a_submitted_training_leaves_a_finished_model(model: Path) -> None:
    record = json.loads((model / "svco.json").read_text())
    assert record["steps"] == 2
    assert (model / "config.json").is_file()
    assert list(model.glob("*.safetensors"))


def test_a_submitted_evaluation_compares_before_and_after(
    submit: Submit, mvc: Path, model: Path, tmp_path: Path
) -> None:
    few = "max_pairs=8 generate.max_new_tokens=4 intervals.num_draws=100".split()
    job = submit(
        "eval/run_eval.py", f"model={model}", f"data={mvc}", f"out={tmp_path / 'eval'}", *few
    )
    assert job.returncode == 0, job.stdout + job.stderr
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert "before" in json.dumps(scores)
    assert (tmp_path / "eval" / "report.html").is_file()
