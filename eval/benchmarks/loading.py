"""Reading a benchmark's records and images: native files, a `datasets` folder, Parquet, a Hub id.

A record that cannot be used is an error that names its place: a benchmark is scored whole or not at
all.
"""

import csv
import functools
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from eval.benchmarks.checks import Record
from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.recipe import UserError, is_hub_id
from pipeline.core.schema import sha256_hex

MAX_ZIPPED_BYTES = 100 * 2**20  # of one image: an archive may claim to hold anything


@dataclass(slots=True)
class Source:
    """Where the records come from.

    `root` is the folder that image paths are relative to; None: the records hold the images.
    """

    name: str
    root: Path | None
    records: list[Record]
    checked: dict[str, bytes] = field(default_factory=dict)
    # several questions share an image
    named: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)

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
        if isinstance(value, bytes):
            key, read = sha256_hex(value), lambda: bytes(value)
        elif isinstance(value, str) and value and self.root is not None:
            name = (value, tuple(folders))
            if name in self.named:
                return self.checked[self.named[name]]
            key, read = _found(self.root, folders, value, where)
            self.named[name] = key
        else:
            raise UserError(
                f"{self.name}: {where} has no image; expected encoded bytes or the path of a file,"
                f" got {type(value).__name__}"
            )
        if key not in self.checked:
            data = read()
            try:
                decode_rgb(data)
            except ImageError as error:
                raise UserError(
                    f"{self.name}: the image of {where} cannot be used ({error}); fetch the"
                    " benchmark again"
                ) from error
            self.checked[key] = data
        return self.checked[key]


def _found(
    root: Path, folders: Sequence[str], relative: str, where: str
) -> tuple[str, Callable[[], bytes]]:
    """A name for an image file and a way to read it, from a folder or an archive."""
    for folder in folders:
        path = (root / folder / relative).resolve()
        if not path.is_relative_to(root.resolve()):
            raise UserError(
                f"{where}: the image path {relative!r} leaves {root}; expected a path inside it"
            )
        for candidate in (path, path.with_suffix(path.suffix.upper())):
            if candidate.is_file():
                return str(candidate), candidate.read_bytes
    for archive in sorted(root.glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            wanted = [str(PurePosixPath(folder) / relative) for folder in folders]
            for entry in opened.infolist():
                if entry.filename in wanted and entry.file_size <= MAX_ZIPPED_BYTES:
                    return f"{archive}:{entry.filename}", functools.partial(
                        bytes, opened.read(entry)
                    )
    tried = ", ".join(str(Path(folder) / relative) for folder in folders)
    raise UserError(
        f"{where}: no image file; looked for {tried} in {root}; put the benchmark's images there"
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
        files: Names (or glob patterns) of the native file, the likeliest first.
        read: Reads a native file; None: JSON lines, a JSON list, CSV or TSV by its suffix.
        file_repositories: Hub ids that hold the native files and no `datasets` table.

    Raises:
        UserError: Nothing there that can be read.
    """
    path = Path(source).expanduser()
    if is_hub_id(source):
        if source not in file_repositories:
            return Source(name, None, _from_hub(name, source, config, split))
        path = _fetched(name, source)
    if path.is_file():
        return Source(
            name,
            path.parent,
            (read or read_file)(path) if path.suffix != ".parquet" else _parquet([path]),
        )
    if not path.is_dir():
        raise UserError(
            f"{name}: {source!r} is neither a file, nor a folder, nor a Hub id (ORG/NAME)"
        )
    for pattern in files:
        for found in sorted(path.glob(pattern)):
            return Source(name, path, (read or read_file)(found))
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return Source(name, path, _from_disk(name, path, split))
    parts = sorted(
        found for found in path.rglob("*.parquet") if config is None or config in found.as_posix()
    )
    parts = [part for part in parts if part.name.startswith(f"{split}-")] or parts
    if parts:
        return Source(name, path, _parquet(parts))
    held = ", ".join(sorted(found.name for found in path.iterdir())[:8]) or "nothing"
    raise UserError(
        f"{name}: expected {' or '.join(files)}, Parquet files or a saved data set in {path}; found"
        f" {held}"
    )


def read_file(path: Path) -> list[Record]:
    """The records of a JSON list, JSON lines, CSV or TSV file.

    Raises:
        UserError: It is cut off or holds something else; the message names the line.
    """
    text = read_text(path)
    if path.suffix in (".csv", ".tsv"):
        rows = list(
            csv.DictReader(
                text.splitlines(keepends=True),
                delimiter="\t" if path.suffix == ".tsv" else ",",
                strict=True,
            )
        )
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise UserError(
                    f"{path}: row {number} has another number of columns than the header; the file"
                    " is damaged or cut off"
                )
        return rows
    if path.suffix == ".jsonl" or text.lstrip().startswith("{"):
        return [
            _line(path, number, line)
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip()
        ]
    value = read_json_file(path, text)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise UserError(f"{path}: expected a JSON list of objects, got {type(value).__name__}")
    return value


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, found other bytes at {error.start}"
        ) from error


def read_json_file(path: Path, text: str | None = None) -> Any:
    """The JSON value of a file.

    Raises:
        UserError: It is no JSON or cut off.
    """
    try:
        return json.loads(read_text(path) if text is None else text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON at line {error.lineno} ({error.msg}); the file is damaged or"
            " cut off"
        ) from error


def _line(path: Path, number: int, line: str) -> Record:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {number} is not valid JSON ({error.msg}); the file is damaged or cut off"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: line {number}: expected a JSON object, got {type(value).__name__}"
        )
    return value


def _parquet(parts: Sequence[Path]) -> list[Record]:
    rows: list[Record] = []
    for part in parts:
        try:
            rows += pq.read_table(part).to_pylist()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{part}: not a whole Parquet file ({_first_line(error)}); fetch it again"
            ) from error
    return rows


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _undecoded(table: Any) -> list[Record]:
    """The rows of a `datasets` table with images as stored: encoding again would change them."""
    import datasets

    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return list(table)


def _from_hub(name: str, repository: str, config: str | None, split: str) -> list[Record]:
    import datasets

    try:
        return _undecoded(datasets.load_dataset(repository, config, split=split))
    # the Hub client raises of many kinds: offline, no such split, no such repository, gated
    except Exception as error:
        raise UserError(
            f"{name}: {repository!r} (split {split}) cannot be loaded from the Hub:"
            f" {_first_line(error)}"
        ) from error


def _from_disk(name: str, folder: Path, split: str) -> list[Record]:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: {folder} cannot be read as a saved data set: {_first_line(error)}"
        ) from error
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise UserError(f"{name}: {folder} has no split {split!r}; it has {', '.join(dataset)}")
        dataset = dataset[split]
    return _undecoded(dataset)


def _fetched(name: str, repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type="dataset"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: {repository!r} cannot be fetched from the Hub: {_first_line(error)}"
        ) from error
