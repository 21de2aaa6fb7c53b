"""What a run says about the pairs of an MVC folder: scores.json and items.parquet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from eval.config import EvalSection
from eval.inputs import Role
from eval.pairs.arrays import View, favoured_of, view_of
from eval.pairs.paired_scores import tie_nats_of
from eval.pairs.score_table import score_table, verdict_of_pairs
from eval.pairs.scorer import MODEL_COLUMN
from pipeline.core.storage import write_json, write_table


@dataclass(frozen=True, slots=True)
class PairResults:
    """The pairs, what each model made of them, and the scores."""

    items: pa.Table
    views: dict[Role, View]
    scores: dict[str, Any]


def write_pairs(
    items: pa.Table,
    results: Mapping[Role, pa.Table],
    favoured: dict[str, list[str]] | None,
    section: EvalSection,
) -> PairResults:
    """Scores the pairs and writes both files into `out`."""
    out = Path(section.out)
    views = {
        role: view_of(items, rows, tie_nats_of(section.dtype)) for role, rows in results.items()
    }
    scores = score_table(items, views, favoured_of(items, favoured), section)
    write_json(out / "scores.json", scores)
    write_table(out / "items.parquet", items_table(items, results, views, verdict_of_pairs(views)))
    return PairResults(items, views, scores)


def items_table(
    items: pa.Table,
    results: Mapping[Role, pa.Table],
    views: Mapping[Role, View],
    verdicts: list[str],
) -> pa.Table:
    """One row per pair: its texts, what happened to it, and under each model the six
    log-probabilities and answers.
    """
    shown = items.select(
        ["pair_id", "source", "category", "group", "question", "answer_a", "answer_b"]
    )
    shown = shown.append_column("text_verdict", pa.array(verdicts))
    for role, rows in results.items():
        for name in rows.column_names:
            if name not in (MODEL_COLUMN, "chunk", "pair_id", "error") and not name.endswith("_px"):
                shown = shown.append_column(f"{role}_{name}", rows[name])
        answers = views[role].answers
        if answers is None:
            continue
        for side in range(2):
            shown = shown.append_column(
                f"{role}_verdict_{'ab'[side]}", pa.array([pair[side] for pair in answers.verdicts])
            )
            shown = shown.append_column(
                f"{role}_num_claims_{'ab'[side]}", pa.array(answers.num_claims_P2[:, side])
            )
            shown = shown.append_column(
                f"{role}_num_false_{'ab'[side]}", pa.array(answers.num_false_P2[:, side])
            )
    return shown
