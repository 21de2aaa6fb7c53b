"""Whole builds on Ray, on real files: counts, bytes, faults, restarts, and the job as a cluster runs it."""

import hashlib
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
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.schema import COLUMNS, read_manifest, read_mvc

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def _build(*arguments: str, recipe: str = "mvc_pairs", expect: int = 0) -> str:
    command = [sys.executable, "pipeline/build_mvc.py", "--recipe", f"recipes/{recipe}.yaml", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == expect, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def _hashes(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.parquet") if ".work" not in path.parts}


def test_every_candidate_ends_in_one_place_and_a_second_build_has_the_same_bytes(manifest: Callable[..., Path], tmp_path: Path) -> None:
    bad = {"image_a": "images/0-0.jpg", "image_b": "images/text.jpg", "caption_a": "a", "caption_b": "b", "category": "other", "id": "bad"}
    good = {**bad, "image_b": "images/0-1.jpg", "id": "same"}
    lines = ["{broken", json.dumps(bad), json.dumps({**good, "caption_b": "A"}), json.dumps({**good, "image_b": "images/0-0.jpg"})]
    repeated = {**good, "caption_a": "x one", "caption_b": "x two"}
    path = manifest(6, [*lines, json.dumps({**repeated, "id": "r2"}), json.dumps({**repeated, "id": "r1"})])
    (path.parent / "images/text.jpg").write_text("no picture")
    options = [f"sources.0.path={path}", "workers.chunk_pairs=7", "validation.fraction=0.2"]
    out = tmp_path / "one"
    _build(*options, f"out={out}")

    manifest_ = read_manifest(out)
    counts = manifest_["rows"]
    assert counts["in"] == 30 == counts["kept"] + counts["dropped"]
    assert counts["dropped_by_reason"] == {
        "captions_equal": 1, "duplicate_pair": 1, "image_b_not_an_image": 1, "images_equal": 1, "line_not_json": 1,
    }  # fmt: skip
    train, validation = read_mvc(out, "train"), read_mvc(out, "validation")
    assert train.num_rows + validation.num_rows == counts["kept"] == 25
    assert not set(train["group"].to_pylist()) & set(validation["group"].to_pylist())
    assert {name for name, _ in manifest_["files"].items()} == {p.relative_to(out).as_posix() for p in out.glob("*/*.parquet")}
    _datasets_reads_it(out)

    assert "nothing to do" in _build(*options, f"out={out}")
    _build(*options, f"out={tmp_path / 'two'}")
    assert _hashes(tmp_path / "two") == _hashes(out)


def _datasets_reads_it(out: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(str(out), split="train", cache_dir=str(out / ".work" / "datasets"))
    assert tuple(data.column_names) == COLUMNS
    assert data[0]["image_a"].size == (48, 48)
    rejects = datasets.load_dataset(str(out), "rejects", split="train", cache_dir=str(out / ".work" / "datasets"))
    assert rejects.column_names[-1] == "drop_reason"
    by_reason = {row["drop_reason"]: row for row in rejects}
    assert by_reason["image_b_not_an_image"]["image_b"] is None
    assert by_reason["image_b_not_an_image"]["image_a"] is not None


def test_a_folder_that_holds_something_else_is_left_alone(manifest: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "mine/data").mkdir(parents=True)
    (tmp_path / "mine/data/mine.parquet").write_bytes(b"dear")
    output = _build(f"sources.0.path={manifest(1)}", f"out={tmp_path / 'mine'}", expect=2)
    assert "holds 'data', which no build made" in output
    assert (tmp_path / "mine/data/mine.parquet").read_bytes() == b"dear"


def test_a_gpu_that_is_not_there_is_not_waited_for(manifest: Callable[..., Path], tmp_path: Path) -> None:
    clip = "encoders.clip={model: 'builtin:scenes-clip', device: cuda}"
    assert "Ray sees no GPU here" in _build(f"sources.0.path={manifest(1)}", f"out={tmp_path / 'out'}", clip, expect=2)


def test_a_new_threshold_embeds_nothing_again(manifest: Callable[..., Path], tmp_path: Path) -> None:
    options = [f"sources.0.path={manifest(4)}", f"out={tmp_path / 'out'}"]
    _build(*options)
    embedded = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/.work/embed").rglob("*.parquet")}
    _build(*options, "selection.pixels_image_cos.min=0.999")
    stages = {stage["name"]: stage["reused"] for stage in json.loads((tmp_path / "out/result.json").read_text())["stages"]}
    assert [name for name, reused in stages.items() if reused] == ["ingest", "link", "embed", "score"]
    assert [name for name, reused in stages.items() if not reused] == ["select", "rewrite", "audit", "finalise"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/.work/embed").rglob("*.parquet")} == embedded
    assert read_manifest(tmp_path / "out")["rows"]["dropped_by_reason"] == {"pixels_image_cos_below_min": 16}
    _build(*options, "selection.max_caption_chars=10")
    assert read_manifest(tmp_path / "out")["rows"]["dropped_by_reason"] == {"caption_a_too_long": 16}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/.work/embed").rglob("*.parquet")} == embedded


def test_a_killed_build_goes_on_and_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    options = ["sources.0.num_pairs=4000", "workers.chunk_pairs=100"]
    _build(*options, f"out={tmp_path / 'whole'}", recipe="mvc_demo")
    command = [sys.executable, "pipeline/build_mvc.py", "--recipe", "recipes/mvc_demo.yaml", *options, f"out={tmp_path / 'killed'}"]
    job = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while len(list((tmp_path / "killed").rglob("rows-*.parquet"))) < 10 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    done = list((tmp_path / "killed").rglob("rows-*.parquet"))
    assert 10 <= len(done) < 40, "the kill was meant to hit the middle of ingestion"
    written = {path: path.stat().st_mtime_ns for path in done}
    _build(*options, f"out={tmp_path / 'killed'}", recipe="mvc_demo")
    assert {path: path.stat().st_mtime_ns for path in done} == written
    assert _hashes(tmp_path / "killed") == _hashes(tmp_path / "whole")


def test_a_model_that_cannot_be_loaded_is_one_line_and_exit_code_2(manifest: Callable[..., Path], tmp_path: Path) -> None:
    output = _build(f"sources.0.path={manifest(1)}", f"out={tmp_path / 'out'}", "encoders.clip={model: 'local-dir:/nowhere'}", expect=2)
    assert "error: encoders.clip: cannot load 'local-dir:/nowhere'" in output
    assert "Traceback" not in output


def test_people_of_hands_are_never_split_and_all_candidates_are_accounted_for(test_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "hands"
    _build(f"sources.0.path={test_data / 'hands' / 'pairs.jsonl'}", f"out={out}")
    counts = read_manifest(out)["rows"]
    assert counts["in"] == 6750 == counts["kept"] + counts["dropped"]
    people = {split: Counter(read_mvc(out, split, ["group"])["group"].to_pylist()) for split in ("train", "validation")}
    assert not set(people["train"]) & set(people["validation"])
    assert len(people["train"]) + len(people["validation"]) == 150


@pytest.fixture
def ray_head(tmp_path: Path) -> Iterator[str]:
    """A Ray head of our own as a child process on free ports, ended by its own process group."""
    sockets = tempfile.mkdtemp(prefix="svco-")  # a socket's path may have 107 characters, so pytest's folders are too deep
    ports = []
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    options = ["--head", "--block", "--num-cpus=2", "--include-dashboard=true", "--disable-usage-stats", f"--temp-dir={sockets}"]
    names = ["--port", "--dashboard-port", "--ray-client-server-port", "--dashboard-agent-listen-port", "--metrics-export-port"]
    options += [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    log = (tmp_path / "head.log").open("w")
    ray = Path(sys.executable).with_name("ray")
    head = subprocess.Popen([ray, "start", *options], stdout=log, stderr=log, start_new_session=True, env=environment)
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        _wait_until_it_answers(address, head, tmp_path / "head.log")
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


def _wait_until_it_answers(address: str, head: subprocess.Popen, log: Path) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

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


def test_ray_job_submit_builds_the_demonstration_without_a_recipe(ray_head: str, tmp_path: Path) -> None:
    ray = str(Path(sys.executable).with_name("ray"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PATH": path}
    runtime = json.dumps({"env_vars": {"SVCO_CACHE": str(tmp_path / "cache"), "PATH": path}})
    command = [
        ray,
        "job",
        "submit",
        "--address",
        ray_head,
        "--working-dir",
        ".",
        "--runtime-env-json",
        runtime,
        "--",
        "pipeline/build_mvc.py",
    ]
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    output = job.stdout + job.stderr
    assert job.returncode == 0, output
    assert "no --recipe given: using" in output
    printed = re.search(r"writing to (\S+)", output)
    assert printed is not None, output
    assert Path(printed[1]).is_absolute()
    assert read_manifest(printed[1])["rows"]["kept"] > 0
    refused = subprocess.run([*command, "out=build/x"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode != 0
    assert "a relative path is lost there" in refused.stdout + refused.stderr
