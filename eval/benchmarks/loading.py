"""Reading a benchmark's records and images: native files, a `datasets` folder, Parquet, a Hub id.

A record that cannot be used is an error that names its place: a benchmark is scored whole or not at
all.
"""

import base64
import contextlib
import csv
import io
import itertools
import json
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow.parquet as pq

from eval.benchmarks import vlmevalkit
from pipeline.core.images import ImageError, decode_rgb, image_ending
from pipeline.core.recipe import UserError, first_line, is_hub_id
from pipeline.core.storage import is_within

MAX_ZIPPED_BYTES = 100 * 2**20  # of one image: an archive may claim to hold anything
Record = dict[str, Any]
T = TypeVar("T")


@dataclass(slots=True)
class Source:
    """Where the records come from.

    `root` is the folder that image paths are relative to; None: the records hold the images.
    """

    root: Path | None
    records: list[Record]
    # several questions share an image
    files: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    decoded: set[bytes] = field(default_factory=set)

    def image(self, value: Any, where: str, folders: Sequence[str] = ("",)) -> bytes:
        """The encoded bytes of an image.

        It is a path under one of `folders`, bytes, or {"bytes", "path"} as `datasets` has it. What
        does not decode is found here, before a model has answered half of the benchmark.

        Raises:
            UserError: No such file, a path that leaves the folder, or bytes that do not
                decode.
        """
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            value = _from_base64(value) or value
        if isinstance(value, str) and value and self.root is not None:
            name = (value, *folders)
            if name not in self.files:
                self.files[name] = _image_file(self.root, folders, value, where)
            value = self.files[name]
        if not isinstance(value, bytes):
            raise UserError(
                f"{where} has no image; expected encoded bytes or the path of a file, got"
                f" {type(value).__name__}"
            )
        if value not in self.decoded:
            try:
                decode_rgb(value)
            except ImageError as error:
                raise UserError(
                    f"{where}: the image cannot be used ({error}); fetch the benchmark again"
                ) from error
            self.decoded.add(value)
        return value


def _from_base64(text: str) -> bytes | None:
    """The image that a text spells in base64, also as a data URI; None for a path."""
    encoded = text.partition(",")[2] if text.startswith("data:image/") else text
    with contextlib.suppress(ValueError):
        data = base64.b64decode("".join(encoded.split()), validate=True)
        if image_ending(data):
            return data
    return None


def _image_file(root: Path, folders: Sequence[str], relative: str, where: str) -> bytes:
    """An image from a folder or from an archive that holds such a folder."""
    for folder in folders:
        path = root / folder / relative
        if not is_within(path, root.resolve()):
            raise UserError(
                f"{where}: the image path {relative!r} leaves {root}; expected a path inside it"
            )
        for candidate in (path, path.with_suffix(path.suffix.upper())):
            if candidate.is_file():
                return candidate.read_bytes()
    wanted = [str(PurePosixPath(folder) / relative) for folder in folders]
    for archive in sorted(root.glob("[!.]*.zip")):
        try:
            with zipfile.ZipFile(archive) as opened:
                for entry in opened.infolist():
                    if entry.filename in wanted and entry.file_size <= MAX_ZIPPED_BYTES:
                        return opened.read(entry)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{archive}: not a whole archive ({first_line(error)}); fetch it again"
            ) from error
    raise UserError(
        f"{where}: no image file; looked for {', '.join(wanted)} in {root}; put the benchmark's"
        " images there"
    )


def open_source(
    name: str,
    source: str,
    *,
    files: Sequence[str],
    read: Callable[[Path], list[Record]] | None = None,
    config: str | None = None,
    split: str = "test",
    file_repositories: Sequence[str] = (),
) -> Source:
    """The records of `source`.

    Args:
        files: Names (or glob patterns) of the native file, the likeliest first; of the first
            pattern that anything matches, all files are read.
        read: Reads a native file; None: JSON lines, a JSON list, CSV or TSV by its suffix.
        file_repositories: Hub ids that hold the native files and no `datasets` table.

    Raises:
        UserError: Nothing there that can be read.
    """
    path = Path(source).expanduser()
    if is_hub_id(source):
        if source not in file_repositories:
            return Source(None, _from_datasets(name, source, config, split))
        path = _fetched(name, source)
    if not path.exists():
        raise UserError(
            f"{name}: {source!r} is neither a file, nor a folder, nor a Hub id (ORG/NAME)"
        )
    matches = (sorted(path.glob(pattern)) for pattern in files)
    native = next(filter(None, matches), []) or vlmevalkit.files_in(name, path)
    root, native = (path.parent, [path]) if path.is_file() else (path, native)
    if native and native[0].suffix != ".parquet":
        return Source(root, [row for file in native for row in _native_rows(name, file, read)])
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return Source(root, _from_datasets(name, path, config, split))
    parts = native or sorted(
        file for file in path.rglob("[!.]*.parquet") if config is None or config in file.as_posix()
    )
    # train-00000-of-00002.parquet, or default/train/0000.parquet as the Hub converts what it has
    parts = (
        [part for part in parts if part.parts[-3:-1] == ("default", split)]
        or [
            part for part in parts if part.name.startswith(f"{split}-") or part.parent.name == split
        ]
        or parts
    )
    if parts:
        return Source(root, [row for part in parts for row in _parquet(part)])
    held = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
    raise UserError(
        f"{name}: expected {' or '.join(files)}, Parquet files or a saved data set in {path}; found"
        f" {held}"
    )


