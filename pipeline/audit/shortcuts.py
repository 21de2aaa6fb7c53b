"""The shortcut audit: can original sides be told from edited ones without a look at content?

If format, compression, size, noise or blur give a side away, a model trained on the pairs may learn
that instead of what the pairs show. Features of images (`image_traces`) go in, one result per
source and operation comes out.
"""

# Shapes: N pairs, S sampled pairs, M distinct images of one side or both, D features.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipeline.audit.image_traces import FEATURES, shortcut_features
from pipeline.core.auc import auc, auc_estimate
from pipeline.core.intervals import SHARE, BoolArray, FloatArray, IntArray
from pipeline.core.recipe import Section
from pipeline.selection.sampling import over_cap, seeded_hash

VERSION = 3

# operations that make both sides alike; of all others a is the original
NO_ORIGINAL = ("captured", "render")
MIN_PAIRS, MIN_GROUPS = 20, 10  # below, neither the classifier nor its interval means anything
NUM_FOLDS, NUM_REPEATS = 5, 3
NUM_CLUES = 3

Verdict = Literal["ok", "warning", "too_few", "not_applicable"]


class AuditSection(Section):
    """The shortcut audit: how many pairs of each source and operation, and when it warns."""

    enabled: bool = True
    max_pairs: int = Field(default=1000, ge=MIN_PAIRS)
    warn_above: float = Field(default=0.6, ge=0.5, le=1.0)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Clue:
    """A feature and how well it alone tells the sides apart: 1 always larger in b, 0 smaller."""

    feature: str
    auc: float


@dataclass(frozen=True, slots=True)
class Separability:
    """How well the sides can be told apart: 0.5 is chance, 1 every time; a 95 % interval."""

    auc: float
    auc_low: float
    auc_high: float
    clues: tuple[Clue, ...]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The audit of one source and operation.

    The verdict is "warning" where the AUC is above the limit and its interval above chance.
    "too_few" is said of less than `MIN_PAIRS` pairs or `MIN_GROUPS` groups, and of an AUC above the
    limit whose interval reaches down to chance.
    """

    source: str
    operation: str
    num_pairs: int
    num_audited: int
    verdict: Verdict
    separability: Separability | None = None


class Images(Protocol):
    """Encoded bytes by content id."""

    def __getitem__(self, sha256: str) -> bytes: ...


def sample_for_audit(
    pair_ids: npt.NDArray[Any],
    sources: npt.NDArray[Any],
    operations: npt.NDArray[Any],
    stays: BoolArray,
    section: AuditSection,
) -> IntArray:
    """Which rows to audit, [S] ascending: the first by hash of each source and operation.

    Taken from those that stay and have an original.
    """
    auditable = stays & ~np.isin(operations.astype(str), NO_ORIGINAL)
    order = seeded_hash(pair_ids, section.seed)
    return np.flatnonzero(
        auditable & ~over_cap(_strata(sources, operations)[1], auditable, order, section.max_pairs)
    )


def audit_features(images: Images, sha256s: Iterable[str]) -> pa.Table:
    """The features of images, one row each: their content id, then the columns of `FEATURES`."""
    keys = list(sha256s)
    features = np.array([shortcut_features(images[key]) for key in keys]).reshape(
        len(keys), len(FEATURES)
    )
    return pa.table(
        {"sha256": pa.array(keys, pa.string())} | dict(zip(FEATURES, features.T, strict=True))
    )


def features_of(table: pa.Table, sha256s: Sequence[str]) -> FloatArray:
    """The rows of a table of `audit_features` for these images, [S, D]; all must be in it."""
    row_of = {key: row for row, key in enumerate(table["sha256"].to_pylist())}
    features = np.column_stack([table[name].to_numpy() for name in FEATURES])
    return features[[row_of[key] for key in sha256s]]


def audit_sources(
    sources: npt.NDArray[Any],
    operations: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    sample: IntArray,
    features_a_SD: FloatArray,
    features_b_SD: FloatArray,
    section: AuditSection,
) -> list[AuditResult]:
    """One result per source and operation, in alphabetical order.

    Args:
        sources: Source, operation and group of every pair of the data set, [N] each.
        sample: The pairs whose features are given, from `sample_for_audit`.
    """
    names, stratum = _strata(sources, operations)
    results = []
    for number, (source, operation) in enumerate(names):
        chosen = stratum[sample] == number
        num_pairs, num_audited = int((stratum == number).sum()), int(chosen.sum())
        mine = groups[sample][chosen]
        verdict: Verdict = "not_applicable" if operation in NO_ORIGINAL else "too_few"
        measured = None
        if num_audited >= MIN_PAIRS and len(np.unique(mine)) >= MIN_GROUPS:
            measured = audit(features_a_SD[chosen], features_b_SD[chosen], mine, seed=section.seed)
            verdict = _verdict(measured, section.warn_above)
        results.append(AuditResult(source, operation, num_pairs, num_audited, verdict, measured))
    return results


def _strata(
    sources: npt.NDArray[Any], operations: npt.NDArray[Any]
) -> tuple[list[tuple[str, str]], IntArray]:
    """The (source, operation) that occur, in alphabetical order, and each row's number, [N]."""
    rows = list(zip(sources.tolist(), operations.tolist(), strict=True))
    names = sorted(set(rows))
    number = {name: index for index, name in enumerate(names)}
    return names, np.array([number[row] for row in rows], dtype=np.int64)


