"""Stages `score`, `select` and `rewrite`: tables in, tables out. No pixels, no models, no Ray.

Scores and texts are worked on chunk by chunk; decisions are made on narrow columns of all rows at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.schema import SCORE_COLUMNS
from pipeline.embedding.reader import Vectors
from pipeline.embedding.similarity import caption_margin, cosine
from pipeline.rewrite.types import Pair, Rewrite
from pipeline.selection.rules import SelectionSection, drop_reasons
from pipeline.selection.sampling import validation_rows
from pipeline.stages.ingest import CAPTION_FACTS

SCORE_VERSION = SELECT_VERSION = 2
REWRITE_VERSION = 3

# What `select` reads of every row, besides scores and the linked group.
FACTS = ("pair_id", "source", "category", "operation", *CAPTION_FACTS)
SCORES_SCHEMA = pa.schema([(name, pa.float64()) for name in SCORE_COLUMNS])
_WRITTEN = ("question", "answer_a", "answer_b", "rewrite_status", "rewrite_model")


def score_chunk(rows: pa.Table, vectors: Vectors, chunk: int) -> pa.Table:
    """The score columns of one chunk's rows; null where a row was dropped before, or an encoder did not run.

    Args:
        rows: image_a_sha256, image_b_sha256, caption_a, caption_b and drop_reason of the chunk.
    """
    alive = np.flatnonzero(np.array([reason == "" for reason in rows.column("drop_reason").to_pylist()], dtype=bool))
    part = rows.take(alive)
    images = {side: vectors.of_images(part.column(f"image_{side}_sha256").to_pylist()) for side in "ab"}
    texts = {side: vectors.of_captions(chunk, part.column(f"caption_{side}").to_pylist()) for side in "ab"}
    scores: dict[str, NDArray[np.float64]] = {}
    for name in images["a"]:
        scores[f"{name}_image_cos"] = cosine(images["a"][name], images["b"][name])
    if "clip" in texts["a"] and len(alive):
        for own, other in (("a", "b"), ("b", "a")):
            scores[f"caption_margin_{own}"] = caption_margin(texts[own]["clip"], images[own]["clip"], images[other]["clip"])
    columns = {}
    for name in SCORE_COLUMNS:
        values = np.full(rows.num_rows, np.nan)
        if name in scores:
            values[alive] = scores[name]
        columns[name] = pa.array(values, pa.float64(), mask=np.isnan(values))
    return pa.table(columns, schema=SCORES_SCHEMA)


def select(columns: Mapping[str, NDArray[Any]], reasons: NDArray[np.object_], section: SelectionSection, validation: Any) -> pa.Table:
    """The drop reason ("" if kept) and the split of every row, in the sources' order.

    Args:
        columns: `FACTS`, "group" and the scores that some encoder made (NaN where null), of every row.
        reasons: Why rows left before; "" for those that selection is to decide on.
        validation: The ValidationSection.
    """
    reasons = reasons.copy()
    alive = np.flatnonzero(reasons == "")
    if alive.size:
        reasons[alive] = drop_reasons({name: values[alive] for name, values in columns.items()}, section)
    kept = np.flatnonzero(reasons == "")
    splits = np.full(len(reasons), "", dtype=object)
    splits[kept] = "train"
    held_out = validation_rows(columns["group"][kept], fraction=validation.fraction, num_pairs=validation.num_pairs, seed=validation.seed)
    splits[kept[held_out]] = "validation"
    return pa.table({"drop_reason": pa.array(reasons, pa.string()), "split": pa.array(splits, pa.string())})


def pairs_to_write(rows: pa.Table, decisions: pa.Table) -> list[Pair | None]:
    """What a writer is given of each row of a chunk; None for those that were dropped."""
    needed = rows.select(["caption_a", "caption_b", "category", "question"]).to_pylist()
    reasons = decisions.column("drop_reason").to_pylist()
    return [None if reason else Pair(**row) for row, reason in zip(needed, reasons, strict=True)]


def rewrite_chunk(rows: pa.Table, scores: pa.Table, decisions: pa.Table, rewrites: Sequence[Rewrite | None]) -> pa.Table:
    """One chunk's rows as they are published, with question and answers; where there are none, with the reason why.

    Args:
        rewrites: One per row; None for those that were dropped before.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _WRITTEN}
    reasons: list[str] = []
    given = rows.column("question").to_pylist()
    for question, reason, rewrite in zip(given, decisions.column("drop_reason").to_pylist(), rewrites, strict=True):
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
