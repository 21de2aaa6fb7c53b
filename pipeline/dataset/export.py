"""`svco export`: an MVC folder in a format that another trainer reads, a function for each."""

import itertools
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from pipeline.core.images import image_ending
from pipeline.core.progress import Progress, say
from pipeline.core.recipe import UserError, absolute_path
from pipeline.core.schema import (
    IMAGE,
    MvcError,
    read_manifest,
    reading_shard,
    sha256_hex,
    shard_paths,
)
from pipeline.core.storage import Owner, only_one, remove_stale, write_atomically
from pipeline.sources.mvc_json import default_root

# The marker holds the format.
OWNER = Owner("export", (".svco-export",))
# Rows in memory at a time.
BATCH_ROWS = 32
COLUMNS = (
    "pair_id",
    "source",
    "category",
    "operation",
    "group",
    "license",
    "question",
    "answer_a",
    "answer_b",
    "image_a",
    "image_b",
    "meta",
)

# What a record of any format keeps of its pair.
STATED = ("pair_id", "source", "category", "operation", "group", "license")

Row = dict[str, Any]


Format = Literal["mvc_json", "trl"]
Split = Literal["train", "validation"]


def export(folder: Path, to: Format, out: Path, split: Split = "train") -> int:
    """Writes one split of an MVC folder into `out` in another format; returns the number of pairs.

    An earlier export of the same format in `out` is replaced. Memory does not grow with the number
    of pairs.

    Raises:
        MvcError: `folder` is no MVC folder, or the split has no rows or an image that is none.
        UserError: `out` is another's folder, is in use, or cannot be written.
    """
    read_manifest(folder)
    num_rows = _count_rows(folder, split)
    OWNER.check(out)
    marker = out / OWNER.marks[0]
    there = marker.read_text(encoding="utf-8").strip() if marker.is_file() else to
    if there != to:
        raise UserError(f"out={out}: holds an export of format {there}; choose another folder")
    with only_one(out, "out"), Progress("export", num_rows, "pairs") as progress:
        OWNER.claim(out, f"{to}\n")
        try:
            rows = _read_rows(folder, split, progress)
            if to == "mvc_json":
                write_mvc_json(rows, out)
            else:
                write_trl(rows, out / f"{split}.parquet")
        except OSError as error:
            raise UserError(
                f"out={out}: cannot be written ({error.strerror or error}); choose another folder"
                " or free some space"
            ) from error
    return num_rows


def _count_rows(folder: Path, split: Split) -> int:
    num_rows = 0
    for path in shard_paths(folder, split):
        with reading_shard(path), pq.ParquetFile(path, pre_buffer=False) as shard:
            missing = [name for name in COLUMNS if name not in shard.schema_arrow.names]
            if missing:
                raise MvcError(f"{path}: column {missing[0]!r} is missing; build the folder again")
            num_rows += shard.metadata.num_rows
    if not num_rows:
        raise MvcError(
            f"{folder}: split {split!r} has no rows; give --split another one, or build with"
            " more pairs"
        )
    return num_rows


def _read_rows(folder: Path, split: Split, progress: Progress) -> Iterator[Row]:
    """The rows of a split in shard order, a few at a time."""
    for path in shard_paths(folder, split):
        with reading_shard(path), pq.ParquetFile(path, pre_buffer=False) as shard:
            for batch in shard.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
                yield from batch.to_pylist()
                progress.advance(batch.num_rows)


def write_mvc_json(rows: Iterator[Row], out: Path) -> None:
    """The layout that the authors' trainer reads: `mvc.json` and images by content.

    The list of records stands beside `images/<sha256>.<ending>`. Side a is "chosen" and b
    "rejected". Image paths are relative to the folder that the trainer is started in: `out` itself,
    or the one above if `out` is called `data`. Besides the trainer's keys a record keeps `pair_id`,
    `source`, `category`, `operation`, `group` and `license`. The list is written last, so where it
    is, all its images are.
    """
    listed, images = out / "mvc.json", out / "images"
    remove_stale(out, listed.name, images.name)
    images.mkdir()
    prefix = posixpath.relpath(images.as_posix(), default_root(listed.as_posix()))

    def record(row: Row) -> Row:
        paths = {side: [f"{prefix}/{_write_image(row, side, images)}"] for side in "ab"}
        return {
            "chosen_images": paths["a"],
            "rejected_images": paths["b"],
            "system_prompt": _system_prompt(row["meta"]),
            "instruction_prompt": row["question"],
            "chosen_response": row["answer_a"],
            "rejected_response": row["answer_b"],
            **{key: row[key] for key in STATED},
        }

    def write(file: BinaryIO) -> None:
        for number, row in enumerate(rows):
            file.write(b",\n" if number else b"[\n")
            file.write(json.dumps(record(row), ensure_ascii=False).encode())
        file.write(b"\n]\n")

    write_atomically(listed, write)


