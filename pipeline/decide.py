"""Stages `score`, `select` and `rewrite`: tables in, tables out. No pixels, no models, no Ray."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import BuildSection
from pipeline.embed import read_vectors
from pipeline.rewrite import template
from pipeline.schema import SCORE_COLUMNS, sha256_hex
from pipeline.selection import duplicate_rows, linked_groups, score_drop_reasons, validation_groups
from pipeline.similarity import caption_margin, cosine
from pipeline.store import Stage

SCORE_VERSION = SELECT_VERSION = REWRITE_VERSION = 1


def score(rows: pa.Table, embeddings: Stage, num_chunks: int) -> pa.Table:
    """The rows with every score column; null where a row was dropped before, or an encoder did not run."""
    image_row, images = read_vectors(embeddings, "images", num_chunks)
    text_row, texts = read_vectors(embeddings, "texts", num_chunks)
    alive = np.flatnonzero([reason == "" for reason in rows.column("drop_reason").to_pylist()])
    side = {s: _positions(rows, f"image_{s}_sha256", alive, image_row) for s in "ab"}
    scores: dict[str, np.ndarray] = {}
    for name, vectors in images.items():
        scores[f"{name}_image_cos"] = cosine(vectors[side["a"]], vectors[side["b"]])
    if "clip" in texts:
        captions = {s: [text_row[sha256_hex(rows.column(f"caption_{s}")[i].as_py().encode())] for i in alive] for s in "ab"}
        for own, other in (("a", "b"), ("b", "a")):
            scores[f"caption_margin_{own}"] = caption_margin(
                texts["clip"][captions[own]], images["clip"][side[own]], images["clip"][side[other]]
            )
    for name in SCORE_COLUMNS:
        column: list[float | None] = [None] * rows.num_rows
        for position, value in zip(alive, scores.get(name, ()), strict=False):
            column[position] = float(value)
        rows = rows.append_column(name, pa.array(column, pa.float64()))
    return rows


def _positions(rows: pa.Table, column: str, alive: np.ndarray, row_of: dict[str, int]) -> np.ndarray:
    keys = rows.column(column).to_pylist()
    return np.array([row_of[keys[i]] for i in alive], dtype=np.int64)


def select(rows: pa.Table, section: BuildSection) -> pa.Table:
    """The rows with the final `drop_reason` of selection and, for those that stay, their `split`."""
    reasons = rows.column("drop_reason").to_pylist()
    identity = list(zip(rows.column("source").to_pylist(), rows.column("source_id").to_pylist(), strict=True))
    alive = [i for i, reason in enumerate(reasons) if not reason]
    max_chars = section.selection.max_caption_chars
    for i in alive:
        reasons[i] = next((f"caption_{s}_too_long" for s in "ab" if len(rows.column(f"caption_{s}")[i].as_py()) > max_chars), "")
    alive = [i for i in alive if not reasons[i]]
    repeated = duplicate_rows([rows.column("pair_id")[i].as_py() for i in alive], [identity[i] for i in alive])
    for i, is_repeated in zip(alive, repeated, strict=True):
        reasons[i] = "duplicate_pair" if is_repeated else ""
    alive = [i for i in alive if not reasons[i]]
    scored = {
        name: rows.column(name).take(alive).to_numpy(zero_copy_only=False)
        for name in SCORE_COLUMNS
        if alive and not pc.all(pc.is_null(rows.column(name))).as_py()
    }
    for i, reason in zip(alive, score_drop_reasons(scored, section.selection) if alive else [], strict=True):
        reasons[i] = reason
    rows = rows.set_column(rows.schema.get_field_index("drop_reason"), "drop_reason", pa.array(reasons, pa.string()))
    return rows.append_column("split", pa.array(_splits(rows, section), pa.string()))


def _splits(rows: pa.Table, section: BuildSection) -> list[str]:
    kept = [i for i, reason in enumerate(rows.column("drop_reason").to_pylist()) if not reason]
    part = rows.take(kept) if kept else rows.slice(0, 0)
    images = list(zip(part.column("image_a_pixels_sha256").to_pylist(), part.column("image_b_pixels_sha256").to_pylist(), strict=True))
    groups = linked_groups(part.column("group").to_pylist(), images)
    held_out = validation_groups(groups, section.validation.fraction, section.validation.seed)
    splits = [""] * rows.num_rows
    for i, group in zip(kept, groups, strict=True):
        splits[i] = "validation" if group in held_out else "train"
    return splits


def rewrite(rows: pa.Table) -> pa.Table:
    """The rows with question and answers; a kept row for which no question is safe leaves with its reason."""
    columns: dict[str, list[Any]] = {name: [] for name in ("question", "answer_a", "answer_b", "rewrite_status", "rewrite_model")}
    reasons: list[str] = []
    for row in rows.select(["caption_a", "caption_b", "category", "question", "drop_reason"]).to_pylist():
        written = None if row["drop_reason"] else template.write(row["caption_a"], row["caption_b"], row["category"], row["question"])
        reasons.append(row["drop_reason"] or ("" if written else "question_leaks_contrast"))
        columns["question"].append(written.question if written else row["question"])
        columns["answer_a"].append(written.answer_a if written else None)
        columns["answer_b"].append(written.answer_b if written else None)
        columns["rewrite_status"].append("template" if written else None)
        columns["rewrite_model"].append(None)
    rows = rows.drop_columns(["question", "drop_reason"]).append_column("drop_reason", pa.array(reasons, pa.string()))
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values, pa.string()))
    return rows
