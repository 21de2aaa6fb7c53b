"""Rewriting chunks with a model: many pairs at once across chunks, one file of texts and one of tries per chunk.

All of it runs in the process that started the build: the work is waiting, one process keeps hundreds of requests in
flight, and limits and budget are then exact with nothing to share.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.storage import Stage, read_table, write_mapped, write_table
from pipeline.llm.batch import ChunkWork, ask_all, spent
from pipeline.llm.cache import Reply
from pipeline.llm.client import Endpoint
from pipeline.llm.config import EndpointSection
from pipeline.rewrite.checks import Failure
from pipeline.rewrite.config import RewriteSection
from pipeline.rewrite.model_writer import by_model
from pipeline.rewrite.types import Pair, Rewrite
from pipeline.stages.tables import pairs_to_write, rewrite_chunk

Tables = tuple[pa.Table, pa.Table, pa.Table]
ReadChunk = Callable[[int], Tables]

SPENDING_SCHEMA = pa.schema(
    [
        ("reasons", pa.list_(pa.string())),
        ("refused", pa.list_(pa.string())),
        ("num_cached", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("latencies_s", pa.list_(pa.float64())),
    ]
)
TRIES_SCHEMA = pa.schema([("pair_id", pa.string()), ("status", pa.string()), *SPENDING_SCHEMA])


def check_writer(section: RewriteSection) -> None:
    """Asks for what rewriting will need before anything else has run for hours.

    Raises:
        EndpointError: The variable that should hold the key is not set.
    """
    if section.backend == "openai" and section.endpoint is not None:
        Endpoint(section.endpoint, "")


async def rewrite_chunks(chunks: Iterable[ChunkWork[Pair, Rewrite]], section: RewriteSection, purpose: str) -> dict[str, float]:
    """Asks the model for every pair of every chunk; returns what was spent and sent.

    Args:
        purpose: Names the budget in the cache of replies.

    Raises:
        UserError: The endpoint cannot be used, or the budget is used up; what was answered by then is kept.
    """
    assert section.endpoint is not None
    async with Endpoint(section.endpoint, purpose, section.max_usd) as endpoint:
        await ask_all(chunks, endpoint, lambda pair: by_model(pair, endpoint, section))
        return spent(endpoint)


def ask_model(
    stage: Stage, indices: Sequence[int], read: ReadChunk, section: RewriteSection, purpose: str, finished: Callable[[int], None]
) -> dict[str, float]:
    """Rewrites the given chunks and writes their `rows` and `tries`; returns what was spent and sent.

    Args:
        read: Rows, scores and decisions of a chunk.
        finished: Called with 1 for every chunk that is finished.
    """

    def works() -> Iterator[ChunkWork[Pair, Rewrite]]:
        for index in indices:
            tables = read(index)

            def finish(rewrites: list[Rewrite | None], index: int = index, tables: Tables = tables) -> None:
                write_table(stage.part("tries", index), tries_table(tables[0]["pair_id"].to_pylist(), rewrites))
                write_mapped(stage.part("rows", index, "arrow"), rewrite_chunk(*tables, rewrites))
                finished(1)

            yield ChunkWork(pairs_to_write(tables[0], tables[2]), finish)

    return asyncio.run(rewrite_chunks(works(), section, purpose))


def tries_table(pair_ids: Sequence[str], rewrites: Sequence[Rewrite | None]) -> pa.Table:
    """What was tried for each pair of a chunk that reached the model."""
    rows = [
        {
            "pair_id": pair_id,
            "status": rewrite.status or "rejected",
            **spending(rewrite.refused, rewrite.replies),
        }
        for pair_id, rewrite in zip(pair_ids, rewrites, strict=True)
        if rewrite is not None
    ]
    return pa.Table.from_pylist(rows, schema=TRIES_SCHEMA)


def spending(refused: Sequence[tuple[Failure, str]], replies: Sequence[Reply]) -> dict[str, Any]:
    """One talk with a model as a row of SPENDING_SCHEMA."""
    return {
        "reasons": [failure.reason for failure, _ in refused],
        "refused": [text for _, text in refused],
        "num_cached": sum(reply.is_cached for reply in replies),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
        "latencies_s": [reply.latency_s for reply in replies],
    }


def rewrite_facts(stage: Stage, num_chunks: int, section: RewriteSection) -> dict[str, Any]:
    """What rewriting came to, from the files of tries: rows by status, refusals by reason, tokens, cost, latency."""
    tries = pa.concat_tables([read_table(stage.part("tries", index)) for index in range(num_chunks)] or [TRIES_SCHEMA.empty_table()])
    assert section.endpoint is not None
    return {"by_status": dict(sorted(Counter(tries["status"].to_pylist()).items())), **tries_facts(tries, section.endpoint)}


def tries_facts(tries: pa.Table, endpoint: EndpointSection) -> dict[str, Any]:
    """What many talks with a model came to: refusals by reason, replies, tokens, cost, latency.

    Args:
        tries: At least the columns of SPENDING_SCHEMA, a row per talk.
    """
    reasons = Counter(reason for found in tries["reasons"].to_pylist() for reason in found)
    latencies = np.array([latency for found in tries["latencies_s"].to_pylist() for latency in found])
    tokens = {name: int(np.sum(tries[name].to_numpy())) for name in ("prompt_tokens", "completion_tokens")}
    facts: dict[str, Any] = {
        "refused_by_reason": dict(sorted(reasons.items())),
        "num_replies": len(latencies),
        "num_cache_hits": int(np.sum(tries["num_cached"].to_numpy())),
        **{f"num_{name}": number for name, number in tokens.items()},
    }
    if endpoint.has_prices:
        facts["usd_without_cache"] = round(endpoint.usd(**tokens), 6)
    if len(latencies):
        percentiles = np.percentile(latencies, (50, 90, 99))
        facts["latency_s"] = {name: round(float(value), 3) for name, value in zip(("p50", "p90", "p99"), percentiles, strict=True)}
    return facts
