"""Every measure of one or two models with its interval: overall, per category and per source.

Knows nothing of models or files. The result is plain values, ready for JSON (`PairScores`); low and
high of a number are null where fewer than six groups were seen.

Shapes: P pairs; G groups; M measures.
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
from eval.pairs.paired_scores import PriorSides, paired_scores
from eval.stats.dependency import Number
from pipeline.core.auc import auc_estimate
from pipeline.core.intervals import (
    BoolArray,
    Estimate,
    IntArray,
    group_index,
    ratio_estimate,
    sums_by_group,
)


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
    """All measures over the pairs in `inside_P`, with intervals over the groups of this slice."""
    index_P, num_groups = group_index(
        [group for group, kept in zip(items["group"].to_pylist(), inside_P, strict=True) if kept]
    )
    estimates: dict[str, dict[Role, tuple[Estimate, int]]] = defaultdict(dict)
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
        for column, key in enumerate(terms):
            estimate = ratio_estimate(tops_GM[:, column], bottoms_GM[:, column])
            if estimate is not None:
                estimates[key][role] = estimate, int(bottoms_GM[:, column].sum())
        area = _auroc(scores, inside_P, index_P, num_groups)
        if area is not None:
            estimates["auroc"][role] = area, 2 * int(inside_P.sum())
    return {
        key: _entry(key, estimates[key], section.intervals.confidence)
        for key in MEASURES
        if key in estimates
    }


def _entry(key: str, estimates: Mapping[Role, tuple[Estimate, int]], confidence: float) -> Entry:
    """A measure with its difference, group by group: what both models share cancels."""
    lowest, highest = MEASURES[key].bounds
    numbers: dict[Role, PairNumber] = {
        role: {
            **_number(estimate, confidence, (lowest, highest)),
            "n": n,
            "num_groups": estimate.num_groups,
        }
        for role, (estimate, n) in estimates.items()
    }
    difference = None
    if "before" in estimates and "after" in estimates:
        change = estimates["after"][0].minus(estimates["before"][0])
        difference = _number(change, confidence, (lowest - highest, highest - lowest))
    return {
        "chance": MEASURES[key].chance,
        "before": numbers.get("before"),
        "after": numbers.get("after"),
        "difference": difference,
    }


def _number(estimate: Estimate, confidence: float, bounds: tuple[float, float]) -> Number:
    low, high = estimate.interval(confidence, bounds) or (None, None)
    return {"value": estimate.value, "low": low, "high": high}


def _auroc(
    scores: ModelScores, inside_P: BoolArray, index_P: IntArray, num_groups: int
) -> Estimate | None:
    matching_P2, contradictory_P2 = (effects[inside_P] for effects in image_effects(scores))
    of_text = np.repeat(index_P, 2)
    return auc_estimate(matching_P2.ravel(), contradictory_P2.ravel(), of_text, of_text, num_groups)


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