def _verdict(measured: Separability, warn_above: float) -> Verdict:
    if measured.auc <= warn_above:
        return "ok"
    return "warning" if measured.auc_low > 0.5 else "too_few"


def audit(
    features_a_ND: FloatArray, features_b_ND: FloatArray, groups_N: npt.NDArray[Any], *, seed: int
) -> Separability:
    """How well the sides of N pairs can be told apart by their features, one image at a time.

    Trees are trained on four fifths of the groups and score the rest, so an image is never scored
    by trees that saw its partner or another pair of its original; scores are averaged over three
    ways to part the groups, without which the AUC of 50 pairs changes by 0.1 with the seed. An
    image that many pairs share counts once per side. The interval is over groups of the
    scores, and does not hold how the trees would change with other training data. An AUC below 0.5
    is chance: with partners of opposite sides in the same fold, what is learnt by accident is wrong
    there.

    Args:
        groups_N: Pairs of one group share an image or its content. At least two groups.
    """
    features = np.concatenate([features_a_ND, features_b_ND])
    is_b = np.repeat([False, True], [len(features_a_ND), len(features_b_ND)])
    group = np.unique(np.concatenate([groups_N, groups_N]), return_inverse=True)[1]
    distinct = np.sort(
        np.unique(np.column_stack([features, is_b, group]), axis=0, return_index=True)[1]
    )
    features, is_b, group = features[distinct], is_b[distinct], group[distinct]
    scores = _out_of_fold_scores(features, is_b, group, seed)
    estimate = auc_estimate(
        scores[is_b], scores[~is_b], group[is_b], group[~is_b], int(group.max()) + 1
    )
    assert estimate is not None  # there are images of both sides
    low, high = estimate.interval(0.95, SHARE) or SHARE
    alone = {
        name: auc(column[is_b], column[~is_b])
        for name, column in zip(FEATURES, features.T, strict=True)
    }
    clearest = sorted(alone, key=lambda name: -abs(alone[name] - 0.5))[:NUM_CLUES]
    clues = tuple(Clue(name, round(alone[name], 4)) for name in clearest)
    return Separability(round(estimate.value, 4), round(low, 4), round(high, 4), clues)


def _out_of_fold_scores(
    features_MD: FloatArray, is_b_M: BoolArray, group_M: IntArray, seed: int
) -> FloatArray:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import GroupKFold
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    scores = np.zeros(len(is_b_M))
    # More than one OpenMP thread gains little on so few rows, and on a busy machine they wait for
    # each other many times as long.
    with threadpool_limits(1):
        for repeat in range(NUM_REPEATS):
            folds = GroupKFold(
                min(NUM_FOLDS, int(group_M.max()) + 1), shuffle=True, random_state=seed + repeat
            )
            for train, test in folds.split(features_MD, is_b_M, group_M):
                # Few and small trees: the most sensitive of what was tried, down to 40 pairs, and
                # the fastest.
                trees = HistGradientBoostingClassifier(
                    max_iter=40, max_leaf_nodes=8, min_samples_leaf=5, early_stopping=False
                )
                scores[test] += trees.fit(features_MD[train], is_b_M[train]).predict_proba(
                    features_MD[test]
                )[:, 1]
    return scores / NUM_REPEATS
