import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes says nothing on a shared machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# Files with the longest tests come first: where processes share the files, none is left alone with
# one of these at the end.
LONGEST = (
    "test_train_faults.py",
    "test_jobs.py",
    "test_faults.py",
    "test_tiny.py",
    "test_study.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the files, and leaves the order inside each as it is."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        )
    )


@pytest.fixture
def test_data() -> Path:
    """The folder of real photographs, which are not part of this repository."""
    folder = os.environ.get("SVCO_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip(
            "real photographs are not here: set SVCO_TEST_DATA to the folder that holds hands/ and"
            " objects/"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """Ray in this process, started once for all tests that need no cluster of their own.

    The jobs join what they find here. It has one GPU, which is pretended: whoever asks for it gets
    a plan that Ray checks and runs, up to the point where CUDA would be called.
    """
    from pipeline.core.ray_pool import ray_session

    os.environ["RAY_OVERRIDE_RESOURCES"] = '{"GPU": 1}'
    with ray_session():
        del os.environ["RAY_OVERRIDE_RESOURCES"]
        yield


@pytest.fixture
def command_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`command_here(run, *arguments)`: a command line in this process, which saves its imports;
    exit code and all that it printed.
    """
    from pipeline.core.cli import run_command

    def run(command: Callable[..., None], *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["svco", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            run_command(command)
        return int(end.value.code or 0), "".join(capfd.readouterr())

    return run


# Runs svco.cli and fails where a module came along that the first argument names.
LEAN = """
import sys
forbidden, sys.argv = set(sys.argv[1].split(",")), ["svco", *sys.argv[2:]]
from svco.cli import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
loaded = forbidden & set(sys.modules)
assert not loaded, f"loaded {loaded}"
sys.exit(code)
"""


@pytest.fixture
def lean_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`lean_command(verb, *arguments)`: svco in a process of its own, without torch and Ray."""

    def run(*arguments: object, code: int = 0, without: str = "") -> Any:
        command = [sys.executable, "-c", LEAN, f"torch,ray,transformers,{without}"]
        finished = subprocess.run(
            [*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert finished.returncode == code, finished.stderr
        return finished

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("3m")`: the root of a file system of our own that holds no more."""
    place = tmp_path / "small"

    def mounted(size: str) -> Path:
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "svco-small", place]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            place.rmdir()
            pytest.skip("a small file system cannot be mounted here")
        return place

    yield mounted
    if place.is_dir():
        subprocess.run(["umount", "-l", place], check=True)
