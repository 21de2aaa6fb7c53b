"""THE contract: what a candidate is, what a published MVC row is, and how an MVC folder is read."""

import contextlib
import hashlib
import itertools
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.manifest import Manifest, RowCounts
from pipeline.core.recipe import UserError

SCHEMA_VERSION = 1
CATEGORIES = ("object", "attribute", "count", "position", "relation", "other")
SPLITS = ("train", "validation")

Category = Literal["object", "attribute", "count", "position", "relation", "other"]


class MvcError(UserError):
    """A folder is not an MVC that this version can read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pair as a source yields it, before anything is decided; images are bytes, untouched.

    `group` names what must never be split across train and validation (the original image, person
    or scene). `meta` is JSON text. Where one side was made from the other, a is the original.
    """

    source: str
    source_id: str
    category: str
    operation: str
    group: str
    image_a: bytes
    image_b: bytes
    caption_a: str
    caption_b: str
    license: str
    question: str | None = None
    meta: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A source row that could not become a candidate, why, and whatever is known of it.

    `meta` is JSON text; it has what the reason is about, as the row states it.
    """

    source: str
    source_id: str
    reason: str
    category: str = "other"
    operation: str = ""
    group: str = ""
    caption_a: str = ""
    caption_b: str = ""
    license: str = ""
    meta: str = "{}"


def sha256_hex(data: bytes) -> str:
    """The content address of an image: sha256 of its encoded bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def pair_id(image_a_sha256: str, caption_a: str, image_b_sha256: str, caption_b: str) -> str:
    """32 hex digits that name a pair by content; (a, b) and (b, a) are one pair."""
    sides = sorted([[image_a_sha256, caption_a], [image_b_sha256, caption_b]])
    return hashlib.sha256(json.dumps(sides, ensure_ascii=True).encode()).hexdigest()[:32]


def malformed_id(source: str, row: int) -> str:
    """The pair_id of a row without a content: where in its source it stands names it."""
    return hashlib.sha256(json.dumps(["malformed", source, row]).encode()).hexdigest()[:32]


IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("pair_id", pa.string()),
    ("source", pa.string()),
    ("source_id", pa.string()),
    ("category", pa.string()),
    ("operation", pa.string()),
    ("group", pa.string()),
    ("image_a", IMAGE),
    ("image_b", IMAGE),
    ("question", pa.string()),
    ("answer_a", pa.string()),
    ("answer_b", pa.string()),
    ("caption_a", pa.string()),
    ("caption_b", pa.string()),
    ("clip_image_cos", pa.float64()),
    ("dinov2_image_cos", pa.float64()),
    ("pixels_image_cos", pa.float64()),
    ("caption_margin_a", pa.float64()),
    ("caption_margin_b", pa.float64()),
    ("rewrite_status", pa.string()),
    ("rewrite_model", pa.string()),
    ("license", pa.string()),
    ("image_a_sha256", pa.string()),
    ("image_b_sha256", pa.string()),
    ("meta", pa.string()),
)
COLUMNS = tuple(name for name, _ in _COLUMNS)
SCORE_COLUMNS = (
    "clip_image_cos",
    "dinov2_image_cos",
    "pixels_image_cos",
    "caption_margin_a",
    "caption_margin_b",
)
# the sum of both, on which selection may set a bound; it is no column
CAPTION_MARGIN_SUM = "caption_margin_sum"
BOUNDED_SCORES = (*SCORE_COLUMNS, CAPTION_MARGIN_SUM)


