"""The rows of a build with what selection decided of them, read chunk by chunk."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.storage import Stage, open_mapped

Ints = NDArray[np.int64]


def shared_texts(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """A column of texts as objects that equal values share; None where null."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), dtype=object)[encoded.indices.to_numpy()]


class DecidedRows:
    """Every candidate's final row, in the chunks' mapped files.

    Narrow columns come into memory, the rest is gathered on demand.

    Args:
        decisions: Columns of all rows that take the place of those in the files (drop_reason,
            split), if any.
    """

    def __init__(self, stage: Stage, num_chunks: int, decisions: pa.Table | None = None) -> None:
        self._tables = [
            open_mapped(stage.part("rows", index, "arrow")) for index in range(num_chunks)
        ]
        self._starts = np.cumsum([0, *(table.num_rows for table in self._tables)])
        if decisions is not None:
            for index, table in enumerate(self._tables):
                mine = decisions.slice(self._starts[index], table.num_rows)
                self._tables[index] = pa.table(
                    {
                        name: (mine if name in mine.column_names else table)[name]
                        for name in table.column_names
                    }
                )

    @property
    def num_rows(self) -> int:
        """Rows of all chunks together."""
        return int(self._starts[-1])

    def column(self, name: str, dtype: str = "object") -> NDArray[Any]:
        """One column of all rows: texts as objects that equal values share, or as bytes ("S32")."""
        columns = [table.column(name) for table in self._tables]
        return np.concatenate(
            [
                shared_texts(values)
                if dtype == "object"
                else np.array(values.to_pylist(), dtype=dtype)
                for values in columns
            ]
        )

    def gather(self, rows: Ints) -> pa.Table:
        """The given rows in the given order."""
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        parts = [
            self._tables[chunk].take(pa.array(rows[chunks == chunk] - self._starts[chunk]))
            for chunk in np.unique(chunks)
        ]
        by_chunk = pa.concat_tables([self._tables[0].slice(0, 0), *parts])
        return by_chunk.take(pa.array(np.argsort(np.argsort(chunks, kind="stable"))))
