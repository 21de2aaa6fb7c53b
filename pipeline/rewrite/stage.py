"""Rewriting chunks with a model: many pairs at once across chunks, one file of texts and one of tries per chunk.

All of it runs in the process that started the build: the work is waiting, one process keeps hundreds of requests in
flight, and limits and budget are then exact with nothing to share.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.decide import pairs_to_write, rewrite_chunk
from pipeline.endpoint import Endpoint
from pipeline.recipe import UserError
from pipeline.rewrite.llm import by_model
from pipeline.rewrite.pair import Pair, Rewrite
from pipeline.rewrite.section import RewriteSection
from pipeline.store import Stage, read_table, write_mapped, write_table

Tables = tuple[pa.Table, pa.Table, pa.Table]
ReadChunk = Callable[[int], Tables]

TRIES_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("status", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("refused", pa.list_(pa.string())),
        ("num_cached", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("latencies_s", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True, slots=True)
class ChunkWork:
    """One chunk: its pairs (None where a row was dropped), and what is done with their rewrites."""

    pairs: Sequence[Pair | None]
    finish: Callable[[list[Rewrite | None]], None]


def check_writer(section: RewriteSection) -> None:
    """Asks for what rewriting will need before anything else has run for hours.

    Raises:
        EndpointError: The variable that should hold the key is not set.
    """
    if section.backend == "openai" and section.endpoint is not None:
        Endpoint(section.endpoint, "")


async def rewrite_chunks(chunks: Iterable[ChunkWork], section: RewriteSection, purpose: str) -> dict[str, float]:
    """Asks the model for every pair of every chunk; returns what was spent and sent.

    Args:
        purpose: Names the budget in the cache of replies.

    Raises:
        UserError: The endpoint cannot be used, or the budget is used up; what was answered by then is kept.
    """
    assert section.endpoint is not None
    async with Endpoint(section.endpoint, purpose, section.max_usd) as endpoint:
        # Twice as many pairs as requests: while one pair's reply is checked, another one's request is waiting to be sent.
        slots = asyncio.Semaphore(2 * section.endpoint.max_in_flight)
        faults: list[BaseException] = []

        async def one(pair: Pair) -> Rewrite:
            try:
                return await by_model(pair, endpoint, section)
            except BaseException as error:
                faults.append(error)
                raise
            finally:
                slots.release()

        async def close(work: ChunkWork, tasks: Sequence[asyncio.Task[Rewrite] | None]) -> None:
            rewrites = await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
            if any(isinstance(rewrite, BaseException) for rewrite in rewrites):
                return  # one() noted it
            found = iter(rewrites)
            work.finish([next(found) if task is not None else None for task in tasks])  # type: ignore[misc]

        closing = []
        for work in chunks:
            tasks: list[asyncio.Task[Rewrite] | None] = []
            for pair in work.pairs:
                if pair is not None:
                    await slots.acquire()
                tasks.append(asyncio.create_task(one(pair)) if pair is not None else None)
                if faults:
                    break
            if faults:
                closing.append(asyncio.create_task(_settled(tasks)))
                break
            closing.append(asyncio.create_task(close(work, tasks)))
        await asyncio.gather(*closing)
        if faults:
            raise next((fault for fault in faults if not isinstance(fault, UserError)), endpoint.stopped or faults[0])
        return {"usd_paid": round(endpoint.spent_usd, 6), "num_sent": endpoint.num_sent, "peak_in_flight": endpoint.peak_in_flight}


def ask_model(
    stage: Stage, indices: Sequence[int], read: ReadChunk, section: RewriteSection, purpose: str, finished: Callable[[int], None]
) -> dict[str, float]:
    """Rewrites the given chunks and writes their `rows` and `tries`; returns what was spent and sent.

    Args:
        read: Rows, scores and decisions of a chunk.
        finished: Called with 1 for every chunk that is finished.
    """

    def works() -> Iterator[ChunkWork]:
        for index in indices:
            tables = read(index)

            def finish(rewrites: list[Rewrite | None], index: int = index, tables: Tables = tables) -> None:
                write_table(stage.part("tries", index), tries_table(tables[0]["pair_id"].to_pylist(), rewrites))
                write_mapped(stage.part("rows", index, "arrow"), rewrite_chunk(*tables, rewrites))
                finished(1)

            yield ChunkWork(pairs_to_write(tables[0], tables[2]), finish)

    return asyncio.run(rewrite_chunks(works(), section, purpose))


async def _settled(tasks: Sequence[asyncio.Task[Rewrite] | None]) -> None:
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


def tries_table(pair_ids: Sequence[str], rewrites: Sequence[Rewrite | None]) -> pa.Table:
    """What was tried for each pair of a chunk that reached the model."""
    rows = [
        {
            "pair_id": pair_id,
            "status": rewrite.status or "rejected",
            "reasons": [failure.reason for failure, _ in rewrite.refused],
            "refused": [text for _, text in rewrite.refused],
            "num_cached": sum(reply.is_cached for reply in rewrite.replies),
            "prompt_tokens": sum(reply.prompt_tokens for reply in rewrite.replies),
            "completion_tokens": sum(reply.completion_tokens for reply in rewrite.replies),
            "latencies_s": [reply.latency_s for reply in rewrite.replies],
        }
        for pair_id, rewrite in zip(pair_ids, rewrites, strict=True)
        if rewrite is not None
    ]
    return pa.Table.from_pylist(rows, schema=TRIES_SCHEMA)


def rewrite_facts(stage: Stage, num_chunks: int, section: RewriteSection) -> dict[str, Any]:
    """What rewriting came to, from the files of tries: rows by status, refusals by reason, tokens, cost, latency."""
    tries = pa.concat_tables([read_table(stage.part("tries", index)) for index in range(num_chunks)] or [TRIES_SCHEMA.empty_table()])
    reasons = Counter(reason for found in tries["reasons"].to_pylist() for reason in found)
    latencies = np.array([latency for found in tries["latencies_s"].to_pylist() for latency in found])
    tokens = {name: int(np.sum(tries[name].to_numpy())) for name in ("prompt_tokens", "completion_tokens")}
    assert section.endpoint is not None
    facts: dict[str, Any] = {
        "by_status": dict(sorted(Counter(tries["status"].to_pylist()).items())),
        "refused_by_reason": dict(sorted(reasons.items())),
        "num_replies": len(latencies),
        "num_cache_hits": int(np.sum(tries["num_cached"].to_numpy())),
        **{f"num_{name}": number for name, number in tokens.items()},
    }
    if section.endpoint.has_prices:
        facts["usd_without_cache"] = round(section.endpoint.usd(**tokens), 6)
    if len(latencies):
        percentiles = np.percentile(latencies, (50, 90, 99))
        facts["latency_s"] = {name: round(float(value), 3) for name, value in zip(("p50", "p90", "p99"), percentiles, strict=True)}
    return facts