def mvc_schema(*, rejects: bool = False) -> pa.Schema:
    """The Arrow schema of a shard, with the metadata by which the Hub sees images.

    Args:
        rejects: The schema of `rejects/`, which has `drop_reason` as its last column.
    """
    columns = [*_COLUMNS, ("drop_reason", pa.string())] if rejects else list(_COLUMNS)
    features = {name: _feature(kind) for name, kind in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([pa.field(name, kind) for name, kind in columns], metadata=metadata)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    return {"dtype": "float64" if kind == pa.float64() else "string", "_type": "Value"}


def row_counts(numbers: Mapping[tuple[str, str, str, str], int]) -> RowCounts:
    """The manifest's counts, of numbers of rows by (split, drop reason, category, source).

    The split of a dropped row is "rejects".
    """

    def by(place: int, *, dropped: bool) -> dict[str, int]:
        chosen = sorted(
            (key[place], number)
            for key, number in numbers.items()
            if (key[0] == "rejects") == dropped
        )
        return {
            value: sum(number for _, number in group)
            for value, group in itertools.groupby(chosen, key=operator.itemgetter(0))
        }

    by_split, by_reason = by(0, dropped=False), by(1, dropped=True)
    return {
        "in": sum(numbers.values()),
        "kept": sum(by_split.values()),
        "dropped": sum(by_reason.values()),
        "by_split": dict.fromkeys(SPLITS, 0) | by_split,
        "dropped_by_reason": by_reason,
        "kept_by_category": by(2, dropped=False),
        "dropped_by_category": by(2, dropped=True),
        "kept_by_source": by(3, dropped=False),
        "dropped_by_source": by(3, dropped=True),
    }


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of an MVC folder.

    Raises:
        MvcError: No manifest (not an MVC, or a build that did not finish), or another schema
            version.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise MvcError(
            f"{folder}: expected an MVC folder with manifest.json, found none; make one with"
            " pipeline/build_mvc.py (a build that did not finish has none: run it again)"
        )
    try:
        manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MvcError(
            f"{path}: expected JSON, got something else ({error}); build the folder again"
        ) from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise MvcError(
            f"{path}: expected schema version {SCHEMA_VERSION}, got {version!r}; build the folder"
            " again"
        )
    return manifest


def shard_paths(folder: str | Path, split: str) -> list[Path]:
    """The Parquet files of one split ("train", "validation"), in order."""
    return sorted((Path(folder) / "data").glob(f"{split}-*.parquet"))


@contextlib.contextmanager
def reading_shard(path: Path) -> Iterator[None]:
    """What breaks while a shard is read is the shard's fault, and says so.

    Raises:
        MvcError: The body met a file that is no Parquet, or that cannot be read.
    """
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise MvcError(
            f"{path}: cannot be read as Parquet ({error}); build the folder again"
        ) from error


def read_shard(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of one shard, in the order given.

    Raises:
        MvcError: An unreadable shard, or a missing column.
    """
    with reading_shard(path):
        present = pq.read_schema(path).names
        missing = [name for name in columns if name not in present]
        if missing:
            raise MvcError(
                f"{path}: column {missing[0]!r} is missing; svco validate says what else is wrong,"
                " and another build mends it"
            )
        return pq.read_table(path, columns=list(columns), partitioning=None)


def rows_at(
    path: Path, numbers: Sequence[int], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, values) of the rows of a shard with these numbers, row group by row group.

    Only the row groups that hold them are read, one at a time.
    """
    with pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            inside = [number for number in numbers if start <= number < stop]
            if inside:
                table = file.read_row_group(group, columns=list(columns))
                rows = table.take([number - start for number in inside]).to_pylist()
                yield from zip(inside, rows, strict=True)
            start = stop


def read_places(places: Sequence[tuple[Path, int]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of some shards that lie at (shard, number), in the order given; as `rows_at`."""
    rows = {
        (path, number): row
        for path in sorted({path for path, _ in places})
        for number, row in rows_at(path, sorted({n for p, n in places if p == path}), columns)
    }
    return [rows[place] for place in places]


def read_mvc(folder: str | Path, split: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One split of an MVC folder in shard order, with all columns of the contract or some.

    Raises:
        MvcError: Not an MVC folder, a missing column, an unreadable shard, or an empty split.
    """
    read_manifest(folder)
    tables = [read_shard(path, columns or COLUMNS) for path in shard_paths(folder, split)]
    table = pa.concat_tables(tables) if tables else None
    if table is None or table.num_rows == 0:
        raise MvcError(
            f"{folder}: split {split!r} has no rows; lower the thresholds or raise"
            " validation.fraction"
        )
    return table


def image_bytes(table: pa.Table, column: str) -> list[bytes]:
    """The encoded bytes of an image column ("image_a" or "image_b"), one entry per row."""
    return [
        data for chunk in table.column(column).chunks for data in chunk.field("bytes").to_pylist()
    ]


DECIMALS = 4
