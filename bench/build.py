#!/usr/bin/env python3
"""How memory and time of a build grow with the data, and what a changed threshold costs.

    python bench/build.py  # 1,000, 10,000 and 100,000 drawn scenes: about 25 minutes on 2 cores
    python bench/build.py --sizes 500,5000

Each size is built by the user's command in a process of its own, whose memory is read five times a
second: the private memory of the driver, and of Ray's workers together (pages that only mirror
files can be given back at any time and do not count). Then one threshold is changed and the same
command is run again. Prints a table and the ratios from size to size, writes the numbers to
`--out`, and checks that both builds hold every candidate.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent


def private_bytes(process: psutil.Process) -> int:
    """Anonymous memory of a process, or 0 when it has ended meanwhile."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return found[0] * 1024 if found else 0


def run(arguments: list[str]) -> dict[str, float]:
    """Runs a build; returns its seconds and the peaks of private memory in MB."""
    started_s, peaks = time.monotonic(), {"driver_mb": 0.0, "worker_mb": 0.0}
    with tempfile.TemporaryFile() as log:
        job = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
        driver = psutil.Process(job.pid)
        while job.poll() is None:
            try:
                workers = [
                    child
                    for child in driver.children(recursive=True)
                    if child.cmdline()[:1] and "ray::" in child.cmdline()[0]
                ]
            except psutil.Error:
                workers = []
            peaks["driver_mb"] = max(peaks["driver_mb"], private_bytes(driver) / 1e6)
            peaks["worker_mb"] = max(
                [peaks["worker_mb"], *(private_bytes(worker) / 1e6 for worker in workers)]
            )
            time.sleep(0.2)
        if job.returncode:
            log.seek(0)
            raise SystemExit(log.read().decode())
    return {
        "seconds": round(time.monotonic() - started_s, 1),
        **{name: round(value, 1) for name, value in peaks.items()},
    }


def measure(num_pairs: int, folder: Path) -> dict[str, Any]:
    """One size: the build, and the build again with another threshold."""
    out = folder / str(num_pairs)
    command = [
        "pipeline/build_mvc.py",
        "--recipe",
        "recipes/mvc_demo.yaml",
        f"sources.0.num_pairs={num_pairs}",
        f"out={out}",
    ]
    command.append("encoders.clip=null")
    first = run(command)
    stages = {
        stage["name"]: stage["seconds"]
        for stage in json.loads((out / "result.json").read_text())["stages"]
    }
    image_mb = sum(path.stat().st_size for path in out.glob("*/*.parquet")) / 1e6
    again = run([*command, "selection.pixels_image_cos.min=0.5"])
    result = json.loads((out / "result.json").read_text())
    repeated = {
        stage["name"]: stage["seconds"] for stage in result["stages"] if not stage["reused"]
    }
    if (
        result["rows"]["in"] != num_pairs
        or result["rows"]["kept"] + result["rows"]["dropped"] != num_pairs
    ):
        raise SystemExit(f"{out}: {num_pairs} candidates went in, {result['rows']} came out")
    if {"ingest", "embed", "score"} & set(repeated):
        raise SystemExit("a changed threshold embedded again")
    work_s = sum(stages.values())
    return {
        "pairs": num_pairs,
        **first,
        "work_s": round(work_s, 1),
        "ms_per_pair": round(1000 * work_s / num_pairs, 3),
        "stages_s": stages,
        "shard_mb": round(image_mb, 1),
        "again": again,
        "again_stages_s": repeated,
        "finalise_mb_per_s": round(image_mb / repeated["finalise"], 1),
    }


def main() -> None:
    """Measures every size and prints the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--out", type=Path, default=Path("build/bench/build.json"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="svco-bench-") as folder:
        for size in options.sizes.split(","):
            rows.append(measure(int(size), Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    print("\n  pairs   driver MB   one worker MB   ms/pair   select s   finalise MB/s")
    for row in rows:
        select_s = row["again_stages_s"]["select"]
        cells = [
            f"{row['pairs']:>7,}",
            f"{row['driver_mb']:>11}",
            f"{row['worker_mb']:>15}",
            f"{row['ms_per_pair']:>9}",
        ]
        print(*cells, f"{select_s:>10}", f"{row['finalise_mb_per_s']:>15}")
    for before, after in itertools.pairwise(rows):
        factors = {
            name: round(float(after[name]) / float(before[name]), 2)
            for name in ("driver_mb", "worker_mb", "ms_per_pair")
        }
        print(
            f"{before['pairs']:,} -> {after['pairs']:,}: "
            + ", ".join(f"{name} x {factor}" for name, factor in factors.items())
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
