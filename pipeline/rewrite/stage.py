"""Rewriting chunks with a model: many pairs at once; a file of texts and one of tries per chunk.

All of it runs in the process that started the build: the work is waiting, one process keeps
hundreds of requests in flight, and limits and budget are then exact with nothing to share.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.core.storage import Stage, read_table, write_mapped, write_table
from pipeline.llm.batch import ChunkWork, ask_chunks
from pipeline.llm.client import Endpoint
from pipeline.llm.spending import SPENDING_SCHEMA, spending, tries_facts
from pipeline.rewrite.config import RewriteSection
from pipeline.rewrite.model_writer import by_model
from pipeline.rewrite.tables import pairs_to_write, rewrite_chunk
from pipeline.rewrite.types import Pair, Rewrite

Tables = tuple[pa.Table, pa.Table, pa.Table]

TRIES_SCHEMA = pa.schema([("pair_id", pa.string()), ("status", pa.string()), *SPENDING_SCHEMA])


def rewrite_chunks(
    chunks: Iterable[ChunkWork[Pair, Rewrite]], section: RewriteSection, purpose: str
) -> dict[str, float]:
    """Asks the model for every pair of every chunk; as `ask_chunks`."""
    assert section.endpoint is not None

    async def rewrite(pair: Pair, endpoint: Endpoint) -> Rewrite:
        return await by_model(pair, endpoint, section)

    return ask_chunks(chunks, section.endpoint, purpose, section.max_usd, rewrite)


def ask_model(
    stage: Stage,
    indices: Sequence[int],
    read: Callable[[int], Tables],
    section: RewriteSection,
    purpose: str,
    finished: Callable[[int], None],
) -> dict[str, float]:
    """Rewrites chunks and writes their `rows` and `tries`; returns what was spent and sent.

    Args:
        read: Rows, scores and decisions of a chunk.
        finished: Called with 1 for every chunk that is finished.
    """

    def works() -> Iterator[ChunkWork[Pair, Rewrite]]:
        for index in indices:
            tables = read(index)

            def finish(
                rewrites: list[Rewrite | None], index: int = index, tables: Tables = tables
            ) -> None:
                tries = tries_table(tables[0]["pair_id"].to_pylist(), rewrites)
                write_table(stage.part("tries", index), tries)
                write_mapped(stage.part("rows", index, "arrow"), rewrite_chunk(*tables, rewrites))
                finished(1)

            yield ChunkWork(pairs_to_write(tables[0], tables[2]), finish)

    return rewrite_chunks(works(), section, purpose)


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


def rewrite_facts(stage: Stage, num_chunks: int, section: RewriteSection) -> dict[str, Any]:
    """What rewriting came to: rows by status, refusals by reason, tokens, cost, latency."""
    tries = pa.concat_tables(
        [read_table(stage.part("tries", index)) for index in range(num_chunks)]
        or [TRIES_SCHEMA.empty_table()]
    )
    assert section.endpoint is not None
    return {
        "by_status": dict(sorted(Counter(tries["status"].to_pylist()).items())),
        **tries_facts(tries, section.endpoint),
    }
