"""Stage `link`: which rows are one pair, and which show the same picture.

Two groups become one where they share an image (equal decoded pixels) or one that looks the same
(perceptual hashes a few bits apart): otherwise a photograph would stand in train and in validation.
The two sides of a pair are one group already, so they are never held against each other. Images of
a benchmark are found in the same way, and their pairs left out.
"""

# Shapes: N rows; a trailing 2 is the side (a, b); U unique hashes; M nodes of the graph.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from pipeline.core.hashing import NULL_KEY
from pipeline.core.recipe import RecipeError, Section
from pipeline.dedup.decontaminate import benchmark_keys, in_benchmark
from pipeline.dedup.phash import Ints, near_pairs

VERSION = 1
COLUMNS = (
    "drop_reason",
    "content_key",
    "group_key",
    "pixels_key_a",
    "pixels_key_b",
    "phash_a",
    "phash_b",
)


class LinkSection(Section):
    """How near-duplicates are found, and which images must not be in the data.

    `max_bits`: perceptual hashes (64 bits) that differ in at most so many bits show one picture;
    null: equal pixels only. `max_group_frac`: linked groups larger than this share of the rows are
    an error, because the split would be lopsided. `benchmarks`: folders (of images or Parquet) or
    Hub data sets whose images must not appear.
    """

    max_bits: int | None = Field(default=2, ge=0, le=8)
    max_group_frac: float = Field(default=0.2, gt=0, le=1)
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LinkedGroups:
    """Each row's linked group and drop reason ("" if it stays), and what the report says.

    A group is named by the smallest key in it.
    """

    group_N: Ints
    reason_N: NDArray[np.object_]
    facts: dict[str, Any]


def repeated_rows(content_N: Ints, order_of: Callable[[Ints], list[tuple[str, str]]]) -> Ints:
    """The rows that repeat a pair, of which the smallest (source, source_id) stays.

    Args:
        content_N: A key of both sides' pixels and captions; NULL_KEY: the row takes no part.
        order_of: (source, source_id) of the given rows; asked for repeated ones only.
    """
    _, inverse, counts = np.unique(content_N, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((counts > 1)[inverse] & (content_N != NULL_KEY))
    ordered = sorted(zip(content_N[rows].tolist(), order_of(rows), rows.tolist(), strict=True))
    repeats = [row for (before, *_), (key, _, row) in pairwise(ordered) if key == before]
    return np.array(sorted(repeats), np.int64)


def link_groups(group_N: Ints, pixels_N2: Ints, phash_N2: Ints, max_bits: int | None) -> Ints:
    """Each row's group after those that share a picture have become one, [N].

    It is named by the smallest key in it.

        groups 1, 2, 3 with images (5, 6), (6, 7), (8, 9)  ->  1, 1, 3

    Args:
        group_N: The group of each row as a 64-bit key.
        pixels_N2, phash_N2: Keys of decoded pixels and perceptual hashes; NULL_KEY where there is
            none.
        max_bits: None: equal pixels only.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    groups, group_of_N = np.unique(group_N, return_inverse=True)
    heads, tails, num_nodes = _edges(group_of_N, pixels_N2, len(groups))
    ends = [(heads, tails)]
    if max_bits is not None:
        heads, tails, more = _edges(group_of_N, phash_N2, num_nodes)
        unique = np.unique(phash_N2[phash_N2 != NULL_KEY])
        near = near_pairs(unique.view(np.uint64), max_bits)
        ends += [(heads, tails), (near[0] + num_nodes, near[1] + num_nodes)]
        num_nodes = more
    heads, tails = (np.concatenate([end[side] for end in ends]) for side in (0, 1))
    graph = coo_matrix((np.ones(len(heads), np.int8), (heads, tails)), shape=(num_nodes, num_nodes))
    _, component_M = connected_components(graph, directed=False)
    # np.unique sorts, so the first group of a component is its smallest key.
    _, first, label = np.unique(component_M[: len(groups)], return_index=True, return_inverse=True)
    return groups[first[label]][group_of_N]


def _edges(group_of_N: Ints, keys_N2: Ints, num_nodes: int) -> tuple[Ints, Ints, int]:
    """Edges from groups to one node per unique key, numbered from `num_nodes` in key order."""
    rows, sides = np.nonzero(keys_N2 != NULL_KEY)
    unique, node = np.unique(keys_N2[rows, sides], return_inverse=True)
    return group_of_N[rows], node + num_nodes, num_nodes + len(unique)


def find_links(
    columns: Mapping[str, NDArray[Any]],
    order_of: Callable[[Ints], list[tuple[str, str]]],
    section: LinkSection,
) -> LinkedGroups:
    """Repeated pairs, a benchmark's pairs, and linked groups of all rows.

    Args:
        columns: `COLUMNS` of every row; rows with a drop_reason take no part.
        order_of: (source, source_id) of the given rows.

    Raises:
        RecipeError: Linking made a group larger than `max_group_frac` of the usable rows.
    """
    reason_N = columns["drop_reason"].copy()
    reason_N[
        repeated_rows(np.where(reason_N == "", columns["content_key"], NULL_KEY), order_of)
    ] = "duplicate_pair"
    pixels_N2, phash_N2 = (
        np.stack([columns[f"{name}_{side}"] for side in "ab"], axis=1)
        for name in ("pixels_key", "phash")
    )
    for benchmark in section.benchmarks:
        known = benchmark_keys(benchmark)
        for place, side in enumerate("ab"):
            is_known_N = in_benchmark(
                pixels_N2[:, place], phash_N2[:, place], known, section.max_bits
            )
            reason_N[is_known_N & (reason_N == "")] = f"image_{side}_in_benchmark"
    usable_N = reason_N == ""
    pixels_N2, phash_N2 = (
        np.where(usable_N[:, None], keys, NULL_KEY) for keys in (pixels_N2, phash_N2)
    )
    linked_N = link_groups(columns["group_key"], pixels_N2, phash_N2, section.max_bits)
    facts = _group_facts(columns["group_key"][usable_N], linked_N[usable_N])
    if facts["frac_largest"] > section.max_group_frac and facts["largest_groups"] > 1:
        raise RecipeError(
            f"links: pictures that look the same join {facts['largest_groups']:,} groups into one"
            f" of {facts['largest_rows']:,} rows, {100 * facts['frac_largest']:.0f} % of the data"
            f" (max_group_frac {100 * section.max_group_frac:.0f} %), which no split could divide."
            " Remove what is repeated, or set links.max_bits=null (equal pixels only), or raise"
            " links.max_group_frac"
        )
    return LinkedGroups(linked_N, reason_N, facts)


def _group_facts(given_N: Ints, linked_N: Ints) -> dict[str, Any]:
    """How many groups there are before and after, and how large the largest is."""
    names, sizes = np.unique(linked_N, return_counts=True)
    in_largest_N = np.isin(linked_N, names[np.argsort(-sizes, kind="stable")[:1]])
    return {
        "num_groups": len(np.unique(given_N)),
        "num_linked_groups": len(names),
        "largest_rows": int(in_largest_N.sum()),
        "largest_groups": len(np.unique(given_N[in_largest_N])),
        "frac_largest": round(float(in_largest_N.sum() / max(len(given_N), 1)), 4),
    }


def links_table(links: LinkedGroups) -> pa.Table:
    """What the stage stores: each row's linked group and drop reason, in the sources' order."""
    return pa.table(
        {
            "group": pa.array(links.group_N, pa.int64()),
            "drop_reason": pa.array(links.reason_N, pa.string()),
        }
    )
