"""Files that are whole or absent, stage folders, and folders that belong to one job.

A stage lives in `<work>/<stage>/<fingerprint>/`. Its parts are written one by one, DONE.json last,
so the presence of DONE.json means that the stage is complete and the presence of a part means that
the part is.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.recipe import UserError

LOCK = ".lock"  # in every folder that a job has written into, see `only_one`


def cache_dir() -> Path:
    """Where things made once per machine are kept: $SVCO_CACHE, or ~/.cache/svco."""
    return Path(os.environ.get("SVCO_CACHE") or Path.home() / ".cache" / "svco")


def is_within(path: Path, root: Path) -> bool:
    """Whether what is named below a folder also lies in it, links followed.

    The files of a snapshot in the Hub's cache are links to the `blobs` beside all snapshots.

    Args:
        root: The folder, its own links followed.
    """
    lies = path.resolve()
    if lies.is_relative_to(root):
        return True
    is_named = ".." not in path.parts and root.parent.name == "snapshots"
    return is_named and lies.is_relative_to(root.parent.parent / "blobs")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a temporary neighbour of `path`, then renames it into place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes 0600, which other users of a shared disk cannot read
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path.parent}: the disk is full; free some space and run the same command again,"
                " it will go on"
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: expected JSON, got something else ({error}); delete the file to make it anew"
        ) from error


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file, whole or not at all."""
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def write_mapped(path: Path, table: pa.Table) -> None:
    """Writes an Arrow IPC file of one batch, whole or not at all, for `open_mapped`."""

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table.combine_chunks())

    write_atomically(path, write)


def open_mapped(path: Path) -> pa.Table:
    """An Arrow IPC file as a table whose values stay on disk until they are read.

    The mapping lives as long as the table; the file is closed, so that any number of chunks fits a
    process's limit on files.
    """
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file as one table.

    `memory_map=False`: a mapped file that is replaced under a reader kills it.
    """
    return pq.read_table(path, columns=columns, memory_map=False, partitioning=None)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage's folder, named by the fingerprint of everything that its content depends on."""

    name: str
    folder: Path

    def part(self, kind: str, index: int, suffix: str = "parquet") -> Path:
        """The file of one chunk, for example pairs-00012.parquet."""
        return self.folder / f"{kind}-{index:05d}.{suffix}"

    def missing(self, kind: str, number: int, suffix: str = "parquet") -> list[int]:
        """Which of so many parts of a kind are not there yet."""
        return [i for i in range(number) if not self.part(kind, i, suffix).is_file()]

    def done(self) -> dict[str, Any] | None:
        """What DONE.json says, or None while the stage is not complete."""
        marker = self.folder / "DONE.json"
        return read_json(marker) if marker.is_file() else None

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Marks the stage complete with `facts` and its files' hashes; returns what was written."""
        files = sorted(
            p for p in self.folder.iterdir() if p.is_file() and not p.name.startswith((".", "DONE"))
        )
        record = {"stage": self.name, **facts, "files": {p.name: sha256_file(p) for p in files}}
        write_json(self.folder / "DONE.json", record)
        return record


def open_stage(work: Path, name: str, fingerprint: str) -> Stage:
    """The folder `<work>/<name>/<fingerprint>/`, made if missing."""
    folder = work / name / fingerprint
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another out or work folder"
        ) from error
    return Stage(name, folder)


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Holds the folder's lock while the body runs, so that two jobs never write into it together.

    The lock is the operating system's: it ends with the process, however the process ends.

    Raises:
        UserError: Another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(
            f"{what}={folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{what}={folder}: another job is writing there; wait for it or choose another"
                " folder"
            ) from error
        yield


@dataclass(frozen=True, slots=True)
class Owner:
    """A kind of job that fills folders and empties its own, and how it tells them from others'.

    `marks` are files of which any one says that a folder is this job's; `claim` writes the first.
    `takes` are the names in a folder that the job replaces (empty: whatever there is), and `never`
    those that no folder of this job has, whatever else is in it.
    """

    job: str
    marks: tuple[str, ...]
    takes: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def check(self, folder: Path, what: str = "out") -> None:
        """Refuses a folder that holds what this job did not write; a new or empty one is free.

        Raises:
            UserError: It holds something else, or is no folder; `what` names the recipe's key.
        """
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        strange = [name for name in names if name in self.never]
        if not any(mark in names for mark in self.marks):
            strange += [name for name in names if name in (self.takes or names) and name != LOCK]
        if folder.is_file():
            strange = ["a file of this name"]
        if strange:
            raise UserError(
                f"{what}={folder}: expected a new folder or one of an earlier {self.job}, found"
                f" {strange[0]!r}; choose another {what}"
            )

    def claim(self, folder: Path, note: str) -> None:
        """Marks a folder that `check` has let pass as this job's."""
        write_text(folder / self.marks[0], note)


def remove_stale(folder: Path, *patterns: str, keep: Container[str] = ()) -> None:
    """Removes the files and folders of earlier work that match a glob pattern below `folder`.

    Args:
        keep: Paths relative to `folder` that stay.
    """
    stale = [path for pattern in patterns for path in folder.glob(pattern)]
    for path in (path for path in stale if path.relative_to(folder).as_posix() not in keep):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
