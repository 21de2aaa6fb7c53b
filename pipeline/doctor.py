"""`svco doctor`: what is installed and what this machine has, line by line.

With what will not work and what to do. Looks only: nothing is downloaded, no token is shown or
sent, and no Ray is started or joined.
"""

import importlib.metadata
import os
import re
import shutil
import socket
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.core.storage import cache_dir

ROOT = Path(__file__).resolve().parent.parent
REACH_S = 3.0  # how long a Ray address may take to answer
LITTLE_DISK_GB, NO_DISK_GB, LITTLE_RAM_GB = 20.0, 1.0, 8.0
RAY_CLUSTER_FILE = Path("/tmp/ray/ray_current_cluster")  # noqa: S108
RAY_TOKEN_FILE = Path.home() / ".ray" / "auth_token"

Level = Literal["OK", "warning", "problem"]


class Finding(NamedTuple):
    """One line of the report."""

    level: Level
    what: str
    fact: str
    remedy: str = ""


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """Whether this Python is one that the project is tested with."""
    shown = ".".join(map(str, version))
    if (3, 11) <= version < (3, 13):
        return Finding("OK", "python", shown)
    return Finding(
        "problem",
        "python",
        f"{shown}, expected 3.11 or 3.12",
        "make an environment with one of them: python3.12 -m venv .venv",
    )


def requirements() -> list[str]:
    """What the project depends on: from its own metadata, or else from pyproject.toml."""
    try:
        listed = importlib.metadata.requires("svco-toolkit") or []
    except importlib.metadata.PackageNotFoundError:
        listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [line for line in listed if "extra ==" not in line]


def versions_tested() -> dict[str, str]:
    """The versions in constraints.txt, by name; empty where that file is not installed."""
    file = ROOT / "constraints.txt"
    pairs = re.findall(r"^(.+)==(.+)$", file.read_text() if file.is_file() else "", re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pairs}


