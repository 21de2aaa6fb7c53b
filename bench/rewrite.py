#!/usr/bin/env python3
"""How close rewriting comes to the rate that requests in flight and latency allow, and what a
cached row costs.

    python bench/rewrite.py                        # two minutes on 2 free cores
    python bench/rewrite.py --in-flight 64 --seconds 20

A server in a process of its own (bench/rewrite_server.py, as lean as can be) answers after 200 ms.
With N requests in flight no client can be faster than N / 0.2 s per second. First the client alone
(half a question each), then the whole stage (two requests per pair, with all checks and the files),
then the stage again with every reply in the cache. Prints rates, their share of the possible one,
and the processor time of client, stage and server per request; checks that both runs wrote the same
texts, that the server saw no request twice, and that N were in flight at once.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.llm.batch import ChunkWork  # noqa: E402
from pipeline.llm.client import Endpoint  # noqa: E402
from pipeline.llm.config import EndpointSection  # noqa: E402
from pipeline.rewrite.config import RewriteSection  # noqa: E402
from pipeline.rewrite.stage import rewrite_chunks  # noqa: E402
from pipeline.rewrite.template import Written  # noqa: E402
from pipeline.rewrite.types import Pair, Rewrite  # noqa: E402

LATENCY_S, CHUNK_PAIRS = 0.2, 256
COLORS = "red blue green black white pink brown grey".split()


def pairs(count: int, tag: str) -> list[Pair]:
    """Pairs of captions, each different."""
    text = "A {} ball number {} of {} lies on a wooden table beside a sleeping dog."
    return [
        Pair(*(text.format(COLORS[(n + side) % 8], n, tag) for side in (0, 1)), "attribute")
        for n in range(count)
    ]


async def client_rate(section: EndpointSection, count: int, tag: str) -> tuple[float, float, int]:
    """Requests per second of the client alone in a steady state, its CPU milliseconds per request,
    and the most in flight.
    """
    data = [
        [
            {"role": "system", "content": "x" * 1600},
            {
                "role": "user",
                "content": json.dumps({"caption_a": pair.caption_a, "caption_b": pair.caption_b}),
            },
        ]
        for pair in pairs(count, tag)
    ]
    async with Endpoint(section, tag) as endpoint:
        # Connections are opened once per job, not once per request.
        await asyncio.gather(
            *(endpoint.ask(messages) for messages in data[: section.max_in_flight])
        )
        started_s, cpu_s = time.monotonic(), time.process_time()
        rest = data[section.max_in_flight :]
        await asyncio.gather(*(endpoint.ask(messages) for messages in rest))
        seconds, cpu = time.monotonic() - started_s, time.process_time() - cpu_s
        return len(rest) / seconds, 1000 * cpu / len(rest), endpoint.peak_in_flight


def stage_seconds(
    section: RewriteSection, count: int, tag: str
) -> tuple[float, float, dict[str, list[Written]]]:
    """Seconds and CPU seconds of the whole stage without its files, and what was written, by
    status.
    """
    written: dict[str, list[Written]] = {}

    def finish(rewrites: list[Rewrite | None]) -> None:
        for rewrite in rewrites:
            if rewrite and rewrite.written:
                written.setdefault(rewrite.status, []).append(rewrite.written)

    def works() -> Iterator[ChunkWork[Pair, Rewrite]]:
        everything = pairs(count, tag)
        for start in range(0, count, CHUNK_PAIRS):
            yield ChunkWork(everything[start : start + CHUNK_PAIRS], finish)

    started_s, cpu_s = time.monotonic(), time.process_time()
    rewrite_chunks(works(), section, tag)
    return time.monotonic() - started_s, time.process_time() - cpu_s, written


def measure(base_url: str, folder: Path, in_flight: int, seconds: float) -> None:
    """One table row."""
    possible = in_flight / LATENCY_S
    count = int(possible * seconds)
    common = {
        "base_url": base_url,
        "model": "bench",
        "api_key_env": None,
        "timeout_s": 120.0,
        "cache": str(folder / f"{in_flight}.sqlite"),
    }
    endpoint = EndpointSection(**common, max_in_flight=in_flight)
    rate, cpu_ms, peak = asyncio.run(
        client_rate(endpoint, in_flight + count, f"client {in_flight}")
    )
    share = f"{rate:7.1f}/s of {possible:7.1f} ({rate / possible:6.1%})"
    if peak != in_flight:
        raise SystemExit(f"expected {in_flight} requests in flight at once, saw {peak}")
    print(
        f"{in_flight:>4} in flight   client {share}, {cpu_ms:.2f} ms CPU each, peak {peak}",
        flush=True,
    )
    section = RewriteSection(backend="openai", endpoint=endpoint)
    num_pairs = count // 2
    fresh_s, fresh_cpu_s, written = stage_seconds(section, num_pairs, f"stage {in_flight}")
    if {status: len(rows) for status, rows in written.items()} != {"llm": num_pairs}:
        raise SystemExit(
            f"expected {num_pairs} pairs written by the model, got"
            f" { ({name: len(rows) for name, rows in written.items()}) }"
        )
    cached_s, cached_cpu_s, again = stage_seconds(section, num_pairs, f"stage {in_flight}")
    if {status: sorted(rows, key=str) for status, rows in again.items()} != {
        s: sorted(rows, key=str) for s, rows in written.items()
    }:
        raise SystemExit("the cached run wrote other texts")
    rate = 2 * num_pairs / fresh_s
    share, cpu_ms = (
        f"{rate:7.1f}/s ({rate / possible:6.1%}, start and end included)",
        1000 * fresh_cpu_s / (2 * num_pairs),
    )
    print(f"                 stage  {share}, {cpu_ms:.2f} ms CPU each, two per row")
    print(
        f"                 cached {1000 * cached_s / num_pairs:.2f} ms per row,"
        f" {1000 * cached_cpu_s / num_pairs:.2f} of it CPU",
        flush=True,
    )


def main() -> None:
    """Measures at each number in flight against one server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--in-flight", type=lambda text: [int(part) for part in text.split(",")], default=[64, 256]
    )
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="svco-bench-") as name:
        log = Path(name) / "answered.json"
        command = [
            sys.executable,
            str(ROOT / "bench/rewrite_server.py"),
            "--delay-s",
            str(LATENCY_S),
            "--log",
            str(log),
        ]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            base_url = server.stdout.readline().strip()
            for in_flight in options.in_flight:
                measure(base_url, Path(name), in_flight, options.seconds)
        finally:
            server.terminate()
            server.wait()
        told = json.loads(log.read_text())
        answered = Counter(told["answered"])
        if set(answered.values()) != {1}:
            raise SystemExit(
                f"{sum(n > 1 for n in answered.values())} requests were answered twice"
            )
        print(
            f"{len(answered):,} requests, none answered twice; the server took"
            f" {1000 * told['cpu_s'] / len(answered):.2f} ms CPU each"
        )


if __name__ == "__main__":
    main()
