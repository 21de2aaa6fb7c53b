"""Which pairs are written, and the table of what was written."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.schema import SCORE_COLUMNS
from pipeline.rewrite.types import Pair, Rewrite

REWRITE_VERSION = 3


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
    written = [rewrite.written if rewrite else None for rewrite in rewrites]
    texts = {
        "question": [
            texts.question if texts else given
            for texts, given in zip(written, rows["question"].to_pylist(), strict=True)
        ],
        "answer_a": [texts.answer_a if texts else None for texts in written],
        "answer_b": [texts.answer_b if texts else None for texts in written],
        "rewrite_status": [rewrite.status or None if rewrite else None for rewrite in rewrites],
        "rewrite_model": [rewrite.model if rewrite else None for rewrite in rewrites],
    }
    reasons = [
        reason or (rewrite.drop_reason if rewrite else "")
        for reason, rewrite in zip(decisions["drop_reason"].to_pylist(), rewrites, strict=True)
    ]
    columns = {
        **{name: pa.array(values, pa.string()) for name, values in texts.items()},
        **{name: scores[name] for name in SCORE_COLUMNS},
        "drop_reason": pa.array(reasons, pa.string()),
    }
    columns["split"] = pc.if_else(pc.equal(columns["drop_reason"], ""), decisions["split"], "")
    table = rows.drop_columns(["question", "drop_reason"])
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table
