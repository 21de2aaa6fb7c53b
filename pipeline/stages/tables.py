"""Stages `score`, `select` and `rewrite`: tables in, tables out. No pixels, no models, no Ray.

Scores and texts are worked on chunk by chunk; decisions are made on narrow columns of all rows at
once.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.schema import SCORE_COLUMNS
from pipeline.embedding.reader import Vectors
from pipeline.embedding.similarity import caption_margin, cosine
from pipeline.selection.rules import SelectionSection, drop_reasons
from pipeline.selection.sampling import validation_rows
from pipeline.stages.ingest import CAPTION_FACTS

SCORE_VERSION = SELECT_VERSION = 2

# What `select` reads of every row, besides scores and the linked group.
FACTS = ("pair_id", "source", "category", "operation", *CAPTION_FACTS)
SCORES_SCHEMA = pa.schema([(name, pa.float64()) for name in SCORE_COLUMNS])


def score_chunk(rows: pa.Table, vectors: Vectors, chunk: int) -> pa.Table:
    """The scores of one chunk's rows; null for a dropped row or an encoder that did not run.

    Args:
        rows: image_a_sha256, image_b_sha256, caption_a, caption_b and drop_reason of the chunk.
    """
    alive = np.flatnonzero(
        np.array([reason == "" for reason in rows.column("drop_reason").to_pylist()], dtype=bool)
    )
    part = rows.take(alive)
    images = {
        side: vectors.of_images(part.column(f"image_{side}_sha256").to_pylist()) for side in "ab"
    }
    texts = {
        side: vectors.of_captions(chunk, part.column(f"caption_{side}").to_pylist())
        for side in "ab"
    }
    scores = {name: np.full(rows.num_rows, np.nan) for name in SCORE_COLUMNS}
    for name in images["a"]:
        scores[f"{name}_image_cos"][alive] = cosine(images["a"][name], images["b"][name])
    if "clip" in texts["a"] and len(alive):
        for own, other in (("a", "b"), ("b", "a")):
            scores[f"caption_margin_{own}"][alive] = caption_margin(
                texts[own]["clip"], images[own]["clip"], images[other]["clip"]
            )
    return pa.table(
        [pa.array(values, mask=np.isnan(values)) for values in scores.values()],
        schema=SCORES_SCHEMA,
    )


def select(
    columns: Mapping[str, NDArray[Any]],
    reasons: NDArray[np.object_],
    section: SelectionSection,
    validation: Any,
) -> pa.Table:
    """The drop reason ("" if kept) and the split of every row, in the sources' order.

    Args:
        columns: `FACTS`, "group" and the scores that some encoder made (NaN where null), of every
            row.
        reasons: Why rows left before; "" for those that selection is to decide on.
        validation: The ValidationSection.
    """
    reasons = reasons.copy()
    alive = np.flatnonzero(reasons == "")
    if alive.size:
        reasons[alive] = drop_reasons(
            {name: values[alive] for name, values in columns.items()}, section
        )
    kept = np.flatnonzero(reasons == "")
    splits = np.where(reasons == "", "train", "").astype(object)
    held_out = validation_rows(
        columns["group"][kept],
        fraction=validation.fraction,
        num_pairs=validation.num_pairs,
        seed=validation.seed,
    )
    splits[kept[held_out]] = "validation"
    return pa.table(
        {"drop_reason": pa.array(reasons, pa.string()), "split": pa.array(splits, pa.string())}
    )
