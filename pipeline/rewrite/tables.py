"""Which pairs are written, and the table of what was written."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.schema import SCORE_COLUMNS
from pipeline.rewrite.types import Pair, Rewrite

REWRITE_VERSION = 3
_WRITTEN = ("question", "answer_a", "answer_b", "rewrite_status", "rewrite_model")


def pairs_to_write(rows: pa.Table, decisions: pa.Table) -> list[Pair | None]:
    """What a writer is given of each row of a chunk; None for those that were dropped."""
    needed = rows.select(["caption_a", "caption_b", "category", "question"]).to_pylist()
    reasons = decisions.column("drop_reason").to_pylist()
    return [None if reason else Pair(**row) for row, reason in zip(needed, reasons, strict=True)]


def rewrite_chunk(
    rows: pa.Table, scores: pa.Table, decisions: pa.Table, rewrites: Sequence[Rewrite | None]
) -> pa.Table:
    """One chunk's rows as they are published: with question and answers, or the reason why not.

    Args:
        rewrites: One per row; None for those that were dropped before.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _WRITTEN}
    reasons: list[str] = []
    given = rows.column("question").to_pylist()
    for question, reason, rewrite in zip(
        given, decisions.column("drop_reason").to_pylist(), rewrites, strict=True
    ):
        written = rewrite.written if rewrite else None
        reasons.append(reason or (rewrite.drop_reason if rewrite else ""))
        columns["question"].append(written.question if written else question)
        columns["answer_a"].append(written.answer_a if written else None)
        columns["answer_b"].append(written.answer_b if written else None)
        columns["rewrite_status"].append(rewrite.status if rewrite and written else None)
        columns["rewrite_model"].append(rewrite.model if rewrite and written else None)
    table = rows.drop_columns(["question", "drop_reason"])
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.string()))
    for name in SCORE_COLUMNS:
        table = table.append_column(name, scores.column(name))
    table = table.append_column("drop_reason", pa.array(reasons, pa.string()))
    splits = pc.if_else(pc.equal(table.column("drop_reason"), ""), decisions.column("split"), "")
    return table.append_column("split", splits)
