"""Every measure of one or two models with its interval: overall, per category and per source.

Knows nothing of models or files. The result is plain values, ready for JSON (`PairScores`); low and
high of a number are null where fewer than two groups were seen.

Shapes: P pairs; G groups; D draws; M measures.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from eval.config import EvalSection
from eval.inputs import Role
from eval.outputs import Entries, Entry, PairNumber, PairScores
from eval.pairs.arrays import ModelScores
from eval.pairs.measures import MEASURES, image_effects, terms_of
from eval.pairs.paired_scores import BoolArray, FloatArray, IntArray, PriorSides, paired_scores
from eval.stats.dependency import Number
from eval.stats.intervals import (
    cluster_counts,
    group_index,
    interval,
    ratio_draws,
    sums_by_group,
)
from pipeline.core.auc import auc, auc_draws


def score_table(
    items: pa.Table,
    model_scores: Mapping[Role, ModelScores],
    prior: PriorSides | None,
    section: EvalSection,
) -> PairScores:
    """All measures of all slices.

    Args:
        items: The pairs, in the order of the scores.
        model_scores: "after" is the evaluated model, "before" (optional) the one that it was
            finetuned from.
        prior: Where a stated prior misleads, if one is known.
    """
    slices: dict[str, dict[str, Entries]] = {}
    for column in ("category", "source"):
        values_P = np.asarray(items[column].to_pylist(), dtype=object)
        slices[column] = {
            name: slice_scores(items, model_scores, prior, values_P == name, section)
            for name in sorted(set(values_P.tolist()))
        }
    everything_P = np.ones(items.num_rows, bool)
    return {
        "overall": slice_scores(items, model_scores, prior, everything_P, section),
        "category": slices["category"],
        "source": slices["source"],
        "measures": {key: asdict(measure) for key, measure in MEASURES.items()},
    }


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
    confidence = section.intervals.confidence
    numbers: dict[str, dict[Role, PairNumber]] = defaultdict(dict)
    draws: dict[str, dict[Role, FloatArray]] = defaultdict(dict)
    for role, scores in model_scores.items():
        terms = terms_of(scores, prior)
        tops_GM, bottoms_GM = (
            sums_by_group(
                np.stack([term[part][inside_P] for term in terms.values()], axis=1),
                index_P,
                num_groups,
            )
            for part in (0, 1)
        )
        draws_DM = ratio_draws(tops_GM, bottoms_GM, counts_DG)
        for column, key in enumerate(terms):
            top, bottom = tops_GM[:, column].sum(), bottoms_GM[:, column].sum()
            if bottom > 0:
                draws[key][role] = draws_DM[:, column]
                num_seen = int((bottoms_GM[:, column] > 0).sum())
                number = _number(float(top / bottom), draws[key][role], num_seen, confidence)
                numbers[key][role] = {**number, "n": int(bottom), "num_groups": num_seen}
        value, draws["auroc"][role] = _auroc(scores, inside_P, index_P, counts_DG)
        number = _number(value, draws["auroc"][role], num_groups, confidence)
        num_sides = 2 * int(inside_P.sum())
        numbers["auroc"][role] = {**number, "n": num_sides, "num_groups": num_groups}
    return {
        key: _entry(key, numbers[key], draws[key], confidence) for key in MEASURES if key in numbers
    }


def _entry(
    key: str,
    numbers: Mapping[Role, PairNumber],
    draws: Mapping[Role, FloatArray],
    confidence: float,
) -> Entry:
    """A measure with its difference, from the same draws for both: what they share cancels."""
    before, after = numbers.get("before"), numbers.get("after")
    difference = None
    if before is not None and after is not None:
        num_groups = min(before["num_groups"], after["num_groups"])
        value = after["value"] - before["value"]
        difference = _number(value, draws["after"] - draws["before"], num_groups, confidence)
    return {
        "chance": MEASURES[key].chance,
        "before": before,
        "after": after,
        "difference": difference,
    }


def _number(value: float, draws_D: FloatArray, num_groups: int, confidence: float) -> Number:
    low, high = (interval(draws_D, confidence) if num_groups > 1 else None) or (None, None)
    return {"value": value, "low": low, "high": high}


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
    """What happened to each pair's text score: fixed, broken, right, or wrong.

    "right" and "wrong" are still so, or so under the only model.
    """
    after_P, before_P = (
        paired_scores(scores.logps_P32, scores.tie_nats)[0]
        for scores in (
            model_scores["after"],
            model_scores.get("before", model_scores["after"]),
        )
    )
    names = {
        (False, True): "fixed",
        (True, False): "broken",
        (True, True): "right",
        (False, False): "wrong",
    }
    return [names[pair] for pair in zip(before_P.tolist(), after_P.tolist(), strict=True)]
