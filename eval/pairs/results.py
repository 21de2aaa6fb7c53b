"""What a run says about the pairs of an MVC folder: scores.json and items.parquet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from eval.config import EvalSection
from eval.inputs import Role
from eval.outputs import ITEMS, SCORES, PairScores
from eval.pairs.arrays import ModelScores, model_scores_of, prior_sides_of
from eval.pairs.paired_scores import tie_nats_of
from eval.pairs.score_table import score_table, verdict_of_pairs
from pipeline.core.storage import write_json, write_table


@dataclass(frozen=True, slots=True)
class PairResults:
    """The pairs, what each model made of them, and the scores."""

    items: pa.Table
    model_scores: dict[Role, ModelScores]
    scores: PairScores
    left_out: Mapping[str, int]  # of the pairs beside these: how many by reason


def write_pairs(
    items: pa.Table,
    results: Mapping[Role, pa.Table],
    prior: dict[str, list[str]] | None,
    section: EvalSection,
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> PairResults:
    """Scores the pairs and writes both files into `out`.

    Args:
        left_out: How many pairs are left out of `items` because a model cannot take them.
    """
    out = Path(section.out)
    model_scores = {
        role: model_scores_of(items, rows, tie_nats_of(section.dtype))
        for role, rows in results.items()
    }
    scores = score_table(items, model_scores, prior_sides_of(items, prior), section)
    write_json(out / SCORES, scores)
    write_table(
        out / ITEMS,
        items_table(items, results, model_scores, verdict_of_pairs(model_scores)),
    )
    return PairResults(items, model_scores, scores, left_out)


def items_table(
    items: pa.Table,
    results: Mapping[Role, pa.Table],
    model_scores: Mapping[Role, ModelScores],
    verdicts: list[str],
) -> pa.Table:
    """One row per pair: texts, what happened, and what each model made of it."""
    names = ("pair_id", "source", "category", "group", "question", "answer_a", "answer_b")
    columns: dict[str, Any] = {name: items[name] for name in names} | {"text_verdict": verdicts}
    for role, rows in results.items():
        columns |= {
            f"{role}_{name}": rows[name]
            for name in rows.column_names
            if name != "pair_id" and not name.endswith("_px") and not name.startswith("left_out")
        }
        answers = model_scores[role].answers
        if answers is None:
            continue
        for side, letter in enumerate("ab"):
            columns |= {
                f"{role}_verdict_{letter}": [pair[side] for pair in answers.verdicts],
                f"{role}_num_claims_{letter}": answers.num_claims_P2[:, side],
                f"{role}_num_false_{letter}": answers.num_false_P2[:, side],
            }
    return pa.table(columns, metadata=items.schema.metadata)
