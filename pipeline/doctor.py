"""`svco doctor`: what is installed and what this machine has, line by line, with what will not work
and what to do.

Looks only: nothing is downloaded, no token is shown or sent, and no Ray is started or joined.
"""

import importlib.metadata
import os
import shutil
import socket
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from pipeline.core.storage import cache_dir

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "svco-toolkit"
REACH_S = 3.0  # how long a Ray address may take to answer
LITTLE_DISK_GB, NO_DISK_GB = 20.0, 1.0
LITTLE_RAM_GB = 8.0
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
    """What the project depends on, from its own metadata, or from pyproject.toml where it is not
    installed.
    """
    try:
        listed = importlib.metadata.requires(DISTRIBUTION) or []
        return [line for line in listed if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:
        found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "dependencies"
        ]
        return found


def versions_tested() -> dict[str, str]:
    """The versions in constraints.txt, by name; empty where the file is not part of the
    installation.
    """
    file = ROOT / "constraints.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    pairs = [line.split("==") for line in lines if "==" in line]
    return {_plain(name): version for name, version in pairs}


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
    found, other = [], []
    count = 0
    for line in needed:
        requirement, count = Requirement(line), count + 1
        version = installed(requirement.name)
        install = f"pip install '{line}'" + (" -c constraints.txt" if tested else "")
        if version is None:
            found.append(Finding("problem", requirement.name, "not installed", install))
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(
                Finding(
                    "problem",
                    requirement.name,
                    f"{version}, expected {requirement.specifier}",
                    install,
                )
            )
        elif (wanted := tested.get(_plain(requirement.name))) and _short(version) != _short(wanted):
            other.append(f"{requirement.name} {version} (tested {wanted})")
    if other:
        remedy = "if something breaks: pip install -c constraints.txt " + " ".join(
            sorted(line.split(" ")[0] for line in other)
        )
        found.append(
            Finding(
                "warning", "versions", "not those that were tested: " + ", ".join(other), remedy
            )
        )
    return found or [
        Finding(
            "OK",
            "packages",
            f"all {count} there, in versions that were tested" if tested else f"all {count} there",
        )
    ]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").partition("[")[0]


def _short(version: str) -> str:
    """Major and minor: patches are taken for alike."""
    return ".".join(version.split("+")[0].split(".")[:2])


def check_gpus() -> list[Finding]:
    """The GPUs that torch sees, with their memory."""
    if installed_version("torch") is None:
        return []  # the packages say so
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            remedy = (
                "install torch for the driver's CUDA (pytorch.org/get-started), or update the"
                " driver"
            )
            return [
                Finding(
                    "warning",
                    "GPU",
                    f"there is a driver, but torch {torch.__version__} cannot use it",
                    remedy,
                )
            ]
        remedy = (
            "data sets, the tiny model and tests need none; for models of billions of parameters"
            " use a machine that has one"
        )
        return [Finding("warning", "GPU", "none", remedy)]
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info(index))
        line = f"{facts.name}, {total:.0f} GB, {free:.0f} GB free"
        if facts.major < 8:
            found.append(
                Finding(
                    "warning",
                    f"GPU {index}",
                    line,
                    "has no fast bfloat16; keep train.precision=float32",
                )
            )
        elif free < 0.5 * total:
            found.append(
                Finding(
                    "warning",
                    f"GPU {index}",
                    line,
                    "another process holds most of it; nvidia-smi says which",
                )
            )
        else:
            found.append(Finding("OK", f"GPU {index}", line))
    return found


def check_processor(cores: int, ram_gb: float) -> list[Finding]:
    """Cores and main memory."""
    found = []
    if cores <= 2:
        remedy = (
            "keep workers.cpus_per_worker at 0.5, as the recipes have it, so that two workers and a"
            " driver fit"
        )
        found.append(Finding("warning" if cores < 2 else "OK", "CPU", f"{cores} cores", remedy))
    else:
        found.append(Finding("OK", "CPU", f"{cores} cores"))
    if ram_gb < LITTLE_RAM_GB:
        remedy = (
            "keep workers.num_workers at 1 and micro batches small; `svco plan` says what a run"
            " needs"
        )
        found.append(Finding("warning", "memory", f"{ram_gb:.0f} GB", remedy))
    else:
        found.append(Finding("OK", "memory", f"{ram_gb:.0f} GB"))
    return found