def _native_rows(
    name: str, file: Path, read: Callable[[Path], list[Record]] | None
) -> list[Record]:
    if file.suffix == ".tsv":
        return vlmevalkit.native_records(name, read_file(file), file)
    return (read or read_file)(file)


def read_file(path: Path) -> list[Record]:
    """The records of a JSON list, JSON lines, CSV or TSV file.

    Raises:
        UserError: It is cut off or holds something else; the message names the line.
    """
    text = _text(path)
    if path.suffix in (".csv", ".tsv"):
        rows = _rows_of_table(path, text)
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise UserError(
                    f"{path}: row {number} has another number of columns than the header; the file"
                    " is damaged or cut off"
                )
        return rows
    if path.suffix == ".jsonl" or text.lstrip().startswith("{"):
        # a line ends at no other mark: texts may hold U+2028 and its like
        lines = enumerate(text.split("\n"), start=1)
        value = [read_json_file(path, line, number) for number, line in lines if line.strip()]
    else:
        value = read_json_file(path, text)
    records = value if isinstance(value, list) else [value]
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise UserError(
                f"{path}: expected JSON objects, in a list or one a line, got"
                f" {type(record).__name__} as number {number}"
            )
    return records


def _rows_of_table(path: Path, text: str) -> list[Record]:
    csv.field_size_limit(2**31 - 1)  # the default is 128 KiB, and a cell may hold an image
    delimiter = "\t" if path.suffix == ".tsv" else ","
    # newline: marks inside of quotes stay as they are, and no other mark ends a row
    lines = io.StringIO(text, newline="")
    try:
        return list(csv.DictReader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}: not a whole table at or before line {text.count(chr(10)) + 1} ({error}); the"
            " file is damaged or cut off"
        ) from error


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, found other bytes at {error.start}"
        ) from error


def read_json_file(path: Path, text: str | None = None, line: int = 1) -> Any:
    """The JSON value of a file, or of the `text` that begins at a line of it.

    Raises:
        UserError: It is no JSON or cut off.
    """
    try:
        # not strict: a text may hold a mark that should have been escaped
        return json.loads(_text(path) if text is None else text, strict=False)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON at line {line + error.lineno - 1} ({error.msg}); the file is"
            " damaged or cut off"
        ) from error


def _parquet(part: Path) -> list[Record]:
    try:
        return pq.read_table(part).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{part}: not a whole Parquet file ({first_line(error)}); fetch it again"
        ) from error


def _from_datasets(name: str, source: str | Path, config: str | None, split: str) -> list[Record]:
    """The rows of a Hub id or a saved folder, images as stored: encoding would change them."""
    import datasets

    try:
        table = (
            datasets.load_from_disk(str(source))
            if isinstance(source, Path)
            else datasets.load_dataset(source, config, split=split)
        )
    # the Hub client raises of many kinds: offline, no such split, no such repository, gated
    except Exception as error:
        raise UserError(
            f"{name}: {str(source)!r} (split {split}) cannot be loaded: {first_line(error)}"
        ) from error
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise UserError(f"{name}: {source} has no split {split!r}; it has {', '.join(table)}")
        table = table[split]
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return list(table)


def _fetched(name: str, repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type="dataset"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: {repository!r} cannot be fetched from the Hub: {first_line(error)}"
        ) from error


def value_of(record: Record, names: str | Sequence[str], where: str, kind: type[T]) -> T:
    """A field of a record, under the first of `names` that it has.

    A whole number may be written as text and the other way round.

    Raises:
        UserError: It has none of them, or of another kind.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    value = next((record[name] for name in wanted if record.get(name) is not None), None)
    if value is None:
        raise UserError(
            f"{where} has no {' or '.join(wanted)}; it has"
            f" {', '.join(map(str, record)) or 'nothing'}"
        )
    try:
        is_plain = kind in (str, int) and isinstance(value, str | int | float)
        converted = kind(value) if is_plain else value  # type: ignore[call-arg]
    except ValueError:
        converted = value
    if not isinstance(converted, kind):
        raise UserError(f"{where}: expected {wanted[0]} as {kind.__name__}, got {value!r:.80}")
    return converted


def texts_of(record: Record, name: str, where: str) -> tuple[str, ...]:
    """A list of a record, as texts."""
    return tuple(map(str, value_of(record, name, where, list)))


def take_whole(
    records: Sequence[T], limit: int | None, group: Callable[[T], Hashable], questions_each: int = 1
) -> list[T]:
    """The first records of whole groups that give at most `limit` questions; at least one group."""
    if limit is None:
        return list(records)
    groups = defaultdict(list)
    for record in records:
        groups[group(record)].append(record)
    totals = itertools.accumulate(len(members) * questions_each for members in groups.values())
    num_groups = max(1, sum(total <= limit for total in totals))
    return list(itertools.chain(*list(groups.values())[:num_groups]))


def take_evenly(
    records: Sequence[T], limit: int | None, stratum: Callable[[T], Hashable]
) -> list[T]:
    """At most `limit` records, from each stratum in turn, so that few define a score over all."""
    if limit is None:
        return list(records)
    ranks = defaultdict[Hashable, Iterator[int]](itertools.count)
    rank_of = [next(ranks[stratum(record)]) for record in records]
    return [records[row] for row in sorted(range(len(records)), key=rank_of.__getitem__)[:limit]]