def installed_version(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages(
    needed: Iterable[str],
    tested: Mapping[str, str],
    installed: Callable[[str], str | None] = installed_version,
) -> list[Finding]:
    """Whether all that is needed is there, and in which respects it is not what was tested."""
    requirements = [(line, Requirement(line)) for line in needed]
    faults, untested = {}, {}
    for line, requirement in requirements:
        name, version = requirement.name, installed(requirement.name)
        wanted = tested.get(canonicalize_name(name))
        if version is None:
            faults[line] = (name, "not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            faults[line] = (name, f"{version}, expected {requirement.specifier}")
        elif wanted and _short(version) != _short(wanted):
            untested[name] = f"{name} {version} (tested {wanted})"
    pinned = " -c constraints.txt" if tested else ""
    findings = [
        Finding("problem", name, fact, f"pip install '{line}'{pinned}")
        for line, (name, fact) in faults.items()
    ]
    if untested:
        fact = f"not those that were tested: {', '.join(untested.values())}"
        remedy = f"if something breaks: pip install -c constraints.txt {' '.join(sorted(untested))}"
        findings.append(Finding("warning", "versions", fact, remedy))
    fact = f"all {len(requirements)} there" + (", in versions that were tested" if tested else "")
    return findings or [Finding("OK", "packages", fact)]


def _short(version: str) -> str:
    """Major and minor: patches are taken for alike."""
    return ".".join(version.split("+")[0].split(".")[:2])


def check_gpus() -> list[Finding]:
    """The GPUs that torch sees, with their memory."""
    if installed_version("torch") is None:
        return []  # the packages say so
    import torch

    if torch.cuda.is_available():
        return [_check_gpu(index) for index in range(torch.cuda.device_count())]
    fact, remedy = (
        (
            f"there is a driver, but torch {torch.__version__} cannot use it",
            "install torch for the driver's CUDA (pytorch.org/get-started), or update the driver",
        )
        if shutil.which("nvidia-smi")
        else (
            "none",
            "data sets, the tiny model and tests need none; for models of billions of parameters"
            " use a machine that has one",
        )
    )
    return [Finding("warning", "GPU", fact, remedy)]


def _check_gpu(index: int) -> Finding:
    import torch

    name, properties = f"GPU {index}", torch.cuda.get_device_properties(index)
    free, total = (size / 1e9 for size in torch.cuda.mem_get_info(index))
    fact = f"{properties.name}, {total:.0f} GB, {free:.0f} GB free"
    if properties.major < 8:
        return Finding("warning", name, fact, "has no fast bfloat16; keep train.precision=float32")
    if free < 0.5 * total:
        return Finding(
            "warning", name, fact, "another process holds most of it; nvidia-smi says which"
        )
    return Finding("OK", name, fact)


def check_processor(cores: int, ram_gb: float) -> list[Finding]:
    """Cores and main memory."""
    is_little = ram_gb < LITTLE_RAM_GB
    few = (
        "keep workers.cpus_per_worker at 0.5, as the recipes have it, so that two workers and a"
        " driver fit"
    )
    little = (
        "keep workers.num_workers at 1 and micro batches small; `svco plan` says what a run needs"
    )
    return [
        Finding(
            "warning" if cores < 2 else "OK", "CPU", f"{cores} cores", few if cores <= 2 else ""
        ),
        Finding(
            "warning" if is_little else "OK",
            "memory",
            f"{ram_gb:.0f} GB",
            little if is_little else "",
        ),
    ]


def reach(host: str, port: int) -> str:
    """Why nothing answers at an address, or ""."""
    try:
        with socket.create_connection((host, port), REACH_S):
            return ""
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__


def check_ray(
    environment: Mapping[str, str], reach: Callable[[str, int], str] = reach
) -> list[Finding]:
    """Whether the Ray cluster that RAY_ADDRESS names answers."""
    address = environment.get("RAY_ADDRESS", "")
    if not address:
        own = "no RAY_ADDRESS: each job starts a Ray of its own on this machine and ends it"
        return [Finding("OK", "Ray", own)]
    target = _ray_target(address)
    if target is None:
        return [
            Finding(
                "problem",
                "Ray",
                f"RAY_ADDRESS={address} names no running cluster",
                "give host:port of a running cluster, or unset RAY_ADDRESS to start one for each"
                " job",
            )
        ]
    if failure := reach(*target):
        return [
            Finding(
                "problem",
                "Ray",
                f"RAY_ADDRESS={address} does not answer ({failure})",
                "start the cluster (ray start --head), open the port, or unset RAY_ADDRESS",
            )
        ]
    findings = [Finding("OK", "Ray", f"RAY_ADDRESS={address} answers")]
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    has_token = any(environment.get(name) for name in names) or RAY_TOKEN_FILE.is_file()
    if not has_token and environment.get("RAY_AUTH_MODE") != "disabled":
        # In Ray 2.60 a local ray.init uses a token, and `ray start` asks for one only if one
        # exists: from here that cannot be told.
        remedy = (
            "if the cluster was started with one: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
            " (docs/cluster.md, Tokens)"
        )
        findings.append(Finding("warning", "Ray token", "none", remedy))
    return findings


def _ray_target(address: str) -> tuple[str, int] | None:
    """Host and port of RAY_ADDRESS; None where it names none."""
    if address == "auto":
        address = RAY_CLUSTER_FILE.read_text().strip() if RAY_CLUSTER_FILE.is_file() else ""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        port = parts.port or {"ray": 10001, "http": 8265, "https": 8265}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def check_hub(environment: Mapping[str, str], has_token: bool) -> Finding:
    """Whether the Hub can be asked, and with a token, which is neither shown nor checked."""
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding(
            "warning",
            "Hub",
            "HF_HUB_OFFLINE is set",
            "models must be folders or in the cache; unset it to download",
        )
    if has_token:
        return Finding("OK", "Hub", "a token is there (not shown, not checked)")
    return Finding(
        "warning",
        "Hub",
        "no token",
        "public models and data need none; for gated ones and `svco publish`: hf auth login",
    )


def check_disk(what: str, folder: Path) -> Finding:
    """Whether a folder's disk has room and can be written to."""
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    if not os.access(there, os.W_OK):
        return Finding(
            "problem", what, f"{folder}: cannot be written to", "work in a folder of your own"
        )
    free_gb = shutil.disk_usage(there).free / 1e9
    fact = f"{folder}: {free_gb:,.{0 if free_gb >= 10 else 1}f} GB free"
    if free_gb < NO_DISK_GB:
        return Finding("problem", what, fact, "make room, or use another disk")
    if free_gb < LITTLE_DISK_GB:
        return Finding(
            "warning",
            what,
            fact,
            "enough for small data; a 7B model takes 15 GB, and a checkpoint of full finetuning"
            " 85 GB",
        )
    return Finding("OK", what, fact)


def findings() -> list[Finding]:
    """All checks on this machine."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    ram_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    hub, hub_cache = [], Path.home() / ".cache" / "huggingface"
    if installed_version("huggingface_hub") is not None:
        from huggingface_hub import constants, get_token

        hub_cache = Path(constants.HF_HUB_CACHE)
        hub = [check_hub(os.environ, get_token() is not None)]
    return [
        check_python(),
        *check_packages(requirements(), versions_tested()),
        *check_gpus(),
        *check_processor(cores, ram_gb),
        *check_ray(os.environ),
        *hub,
        check_disk("disk here", Path.cwd()),
        check_disk("disk, cache", cache_dir()),
        check_disk("disk, Hub cache", hub_cache),
    ]


def lines_of(findings: Iterable[Finding]) -> Iterator[str]:
    """The report, and the remedy under each line that has one."""
    for level, what, fact, remedy in findings:
        yield f"{level:<9}{what:<18}{fact}"
        if remedy:
            yield f"{'':<27}-> {remedy}"


def run(more: Iterable[Finding] = ()) -> None:
    """Prints the report, with what else was looked at; ends with 1 where there is a problem."""
    report = [*findings(), *more]
    print("\n".join(lines_of(report)))
    levels = Counter(finding.level for finding in report)
    counts = [
        f"{levels[level]} {level}" + ("" if levels[level] == 1 else "s")
        for level in ("problem", "warning")
    ]
    print(f"\n{', '.join(counts)}")
    if levels["problem"]:
        raise SystemExit(1)
