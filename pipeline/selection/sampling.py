"""Who is drawn where not all can stay: caps, the thinning of exempt rows, the validation split.

Every draw is the order of a seeded hash of a row's or group's own name: it depends neither on the
order of rows nor on the machine, and a draw of fewer is part of a draw of more.
"""

# Shapes: N rows, G groups.

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
ExemptRule = Literal["own_category", "source_categories"]


def seeded_hash(keys: NDArray[Any], seed: int) -> Hashes:
    """A well mixed 64-bit number per key, the same on every machine, [N].

    Args:
        keys: int64, or texts of at most 32 bytes (dtype S).
    """
    words = (
        np.ascontiguousarray(keys.astype("S32")).view("<u8").reshape(-1, 4)
        if keys.dtype.kind == "S"
        else keys.astype(np.int64).reshape(-1, 1)
    )
    hashes = _mixed(np.full(len(keys), seed % 2**64, np.uint64))
    for column in words.T:
        hashes = _mixed(hashes ^ column.astype(np.uint64))
    return hashes


def _mixed(values: Hashes) -> Hashes:
    """splitmix64: a bijection of 64-bit numbers after which every bit depends on every bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def over_cap(names: NDArray[Any], stays: Mask, order: Hashes, cap: int | dict[str, int]) -> Mask:
    """Which rows that stay are too many of their name: all but the first `cap` by hash, [N].

    Args:
        names: What is counted, per row: categories, sources or groups.
        cap: One number for every name, or numbers for some names; a name without one has no cap.
    """
    rows, over = np.flatnonzero(stays), np.zeros(len(stays), bool)
    known, code = np.unique(names[rows], return_inverse=True)
    caps = np.array(
        [cap if isinstance(cap, int) else cap.get(name, len(rows)) for name in known.tolist()]
    )
    by_name = np.lexsort((order[rows], code))
    ordered = code[by_name]
    rank = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    over[rows[by_name]] = rank >= caps[ordered]
    return over


def unsampled_exempt(
    category: NDArray[Any], exempt: Mask, stays: Mask, order: Hashes, rule: ExemptRule
) -> Mask:
    """Which exempt rows leave, so that the rest stand in the sources' proportions, [N].

    With S the candidates and K the judged (not exempt) rows that stay, the rate at which judged
    rows stay is r = K / S over a pool of judged rows. A category c with exempt rows keeps

        clip(round(r * S_c) - K_c, 0, available)

    of them, the first in the order of their hashes; S_c counts all of its candidates, exempt ones
    included. The pool is

        own_category       the judged rows of c: exempt and judged rows keep the proportion of the
                           sources
        source_categories  the rows of categories without exempt rows: c keeps its share among the
                           sources' categories

    and all judged rows where that pool is empty; where no row is judged, all stay. The S-VCO paper
    says only that flips are "randomly sampled following the original category distribution of the
    sources" and gives no formula.

    Args:
        stays: Rows that no earlier rule has dropped.
    """
    leaves = exempt & stays
    names = np.unique(category[exempt]).tolist()
    without_exempt = ~np.isin(category, names)
    for name in names:
        mine = category == name
        pool = mine & ~exempt if rule == "own_category" else without_exempt
        pool = pool if pool.any() else ~exempt
        rate = stays[pool].mean() if pool.any() else 1.0
        wanted = round(rate * mine.sum()) - (mine & ~exempt & stays).sum()
        available = np.flatnonzero(mine & exempt & stays)
        leaves[available[np.argsort(order[available], kind="stable")][: max(wanted, 0)]] = False
    return leaves


def validation_rows(
    group: NDArray[np.int64],
    *,
    fraction: float | None = None,
    num_pairs: int | None = None,
    seed: int,
) -> Mask:
    """Which rows are held out: whole groups in hashed order, each if it still fits, [N].

    So the size is exact wherever groups of one pair are left to fill it. Otherwise the smallest
    group left is taken too if that brings the split nearer to its size, or if it would be empty.
    One group always stays in train, so a single group leaves validation empty.

    Args:
        group: The group of each kept row, as a 64-bit key that is the same on every machine.
        fraction: Share of rows wanted, in [0, 1); used if `num_pairs` is None.
        num_pairs: Number of rows wanted.
    """
    wanted = (fraction or 0.0) * len(group) if num_pairs is None else num_pairs
    groups, code, sizes = np.unique(group, return_inverse=True, return_counts=True)
    ordered = np.argsort(seeded_hash(groups, seed), kind="stable")
    held_out = np.zeros(len(groups), bool)
    if wanted <= 0 or len(groups) < 2:
        return held_out[code]
    left, num_left = wanted, len(groups)
    for place, size in zip(ordered.tolist(), sizes[ordered].tolist(), strict=True):
        if size <= left and num_left > 1:
            held_out[place] = True
            left, num_left = left - size, num_left - 1
    others = ordered[~held_out[ordered]]
    smallest = others[np.argmin(sizes[others])]
    if num_left > 1 and (sizes[smallest] < 2 * left or not held_out.any()):
        held_out[smallest] = True
    return held_out[code]
