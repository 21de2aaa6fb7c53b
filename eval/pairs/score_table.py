"""Every measure of one or two models with its interval: overall, per category and per source.

Knows nothing of models or files. The result is plain values, ready for JSON:
    {"overall": {measure: entry}, "category": {name: {measure: entry}}, "source": {name: {measure:
    entry}}} entry = {"chance", "before": number | null, "after": number, "difference": number |
    null} number = {"value", "low", "high", "n", "num_groups"}; low and high are null where fewer
    than two groups were seen

Shapes: P pairs; G groups; D draws; M measures.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from eval.config import EvalSection
from eval.inputs import Role
from eval.pairs.arrays import ModelScores
from eval.pairs.measures import MEASURES, image_effects, terms_of
from eval.pairs.paired_scores import BoolArray, FloatArray, IntArray, PriorSides, paired_scores
from eval.stats.intervals import (
    cluster_counts,
    group_index,
    interval,
    ratio_draws,
    sums_by_group,
)
from pipeline.core.auc import auc, auc_draws

Entries = dict[str, dict[str, Any]]


def score_table(
    items: pa.Table,
    model_scores: Mapping[Role, ModelScores],
    prior: PriorSides | None,
    section: EvalSection,
) -> dict[str, Any]:
    """All measures of all slices.

    Args:
        items: The pairs, in the order of the views.
        model_scores: "after" is the evaluated model, "before" (optional) the one that it
            was finetuned from.
        prior: Where a stated prior misleads, if one is known.
    """
    everything_P = np.ones(items.num_rows, bool)
    slices: dict[str, Any] = {
        "overall": slice_scores(items, model_scores, prior, everything_P, section)
    }
    for column in ("category", "source"):
        values_P = np.asarray(items[column].to_pylist(), dtype=object)
        names = sorted(set(values_P.tolist()))
        slices[column] = {
            name: slice_scores(items, model_scores, prior, values_P == name, section)
            for name in names
        }
    return slices | {"measures": {key: asdict(measure) for key, measure in MEASURES.items()}}


def slice_scores(
    items: pa.Table,
    model_scores: Mapping[Role, ModelScores],
    prior: PriorSides | None,
    inside_P: BoolArray,
    section: EvalSection,
) -> Entries:
    """All measures over the pairs in `inside_P`; groups of this slice are resampled."""
    index_P, num_groups = group_index(
        [group for group, kept in zip(items["group"].to_pylist(), inside_P, strict=True) if kept]
    )
    counts_DG = cluster_counts(num_groups, section.intervals.num_draws, section.seed)
    terms = {role: terms_of(scores, prior) for role, scores in model_scores.items()}
    entries: Entries = {}
    draws: dict[tuple[str, Role], FloatArray] = {}
    for role, of_role in terms.items():
        keys = list(of_role)
        tops_PM, bottoms_PM = (
            np.stack([of_role[key][part][inside_P] for key in keys], axis=1) for part in (0, 1)
        )
        tops_GM, bottoms_GM = (
            sums_by_group(values, index_P, num_groups) for values in (tops_PM, bottoms_PM)
        )
        draws_DM = ratio_draws(tops_GM, bottoms_GM, counts_DG)
        for column, key in enumerate(keys):
            top, bottom = tops_GM[:, column].sum(), bottoms_GM[:, column].sum()
            if bottom > 0:
                draws[key, role] = draws_DM[:, column]
                seen = int((bottoms_GM[:, column] > 0).sum())
                _put(
                    entries,
                    key,
                    role,
                    float(top / bottom),
                    draws_DM[:, column],
                    int(bottom),
                    seen,
                    section,
                )
    for role, scores in model_scores.items():
        value, draws_D = _auroc(scores, inside_P, index_P, counts_DG)
        draws["auroc", role] = draws_D
        _put(entries, "auroc", role, value, draws_D, 2 * int(inside_P.sum()), num_groups, section)
    for key, entry in entries.items():
        entry["difference"] = _difference(key, entry, draws, section)
    return {key: entries[key] for key in MEASURES if key in entries}


def _put(
    entries: Entries,
    key: str,
    role: Role,
    value: float,
    draws_D: FloatArray,
    n: int,
    num_groups: int,
    section: EvalSection,
) -> None:
    entry = entries.setdefault(key, {"chance": MEASURES[key].chance, "before": None, "after": None})
    entry[role] = _number(value, draws_D, num_groups, section.intervals.confidence) | {
        "n": n,
        "num_groups": num_groups,
    }


def _number(
    value: float, draws_D: FloatArray, num_groups: int, confidence: float
) -> dict[str, Any]:
    low, high = (interval(draws_D, confidence) if num_groups > 1 else None) or (None, None)
    return {"value": value, "low": low, "high": high}


def _difference(
    key: str,
    entry: dict[str, Any],
    draws: Mapping[tuple[str, Role], FloatArray],
    section: EvalSection,
) -> dict[str, Any] | None:
    """After minus before, the interval from the same draws for both: what they share cancels."""
    if entry["before"] is None or entry["after"] is None:
        return None
    num_groups = min(entry["before"]["num_groups"], entry["after"]["num_groups"])
    value = entry["after"]["value"] - entry["before"]["value"]
    return _number(
        value, draws[key, "after"] - draws[key, "before"], num_groups, section.intervals.confidence
    )


def _auroc(
    scores: ModelScores, inside_P: BoolArray, index_P: IntArray, counts_DG: IntArray
) -> tuple[float, FloatArray]:
    matching_P2, contradictory_P2 = (effects[inside_P] for effects in image_effects(scores))
    group_of_text = np.repeat(index_P, 2)
    draws_D = auc_draws(
        matching_P2.ravel(), contradictory_P2.ravel(), group_of_text, group_of_text, counts_DG
    )
    return auc(matching_P2.ravel(), contradictory_P2.ravel()), draws_D


def verdict_of_pairs(model_scores: Mapping[Role, ModelScores]) -> list[str]:
    """What happened to each pair's text score: fixed, broken, right, or wrong ("right" and "wrong":
    still, or the only model).
    """
    after_P = _text_scores(model_scores["after"])
    before_P = _text_scores(model_scores["before"]) if "before" in model_scores else after_P
    names = {
        (False, True): "fixed",
        (True, False): "broken",
        (True, True): "right",
        (False, False): "wrong",
    }
    return [
        names[bool(before), bool(after)] for before, after in zip(before_P, after_P, strict=True)
    ]


def _text_scores(scores: ModelScores) -> BoolArray:
    return paired_scores(scores.logps_P32, scores.tie_nats)[0]
