"""`svco doctor`: each fact has its line, each fault its remedy, and secrets stay secret.

The exit code says whether all is well.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import doctor
from pipeline.doctor import (
    Finding,
    check_disk,
    check_hub,
    check_packages,
    check_processor,
    check_python,
    check_ray,
    lines_of,
    requirements,
    run,
    versions_tested,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 11), "OK"), ((3, 12), "OK"), ((3, 10), "problem"), ((3, 13), "problem")],
)
def test_python(version: tuple[int, int], level: str) -> None:
    assert check_python(version).level == level


def test_packages_that_are_missing_old_or_untested() -> None:
    there = {"alpha": "2.1.0", "beta": "0.9", "gamma-delta": "3.4.5+cpu", "fine": "1.0.7"}
    needed = ["alpha[x]>=2", "beta>=1", "gamma_delta>=3", "missing", "fine"]
    tested = {"alpha": "2.5.0", "beta": "1.0", "gamma-delta": "3.4.1", "fine": "1.0.0"}
    findings = check_packages(needed, tested, lambda name: there.get(name.replace("_", "-")))
    assert findings == [
        Finding("problem", "beta", "0.9, expected >=1", "pip install 'beta>=1' -c constraints.txt"),
        Finding("problem", "missing", "not installed", "pip install 'missing' -c constraints.txt"),
        Finding(
            "warning",
            "versions",
            "not those that were tested: alpha 2.1.0 (tested 2.5.0)",
            "if something breaks: pip install -c constraints.txt alpha",
        ),
    ]
    assert check_packages(["fine"], {}, there.get) == [Finding("OK", "packages", "all 1 there")]


def test_the_project_knows_what_it_needs() -> None:
    assert any(line.startswith("ray[") for line in requirements())
    assert not any("pytest" in line for line in requirements())
    assert {"torch", "ray", "transformers", "open-clip-torch"} <= versions_tested().keys()


def test_two_cores_are_told_of_fractions() -> None:
    cpu, memory = check_processor(2, 24)
    assert (cpu.level, memory.level) == ("OK", "OK")
    assert "workers.cpus_per_worker at 0.5" in cpu.remedy
    assert [finding.level for finding in check_processor(1, 4)] == ["warning", "warning"]
    assert check_processor(16, 128)[0].remedy == ""


def test_ray_that_is_not_named_is_fine() -> None:
    (finding,) = check_ray({})
    assert finding.level == "OK"


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("head:6379", ("head", 6379)),
        ("ray://head:10002", ("head", 10002)),
        ("ray://head", ("head", 10001)),
        ("http://head:8265", ("head", 8265)),
    ],
)
def test_the_address_of_ray_is_asked(address: str, asked: tuple[str, int]) -> None:
    seen: list[tuple[str, int]] = []

    def reach(host: str, port: int) -> str:
        seen.append((host, port))
        return ""

    findings = check_ray({"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}, reach)
    assert [finding.level for finding in findings] == ["OK"]
    assert seen == [asked]


def test_ray_that_answers_and_ray_that_does_not() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        findings = check_ray({"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": "secret-token"})
        assert [finding.level for finding in findings] == ["OK"]
        assert "secret-token" not in "".join(lines_of(findings))
    (finding,) = check_ray({"RAY_ADDRESS": address})
    assert finding.level == "problem"
    assert "does not answer" in finding.fact
    assert "unset RAY_ADDRESS" in finding.remedy


def test_a_cluster_without_a_token_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "RAY_TOKEN_FILE", tmp_path / "none")
    findings = check_ray({"RAY_ADDRESS": "head:6379"}, lambda *_: "")
    assert [finding.level for finding in findings] == ["OK", "warning"]


@pytest.mark.parametrize("address", ["auto", "head", "head:words"])
def test_an_address_that_names_nothing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "RAY_CLUSTER_FILE", tmp_path / "none")
    (finding,) = check_ray({"RAY_ADDRESS": address}, lambda *_: "")
    assert (finding.level, "names no running cluster" in finding.fact) == ("problem", True)


def test_auto_is_the_cluster_that_was_started_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ray_current_cluster"
    file.write_text("10.0.0.7:6379\n")
    monkeypatch.setattr(doctor, "RAY_CLUSTER_FILE", file)
    findings = check_ray(
        {"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "disabled"},
        lambda host, port: "" if (host, port) == ("10.0.0.7", 6379) else "no",
    )
    assert findings[0].level == "OK"


def test_the_hub_token_is_there_or_not() -> None:
    assert check_hub({}, True).level == "OK"
    assert check_hub({}, False).level == "warning"
    assert "HF_HUB_OFFLINE" in check_hub({"HF_HUB_OFFLINE": "1"}, True).fact


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_gb(free_gb: float) -> Finding:
        usage = shutil_usage(free_gb)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
        return check_disk("disk here", tmp_path / "not" / "yet")

    assert [with_gb(gb).level for gb in (500, 5, 0.5)] == ["OK", "warning", "problem"]
    assert with_gb(5).fact.endswith("5.0 GB free")
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert with_gb(500).level == "problem"


def shutil_usage(free_gb: float) -> Any:
    return type("Usage", (), {"free": free_gb * 1e9})()


@pytest.mark.parametrize(("level", "code"), [("OK", None), ("warning", None), ("problem", 1)])
def test_only_problems_end_with_1(
    level: Any,
    code: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        doctor, "findings", lambda: [Finding(level, "disk", "0.1 GB free", "make room")]
    )
    ended = None
    try:
        run()
    except SystemExit as stop:
        ended = stop.code
    assert ended == code
    assert "-> make room" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_ends_with_1_if_something_will_not_work(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "RAY_ADDRESS": "127.0.0.1:9",
        "HF_TOKEN": "hf_neverShowThis",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "svco", "doctor"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("problem  Ray ") for line in lines)
    assert any(line.startswith("OK       Hub ") for line in lines)
    assert any(line.startswith("OK       python") for line in lines)
    assert "hf_neverShowThis" not in done.stdout + done.stderr
    assert lines[-1].startswith("1 problem, ")
