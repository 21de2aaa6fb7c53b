"""Scores and decisions of a finished MVC folder, to be decided anew without a build."""

# Shapes: N pairs.

from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.core.schema import (
    BOUNDED_SCORES,
    SCORE_COLUMNS,
    SPLITS,
    MvcError,
    read_manifest,
    read_shard,
    shard_paths,
)
from pipeline.selection.rules import Columns, SelectionSection, exempt_rows, resolved_bounds

_NEEDED = ("source", "category", "operation", *SCORE_COLUMNS)
# What the stage before selection finds, although such rows have scores.
_BEFORE_SELECTION = ("duplicate_pair", "image_a_in_benchmark", "image_b_in_benchmark")


def read_scores(folder: Path) -> tuple[dict[str, NDArray[Any]], SelectionSection]:
    """The narrow columns of every row that reached selection, and the rules that it met.

    "drop_reason" is among the columns.

    Raises:
        MvcError: Not an MVC folder, or one of another version.
    """
    manifest = read_manifest(folder)
    try:
        section = SelectionSection.model_validate(manifest["recipe"]["selection"])
    except (KeyError, TypeError, ValidationError) as error:
        raise MvcError(
            f"{folder}/manifest.json: its selection cannot be read by this version; build the"
            " folder again"
        ) from error
    tables = [
        read_shard(path, [*_NEEDED, "drop_reason"])
        for path in sorted((folder / "rejects").glob("*.parquet"))
    ]
    kept = [read_shard(path, _NEEDED) for split in SPLITS for path in shard_paths(folder, split)]
    tables += [table.append_column("drop_reason", pa.repeat("", len(table))) for table in kept]
    if not tables:
        raise MvcError(
            f"{folder}: holds no Parquet file in data/ or rejects/; build the folder again"
        )
    rows = pa.concat_tables(tables)
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    is_scored = ~np.logical_and.reduce([np.isnan(columns[name]) for name in SCORE_COLUMNS])
    reached = is_scored & ~np.isin(columns["drop_reason"], _BEFORE_SELECTION)
    return {name: values[reached] for name, values in columns.items()}, section


def swept_rows(
    columns: Columns, section: SelectionSection, axes: Collection[str]
) -> NDArray[np.bool_]:
    """Which rows a sweep counts: those whose place the swept bounds decide, [N].

    A pair was kept, or left by a bound, or by a cap (caps come after bounds, so a sweep counts
    before caps). Left out are pairs that left for any other reason, that the recipe exempts from
    bounds, or that break a bound that is not swept. So at the build's own thresholds a sweep shows
    the judged pairs that the build kept or capped; looser ones may let in pairs that would leave
    later, when their question is written.

    Args:
        columns: The rows that reached selection, with "drop_reason".
        axes: The swept bounds, as "clip_image_cos.min".
    """
    ways = product(BOUNDED_SCORES, ("missing", "below_min", "above_max"))
    decisive = ["", "over_cap_group", "over_cap_source", "over_cap_category", *map("_".join, ways)]
    counted = np.isin(columns["drop_reason"], decisive) & ~exempt_rows(columns, section)
    swept = {axis.replace(".min", "_below_min").replace(".max", "_above_max") for axis in axes}
    for bound in resolved_bounds(columns, section):
        for reason, rows in bound.broken(columns):
            if reason not in swept:
                counted &= ~rows
    return counted
