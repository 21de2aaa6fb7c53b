"""What goes wrong around a build: killed workers and nodes, a full disk, two at once, storage that
is remote.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.build_mvc import DEFAULT_RECIPE, build
from pipeline.config import BuildSection
from pipeline.core.recipe import load_recipe
from pipeline.core.schema import read_manifest
from pipeline.stages.plan import plan_build

ROOT = Path(__file__).resolve().parents[2]
NUM_PAIRS, NUM_CHUNKS = 600, 40

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def command(*arguments: str, recipe: str = "mvc_demo") -> list[str]:
    return [
        sys.executable,
        "pipeline/build_mvc.py",
        "--recipe",
        f"{ROOT}/recipes/{recipe}.yaml",
        *arguments,
    ]


def scenes(out: Path) -> list[str]:
    return command(
        f"sources.0.num_pairs={NUM_PAIRS}",
        f"workers.chunk_pairs={NUM_PAIRS // NUM_CHUNKS}",
        "encoders.clip=null",
        f"out={out}",
    )


def run(arguments: list[str], expect: int = 0, **environment: str) -> str:
    finished = subprocess.run(
        arguments,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**os.environ, **environment},
    )
    assert finished.returncode == expect, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def shard_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*/*.parquet"))}


def wait_for_chunks(out: Path, pattern: str, num: int, job: subprocess.Popen) -> None:
    deadline_s = time.monotonic() + 200
    while len(list((out / ".work").glob(pattern))) < num:
        assert job.poll() is None and time.monotonic() < deadline_s, (
            f"{num} chunks of {pattern} were not reached"
        )
        time.sleep(0.005)


def _a_worker_of(job: subprocess.Popen) -> psutil.Process:
    """A process that maps chunks at this moment."""
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        for child in psutil.Process(job.pid).children(recursive=True):
            try:
                if "ray::Map" in " ".join(child.cmdline()):
                    return child
            except psutil.Error:
                continue  # it has ended meanwhile
    pytest.fail("no worker was at work")


@pytest.fixture
def run_here(command_here: Callable[..., tuple[int, str]]) -> Callable[..., str]:
    """`run_here(command)`: the same as `run` in this process; on the Ray that runs in it, where a
    test asks for `one_ray` too.
    """
    from pipeline.build_mvc import run

    def call(arguments: list[str], expect: int = 0) -> str:
        code, printed = command_here(run, *arguments[2:])  # without the interpreter and the script
        assert code == expect, printed
        return printed

    return call


@pytest.fixture(scope="module")
def whole(one_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of a build that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    build(plan_build(load_recipe(DEFAULT_RECIPE, scenes(out)[4:], BuildSection)))
    assert read_manifest(out)["rows"]["kept"] == NUM_PAIRS
    return shard_bytes(out)


def test_a_driver_that_is_killed_goes_on_when_run_again(
    whole: dict[str, bytes], run_here: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = subprocess.Popen(
        scenes(out),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_chunks(out, "ingest/*/rows-*.parquet", 10, job)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    done = {
        path: path.stat().st_mtime_ns for path in (out / ".work").glob("ingest/*/rows-*.parquet")
    }
    assert 10 <= len(done) < NUM_CHUNKS, "the kill was meant to hit the middle of ingestion"
    run_here(scenes(out))
    assert shard_bytes(out) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_worker_that_is_killed_costs_no_row_and_a_second_build_into_the_folder_refuses(
    whole: dict[str, bytes], run_here: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = subprocess.Popen(
        scenes(out),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_chunks(out, "embed/*/images-*.parquet", 8, job)
    _a_worker_of(job).kill()
    done = {
        path: path.stat().st_mtime_ns for path in (out / ".work").glob("embed/*/images-*.parquet")
    }
    assert 8 <= len(done) < NUM_CHUNKS, "the kill was meant to hit the middle of embedding"
    assert f"error: out={out}: another job is writing there" in run_here(scenes(out), expect=2)
    if job.wait():
        run(scenes(out))
    assert shard_bytes(out) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_node_that_is_killed_costs_no_row_and_no_byte(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    out = tmp_path / "out"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        second = cluster.add_node(num_cpus=1)
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        job = subprocess.Popen(
            scenes(out), cwd=ROOT, start_new_session=True, env=environment, **quiet
        )
        wait_for_chunks(out, "ingest/*/rows-*.parquet", 6, job)
        cluster.remove_node(second, allow_graceful=False)
        assert len(list((out / ".work").glob("ingest/*/rows-*.parquet"))) < NUM_CHUNKS, (
            "the kill was meant to hit the middle"
        )
        if job.wait():
            run(scenes(out), RAY_ADDRESS=cluster.address)
    finally:
        cluster.shutdown()
    assert shard_bytes(out) == whole


def test_a_full_disk_is_one_line_and_the_build_goes_on_elsewhere(
    one_ray: None, run_here: Callable[..., str], small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    disk = small_disk("3m")
    output = run_here([*scenes(tmp_path / "out"), f"work={disk / 'work'}"], expect=2)
    assert "the disk is full; free some space" in output and "Traceback" not in output
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["status"] == "failed" and "the disk is full" in result["error"]
    assert not (tmp_path / "out/manifest.json").exists()
    assert not [path for path in disk.rglob("*") if path.name.startswith(".rows")], (
        "half a file was left"
    )


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """An S3 server of our own on a free port, with an empty bucket `mvc`; yields the environment
    that reaches it.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="mvc")
    yield environment
    server.stop()


def test_input_and_output_lie_on_s3(
    one_ray: None,
    run_here: Callable[..., str],
    bucket: dict[str, str],
    manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    import fsspec

    escape = {
        "image_a": "../secret.jpg",
        "image_b": "images/0-0.jpg",
        "caption_a": "a",
        "caption_b": "b",
        "id": "escape",
    }
    path = manifest(
        4, [json.dumps(escape), json.dumps({**escape, "image_a": "images/none.jpg", "id": "none"})]
    )
    options = {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": bucket["AWS_ENDPOINT_URL"]},
    }
    storage = fsspec.filesystem("s3", **options)
    storage.put(str(path.parent), "mvc/in", recursive=True)
    environment = {**bucket, "SVCO_CACHE": str(tmp_path / "cache")}
    build = command(
        "sources.0.path=s3://mvc/in/pairs.jsonl",
        "out=s3://mvc/out",
        "validation.fraction=0.3",
        recipe="mvc_pairs",
    )
    run(build, **environment)
    published = json.loads(storage.cat_file("mvc/out/manifest.json"))
    assert published["rows"]["dropped_by_reason"] == {
        "image_a_file_missing": 1,
        "image_a_outside_root": 1,
    }
    assert published["rows"]["kept"] == 16
    storage.get("mvc/out", str(tmp_path / "got"), recursive=True)
    run_here(
        command(
            f"sources.0.path={path}",
            f"out={tmp_path / 'local'}",
            "validation.fraction=0.3",
            recipe="mvc_pairs",
        )
    )
    assert shard_bytes(tmp_path / "got") == shard_bytes(tmp_path / "local")
    assert "nothing to do" in run(build, **environment)
    run([*build, "selection.max_caption_chars=1"], **environment)
    storage.invalidate_cache()
    assert not storage.glob("mvc/out/data/*.parquet"), "stale shards were left"
