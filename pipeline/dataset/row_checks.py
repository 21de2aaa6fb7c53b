"""What is wrong with one shard of an MVC folder: its columns, its row groups, its rows."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.schema import CATEGORIES, SCORE_COLUMNS, SPLITS, mvc_schema, pair_id, sha256_hex
from pipeline.text.contrast import leaked_words

# The viewer of the Hub reads whole row groups, and none above this size (it says 286.10 MiB).
MAX_GROUP_BYTES = 300_000_000
NULLABLE = {*SCORE_COLUMNS, "rewrite_model"}
NULLABLE_REJECTS = {
    name for name in mvc_schema().names if name not in ("pair_id", "source", "source_id")
}
ALLOWED = {"category": CATEGORIES, "rewrite_status": ("template", "llm", "llm_retried", "fallback")}
TEXTS = ("question", "answer_a", "answer_b", "caption_a", "caption_b")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong, where, and of which kind; a warning refuses no folder."""

    where: str
    kind: str
    message: str
    is_warning: bool = False

    def line(self) -> str:
        """As `svco validate` prints it, on one line whatever the data hold."""
        return " ".join(
            f"{'warning: ' if self.is_warning else ''}{self.where}: {self.message}".split()
        )


@dataclass(slots=True)
class Seen:
    """What was seen in the shards so far, for what only all of them together can show."""

    # by split, drop reason, category, source
    num_rows: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    split_of_pair: dict[str, str] = field(default_factory=dict)
    split_of_group: dict[str, str] = field(default_factory=dict)
    split_of_image: dict[str, str] = field(default_factory=dict)
    decoded: set[str] = field(default_factory=set)
    last_id: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True  # whether the rows of every shard could be read

    def in_words(self) -> str:
        """How many rows were read: "950 train, 50 validation, 12 rejects"."""
        splits = Counter[str]()
        for (split, *_), number in self.num_rows.items():
            splits[split] += number
        return ", ".join(f"{splits[split]:,} {split}" for split in (*SPLITS, "rejects"))


def shard_problems(
    path: Path, name: str, split: str, seen: Seen, *, quick: bool
) -> Iterator[Problem]:
    """Everything that is wrong with one shard; notes in `seen` what others are compared with.

    Args:
        name: Its path below the folder, for messages.
        split: "train", "validation" or "rejects".
    """
    schema = mvc_schema(rejects=split == "rejects")
    try:
        with pq.ParquetFile(path) as file:
            yield from _schema_problems(name, file.schema_arrow, schema)
            yield from group_problems(
                name,
                [file.metadata.row_group(g).total_byte_size for g in range(file.num_row_groups)],
            )
            if any(
                name not in file.schema_arrow.names
                or file.schema_arrow.field(name).type != schema.field(name).type
                for name in schema.names
            ):
                seen.is_complete = False
                return
            columns = [
                column
                for column in schema.names
                if not (quick and column in ("image_a", "image_b"))
            ]
            groups = (
                file.read_row_group(group, columns=columns).to_pylist()
                for group in range(file.num_row_groups)
            )
            for number, row in enumerate(itertools.chain.from_iterable(groups)):
                where = f"{name} row {number} (pair_id {row['pair_id']})"
                findings = itertools.chain(
                    _row_problems(row, split, seen), () if quick else _image_problems(row, seen)
                )
                yield from (Problem(where, *finding) for finding in findings)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        seen.is_complete = False
        yield Problem(name, "unreadable", f"cannot be read as Parquet ({error})")


def _schema_problems(name: str, actual: pa.Schema, expected: pa.Schema) -> Iterator[Problem]:
    for column in expected.names:
        if column not in actual.names:
            yield Problem(
                name, "column_missing", f"column {column!r} is missing; its rows were not checked"
            )
        elif actual.field(column).type != expected.field(column).type:
            yield Problem(
                name,
                "column_type",
                f"column {column!r} is {actual.field(column).type}, expected"
                f" {expected.field(column).type}; its rows were not checked",
            )
    extra = [column for column in actual.names if column not in expected.names]
    if extra:
        yield Problem(name, "column_extra", f"columns that an MVC has not: {', '.join(extra)}")
    shared = [column for column in actual.names if column in expected.names]
    if shared != [column for column in expected.names if column in shared]:
        yield Problem(
            name,
            "column_order",
            f"columns are in the order {', '.join(shared)}, expected {', '.join(expected.names)}",
        )
    if _features(actual) != _features(expected):
        yield Problem(
            name,
            "features",
            "the metadata 'huggingface' is missing or differs, so load_dataset would show images as"
            " dicts",
        )