def check_ray(
    environment: Mapping[str, str], reach: Callable[[str, int], str] | None = None
) -> list[Finding]:
    """Whether the Ray cluster that RAY_ADDRESS names answers."""
    address = environment.get("RAY_ADDRESS", "")
    if not address:
        return [
            Finding(
                "OK",
                "Ray",
                "no RAY_ADDRESS: each job starts a Ray of its own on this machine and ends it",
            )
        ]
    target = address
    if address == "auto":
        target = RAY_CLUSTER_FILE.read_text().strip() if RAY_CLUSTER_FILE.is_file() else ""
    parts = urlsplit(target if "//" in target else f"//{target}")
    try:
        host, port = (
            parts.hostname,
            parts.port
            or (
                10001
                if parts.scheme == "ray"
                else 8265
                if parts.scheme.startswith("http")
                else None
            ),
        )
    except ValueError:
        host, port = None, None
    if not host or port is None:
        remedy = (
            "give host:port of a running cluster, or unset RAY_ADDRESS to start one for each job"
        )
        return [
            Finding("problem", "Ray", f"RAY_ADDRESS={address} names no running cluster", remedy)
        ]
    failure = (reach or _reach)(host, port)
    if failure:
        remedy = "start the cluster (ray start --head), open the port, or unset RAY_ADDRESS"
        return [
            Finding("problem", "Ray", f"RAY_ADDRESS={address} does not answer ({failure})", remedy)
        ]
    found = [Finding("OK", "Ray", f"RAY_ADDRESS={address} answers")]
    keyed = (
        any(environment.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        or RAY_TOKEN_FILE.is_file()
    )
    if not keyed and environment.get("RAY_AUTH_MODE") != "disabled":
        # In Ray 2.60 a local ray.init uses a token, and `ray start` asks for one only if one
        # exists: from here that cannot be told.
        remedy = (
            "if the cluster was started with one: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
            " (docs/cluster.md, Tokens)"
        )
        found.append(Finding("warning", "Ray token", "none", remedy))
    return found


def _reach(host: str, port: int) -> str:
    """Why nothing answers there, or ""."""
    try:
        with socket.create_connection((host, port), REACH_S):
            return ""
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__


def check_hub(environment: Mapping[str, str], has_token: bool) -> Finding:
    """Whether the Hub can be asked, and with a token. The token itself is neither shown nor
    checked.
    """
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
    free_gb = shutil.disk_usage(there).free / 1e9
    fact = (
        f"{folder}: {free_gb:,.0f} GB free" if free_gb >= 10 else f"{folder}: {free_gb:.1f} GB free"
    )
    if not os.access(there, os.W_OK):
        return Finding(
            "problem", what, f"{folder}: cannot be written to", "work in a folder of your own"
        )
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
    found = [
        check_python(),
        *check_packages(requirements(), versions_tested()),
        *check_gpus(),
        *check_processor(cores, ram_gb),
    ]
    found += check_ray(os.environ)
    hub_cache = Path.home() / ".cache" / "huggingface"
    if installed_version("huggingface_hub") is not None:
        from huggingface_hub import constants, get_token

        hub_cache = Path(constants.HF_HUB_CACHE)
        found.append(check_hub(os.environ, get_token() is not None))
    found += [
        check_disk("disk here", Path.cwd()),
        check_disk("disk, cache", cache_dir()),
        check_disk("disk, Hub cache", hub_cache),
    ]
    return found


def lines_of(found: Iterable[Finding]) -> list[str]:
    """The report, and the remedy under each line that has one."""
    lines = []
    for finding in found:
        lines.append(f"{finding.level:<9}{finding.what:<18}{finding.fact}")
        if finding.remedy:
            lines.append(f"{'':<27}-> {finding.remedy}")
    return lines


def run() -> None:
    """Check versions, GPU, memory, Ray, Hub token and disk, and say what will not work and what to
    do.
    """
    found = findings()
    print("\n".join(lines_of(found)))
    counts = {
        level: sum(finding.level == level for finding in found) for level in ("problem", "warning")
    }
    print(
        "\n"
        + ", ".join(
            f"{count} {level}" + ("" if count == 1 else "s") for level, count in counts.items()
        )
    )
    if counts["problem"]:
        raise SystemExit(1)