def write_trl(rows: Iterator[Row], path: Path) -> None:
    """TRL's vision preference rows as `<split>.parquet`, which its DPOTrainer takes.

    TRL has one list of images per row, shared by both responses, so a pair becomes two preferences
    between texts:

        images [image_a]   prompt question   chosen answer_a   rejected answer_b
        images [image_b]   prompt question   chosen answer_b   rejected answer_a

    Lost is what S-VCO adds to such preferences. No image is set against the other one under the
    same text, and the condition without an image, against which attend and reject are measured, is
    nowhere. The trainer shuffles the two rows of a pair apart; `pair_id` and `side`, which it does
    not read, still tell.
    """
    remove_stale(path.parent, "*.parquet")
    schema = _trl_schema()

    def write(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_index=True) as writer:
            while batch := list(itertools.islice(rows, BATCH_ROWS)):
                preferences = [
                    _preference(row, side, other) for row in batch for side, other in ("ab", "ba")
                ]
                writer.write_table(pa.Table.from_pylist(preferences, schema=schema))

    write_atomically(path, write)


def _preference(row: Row, side: str, other: str) -> Row:
    """The row in which this side's image is shown, and its answer preferred to the other's."""
    prompt = [("system", _system_prompt(row["meta"])), ("user", row["question"])]
    return {
        "images": [{"bytes": _image_bytes(row, side), "path": None}],
        "prompt": [{"role": role, "content": text} for role, text in prompt if text],
        "chosen": [{"role": "assistant", "content": row[f"answer_{side}"]}],
        "rejected": [{"role": "assistant", "content": row[f"answer_{other}"]}],
        "side": side,
        **{key: row[key] for key in STATED},
    }


def _trl_schema() -> pa.Schema:
    """The columns, with the metadata by which `load_dataset` decodes the images."""
    text: Row = {"dtype": "string", "_type": "Value"}
    message = (
        pa.struct([("role", pa.string()), ("content", pa.string())]),
        {"role": text, "content": text},
    )
    columns = [
        ("images", pa.list_(IMAGE), {"feature": {"_type": "Image"}, "_type": "List"}),
        *(
            (name, pa.list_(message[0]), {"feature": message[1], "_type": "List"})
            for name in ("prompt", "chosen", "rejected")
        ),
        *((name, pa.string(), text) for name in ("side", *STATED)),
    ]
    features = {name: feature for name, _, feature in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([pa.field(name, kind) for name, kind, _ in columns], metadata=metadata)


def _write_image(row: Row, side: str, folder: Path) -> str:
    """Writes one image under its content's name unless it is there already; returns the name."""
    data = _image_bytes(row, side)
    name = f"{sha256_hex(data)}.{image_ending(data)}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
    return name


def _image_bytes(row: Row, side: str) -> bytes:
    data: bytes = (row[f"image_{side}"] or {}).get("bytes") or b""
    if not image_ending(data):
        raise MvcError(
            f"pair {row['pair_id']}: image_{side} is no image that we know; the shard is damaged,"
            " build the folder again"
        )
    return data


def _system_prompt(meta: str | None) -> str:
    """What the `mvc_json` source kept of a record's system prompt; "" for pairs from elsewhere."""
    known = json.loads(meta or "{}")
    prompt = known.get("system_prompt") if isinstance(known, dict) else None
    return prompt if isinstance(prompt, str) else ""


def run(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The MVC folder.")],
    to: Annotated[Format, typer.Option("--to", help="The format to write.")],
    out: Annotated[
        str | None, typer.Option(help="Where to; by default DIR-FORMAT-SPLIT beside DIR.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which split.")] = "train",
) -> None:
    """Write one split of an MVC folder in the format that another trainer reads."""
    source = absolute_path(folder, "DIR")
    target = absolute_path(out, "out") if out else f"{source}-{to}-{split}"
    if "://" in source + target:
        raise UserError(
            f"{source} -> {target}: only local folders can be exported; copy the MVC here first,"
            " and the result there"
        )
    num_pairs = export(Path(source), to, Path(target), split)
    say(f"{num_pairs:,} pairs of {split}  {target}")