def _features(schema: pa.Schema) -> Any:
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return None


def group_problems(name: str, group_bytes: list[int]) -> Iterator[Problem]:
    """Row groups that the Hub's viewer would not show.

    Args:
        group_bytes: The uncompressed size of each row group.
    """
    for group, size in enumerate(group_bytes):
        if size > MAX_GROUP_BYTES:
            yield Problem(
                name,
                "group_size",
                f"row group {group} has {size / 1e6:,.0f} MB, more than the"
                f" {MAX_GROUP_BYTES / 1e6:.0f} MB that the Hub's viewer reads",
            )


# Kind, message and, for a warning, True.
Finding = tuple[str, str] | tuple[str, str, bool]


def _row_problems(row: Mapping[str, Any], split: str, seen: Seen) -> Iterator[Finding]:
    is_kept = split != "rejects"
    identity = row["pair_id"] or ""
    seen.num_rows[
        split, row.get("drop_reason") or "", row["category"] or "", row["source"] or ""
    ] += 1
    for name, value in row.items():
        if value is None and name not in (NULLABLE if is_kept else NULLABLE_REJECTS):
            yield "null", f"{name} is null"
        elif value == "" and (name == "drop_reason" or (is_kept and name in TEXTS)):
            yield "empty", f"{name} is empty"
        elif value is not None and name in ALLOWED and value not in ALLOWED[name]:
            yield "value", f"{name} is {value!r}, expected one of {', '.join(ALLOWED[name])}"
    yield from _score_problems(row)
    sides = [row[name] for name in ("image_a_sha256", "caption_a", "image_b_sha256", "caption_b")]
    if None not in sides and identity != (expected := pair_id(*sides)):
        yield "pair_id", f"its content has the pair_id {expected}"
    if identity < seen.last_id.get(split, ""):
        yield "unsorted", f"follows {seen.last_id[split]}, so the rows are not sorted by pair_id"
    seen.last_id[split] = identity
    if is_kept:
        yield from _split_problems(row, split, seen)
        texts = [row[name] for name in ("question", "caption_a", "caption_b")]
        leaked = () if None in texts else leaked_words(*texts)
        if leaked:
            yield (
                "question_leaks",
                f"the question {row['question']!r} gives away {', '.join(sorted(leaked))}",
                True,
            )


def _score_problems(row: Mapping[str, Any]) -> Iterator[Finding]:
    scores = {name: row[name] for name in SCORE_COLUMNS if row[name] is not None}
    for name, value in scores.items():
        # a margin is the difference of two cosines
        limit = 2 if name.startswith("caption_margin") else 1
        if not -limit <= value <= limit:
            yield "score_range", f"{name} is {value}, expected a number from -{limit} to {limit}"
        elif round(value, 4) != value:
            yield "score_rounding", f"{name} is {value}, expected 4 decimals"


def _split_problems(row: Mapping[str, Any], split: str, seen: Seen) -> Iterator[Finding]:
    """What must be once in the data, and what must not be in both splits."""
    identity = row["pair_id"] or ""
    if identity in seen.split_of_pair:
        yield "pair_repeated", f"this pair is in {seen.split_of_pair[identity]} already"
    seen.split_of_pair.setdefault(identity, split)
    for what, name, home in (
        ("group", "group", seen.split_of_group),
        ("image", "image_a_sha256", seen.split_of_image),
        ("image", "image_b_sha256", seen.split_of_image),
    ):
        value = row[name]
        if value is not None and home.setdefault(value, split) != split:
            yield f"{what}_in_both_splits", f"{name} {value!r} is in {home[value]} and in {split}"


def _image_problems(row: Mapping[str, Any], seen: Seen) -> Iterator[Finding]:
    for side in "ab":
        image, stated = row[f"image_{side}"], row[f"image_{side}_sha256"]
        if image is None:
            continue
        data = image["bytes"]
        if data is None:
            yield "image_bytes", f"image_{side} has no bytes"
            continue
        sha256 = sha256_hex(data)
        if sha256 != stated:
            yield "image_sha256", f"image_{side} has the sha256 {sha256}, its column says {stated}"
        if sha256 in seen.decoded:
            continue
        seen.decoded.add(sha256)
        try:
            decode_rgb(data)
        except ImageError as error:
            yield "image_undecodable", f"image_{side} cannot be decoded ({error})"
