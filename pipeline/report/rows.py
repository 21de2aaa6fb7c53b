"""What the report reads of a published folder: narrow columns of all rows, all of some."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.schema import (
    SCORE_COLUMNS,
    SPLITS,
    MvcError,
    read_places,
    read_shard,
    shard_paths,
)

Mask = NDArray[np.bool_]

NARROW = ("pair_id", "source", "category", "operation", "group", "license", *SCORE_COLUMNS)
SHOWN = (
    "pair_id",
    "source",
    "source_id",
    "category",
    "operation",
    "image_a",
    "image_b",
    "question",
    "answer_a",
    "answer_b",
    "caption_a",
    "caption_b",
    *SCORE_COLUMNS,
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Every candidate of a folder, without texts and pictures.

    `table` has NARROW, `drop_reason` ("" if kept), `split` ("" if dropped), and where the row lies:
    `file` (a number in `files`) and `row` within it.
    """

    files: tuple[Path, ...]
    table: pa.Table

    @property
    def kept(self) -> Mask:
        """Which rows are in the data, [N]."""
        return self.where("drop_reason", "")

    def where(self, column: str, value: str) -> Mask:
        """Which rows have `value` in a text column, [N]; a null has none."""
        return pc.fill_null(pc.equal(self.table[column], value), False).to_numpy()

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """The scores that some encoder computed, [N] each, NaN where a row left before scoring."""
        made = [name for name in SCORE_COLUMNS if self.table[name].null_count < len(self.table)]
        return {
            name: np.asarray(self.table[name].to_numpy(zero_copy_only=False), np.float64)
            for name in made
        }

    def groups(self) -> list[str]:
        """The group of every row; "" where none is stated."""
        return pc.fill_null(self.table["group"], "").to_pylist()

    def counts(self, *columns: str) -> dict[tuple[str, ...], int]:
        """How many rows have each combination of values, sorted by it; a null counts as ""."""
        texts = pa.table({name: pc.fill_null(self.table[name], "") for name in columns})
        groups = texts.group_by(list(columns)).aggregate([([], "count_all")]).to_pylist()
        return dict(
            sorted((tuple(row[name] for name in columns), row["count_all"]) for row in groups)
        )

    def drop_reasons(self) -> dict[str, int]:
        """How many rows left for each reason, the most frequent first."""
        counted = [(num, reason) for (reason,), num in self.counts("drop_reason").items() if reason]
        return {reason: num for num, reason in sorted(counted, reverse=True)}

    def sample(self, mask: Mask, num_rows: int) -> NDArray[np.int64]:
        """Up to `num_rows` rows of a mask, nobody's choice.

        The categories come in turn, each in the order of pair_id, which is a hash.
        """
        at = np.flatnonzero(mask)
        part = self.table.select(["category", "pair_id"]).take(at)
        order = pc.sort_indices(
            part, sort_keys=[("category", "ascending"), ("pair_id", "ascending")]
        ).to_numpy()
        category = pc.fill_null(part["category"], "").take(order).to_numpy(zero_copy_only=False)
        turn = (
            np.arange(len(category)) - np.searchsorted(category, category)
            if len(category)
            else order
        )
        return at[order[np.argsort(turn, kind="stable")]][:num_rows]

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> list[dict[str, Any]]:
        """The given rows with SHOWN columns, in the given order.

        Reads the row groups that hold them, one at a time.
        """
        places = self.table.select(["file", "row"]).take(pa.array(rows, pa.int64())).to_pylist()
        return read_places([(self.files[at["file"]], at["row"]) for at in places], SHOWN)


def read_rows(folder: Path) -> Rows:
    """Every candidate of a published folder.

    Raises:
        MvcError: A shard that is no Parquet, or lacks a column.
    """
    places = [(path, split) for split in SPLITS for path in shard_paths(folder, split)]
    places += [(path, "") for path in sorted((folder / "rejects").glob("*.parquet"))]
    tables = [_narrow(path, number, split) for number, (path, split) in enumerate(places)]
    if not tables:
        raise MvcError(
            f"{folder}: expected Parquet files in data/ or rejects/, found none; build the folder"
            " again"
        )
    return Rows(tuple(path for path, _ in places), pa.concat_tables(tables))


def _narrow(path: Path, number: int, split: str) -> pa.Table:
    table = read_shard(path, NARROW if split else [*NARROW, "drop_reason"])
    places = {
        **({"drop_reason": pa.repeat("", len(table))} if split else {}),
        "split": pa.repeat(split, len(table)),
        "file": pa.repeat(number, len(table)),
        "row": pa.array(np.arange(len(table)), pa.int64()),
    }
    for name, values in places.items():
        table = table.append_column(name, values)
    return table
