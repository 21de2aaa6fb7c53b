"""Reading what a source names, safely: a local or remote folder, which no name may leave."""

import codecs
import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.recipe import RecipeError
from pipeline.core.schema import sha256_hex
from pipeline.core.storage import is_within
from pipeline.sources.delimited import TextError, read_records

# One picture; larger files are no photographs.
MAX_IMAGE_BYTES = 64 * 1024 * 1024
JSON_LINES = (".jsonl", ".ndjson")

# A remote folder of which so many files were looked at one by one is listed as a whole: a listing
# tells of a thousand files per request, and of a huge folder of which a recipe names a handful it
# would tell far too much.
NUM_LOOKS_BEFORE_LISTING = 8


def read_whole(path: str, what: str) -> bytes:
    """All bytes of a file named by a path or a URI (s3://, hf:// ...).

    Raises:
        RecipeError: It is not there or cannot be read; `what` names the recipe's key.
    """
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as remote:
                return bytes(remote.read())
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise RecipeError(f"{what}: expected a file at {path!r}, found none") from error
    # ValueError: a protocol that fsspec does not know
    except (OSError, ValueError, ImportError) as error:
        raise RecipeError(
            f"{what}: {path!r} cannot be read ({type(error).__name__}: {error})"
        ) from error


class SourceFolder:
    """A folder, local or remote, whose files are read by names that must stay inside."""

    def __init__(self, folder: str) -> None:
        self._is_remote = "://" in folder
        self._local = Path() if self._is_remote else Path(folder).resolve()
        self._filesystem: Any = None
        self._prefix = folder
        self._num_looks: Counter[str] = Counter()
        self._listings: dict[str, dict[str, dict[str, Any]] | None] = {}
        if self._is_remote:
            import fsspec

            self._filesystem, self._prefix = fsspec.core.url_to_fs(folder)

    def read(self, name: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes | str:
        """The bytes of the file `name`, or the reason why there are none.

        "outside_root": an absolute name, one with "..", or a link that leads out; "file_missing",
        "file_too_large", "file_unreadable".
        """
        read = self._read_remote if self._is_remote else self._read_local
        return read(name, max_bytes)

    def _read_local(self, name: str, max_bytes: int) -> bytes | str:
        try:
            # Links are followed before the root is checked.
            path = self._local / name
            if not is_within(path, self._local):
                return "outside_root"
            if not path.is_file():
                return "file_missing"
            if path.stat().st_size > max_bytes:
                return "file_too_large"
            return path.read_bytes()
        # unreadable, a name with a zero byte, or a loop of links
        except (OSError, ValueError, RuntimeError):
            return "file_unreadable"

    def _read_remote(self, name: str, max_bytes: int) -> bytes | str:
        normal = posixpath.normpath(name)
        if normal.startswith(("/", "..")) or "://" in name:
            return "outside_root"
        path = f"{self._prefix}/{normal}"
        try:
            if self._filesystem.size(path) > max_bytes:
                return "file_too_large"
            return bytes(self._filesystem.cat_file(path))
        except FileNotFoundError:
            return "file_missing"
        except (OSError, ValueError):
            return "file_unreadable"

    def exists(self, name: str) -> bool:
        """Whether a file of that name lies inside the root."""
        if self._is_remote:
            return bool(self._filesystem.exists(f"{self._prefix}/{posixpath.normpath(name)}"))
        # any file is larger, so it is looked for and not read
        return self._read_local(name, max_bytes=-1) == "file_too_large"

    def names(self, ending: str) -> list[str]:
        """The files directly inside the root whose names end so, sorted."""
        if self._is_remote:
            names = [
                posixpath.basename(str(path))
                for path in self._filesystem.ls(self._prefix, detail=False)
            ]
        else:
            names = [path.name for path in self._local.iterdir()] if self._local.is_dir() else []
        return sorted(name for name in names if name.endswith(ending))

    def look(self, name: str) -> list[object]:
        """What changes when the file changes, without reading it: name, size and time.

        Just the name where there is no such file.
        """
        try:
            if self._is_remote:
                info = self._info(f"{self._prefix}/{posixpath.normpath(name)}")
                return [
                    name,
                    info.get("size"),
                    str(info.get("ETag") or info.get("mtime") or info.get("LastModified")),
                ]
            local = (self._local / name).stat()
        except (OSError, ValueError):
            return [name]
        return [name, local.st_size, local.st_mtime_ns]

    def _info(self, path: str) -> dict[str, Any]:
        """What the storage knows of a remote file.

        Raises:
            OSError, ValueError: There is none, or it cannot be asked.
        """
        folder, file = posixpath.split(path)
        self._num_looks[folder] += 1
        if self._num_looks[folder] > NUM_LOOKS_BEFORE_LISTING:
            if folder not in self._listings:
                self._listings[folder] = self._list(folder)
            listing = self._listings[folder]
            if listing is not None:
                if file not in listing:
                    raise FileNotFoundError(path)
                return listing[file]
        return dict(self._filesystem.info(path))

    def _list(self, folder: str) -> dict[str, dict[str, Any]] | None:
        """What lies in a remote folder, by name.

        None where a listing does not tell all that a file's own entry does (http).
        """
        try:
            # what fsspec remembers may be older than this job
            self._filesystem.invalidate_cache(folder)
            entries = {
                posixpath.basename(str(entry["name"]).rstrip("/")): entry
                for entry in self._filesystem.ls(folder, detail=True)
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, NotImplementedError):
            return None
        return entries if all(entry.get("size") is not None for entry in entries.values()) else None


def read_rows(
    section: Any, needed: Sequence[str], endings: Sequence[str]
) -> tuple[list[dict[str, object] | str], str]:
    """One entry per line of a manifest, its object or why it is none, and the sha256 of its bytes.

    Blank lines are no rows.

    Args:
        section: Names the manifest (`path`), and which of its keys hold what (`columns`).
        needed: The columns that some row must have.
        endings: Of the formats that may be read.

    Raises:
        RecipeError: No such file, another kind of file, a CSV that has no meaning, or two, no rows,
            or a wrong column map.
    """
    what, path = f"sources ({section.kind})", section.path
    data = read_whole(path, what)
    ending = posixpath.splitext(path)[1].lower()
    if ending not in endings:
        raise RecipeError(
            f"{what}: expected a manifest that ends in {', '.join(endings[:-1])} or {endings[-1]},"
            f" got {posixpath.basename(path)!r}"
        )
    text = utf8_of(data)
    rows = (
        [
            _read_line(line)
            for line in text.removeprefix(codecs.BOM_UTF8).splitlines()
            if line.strip()
        ]
        if ending in JSON_LINES
        else _read_table(path, text, section)
    )
    present = sorted({key for row in rows if isinstance(row, dict) for key in row})
    if not present:
        raise RecipeError(
            f"{what}: {path!r} has no rows; expected one per line, with {', '.join(needed)}"
        )
    for name in needed:
        column = getattr(section.columns, name)
        if column not in present:
            raise RecipeError(
                f"{what}: no row of {path!r} has {column!r} (for {name}); it has"
                f" {', '.join(present)}; map it with columns.{name}=NAME"
            )
    return rows, sha256_hex(data)


def _read_line(line: bytes) -> dict[str, object] | str:
    try:
        value = json.loads(line)
    # bad JSON, bytes that are no UTF-8, or nested beyond sense
    except (ValueError, RecursionError):
        return "line_not_json"
    if not isinstance(value, dict):
        return "line_not_an_object"
    return value if is_unicode(value) else "line_not_unicode"


def is_unicode(value: object) -> bool:
    """False for half of a surrogate pair, which JSON can spell and no text file can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _read_table(path: str, data: bytes, section: Any) -> list[dict[str, object] | str]:
    try:
        text = data.decode("utf-8-sig")
        records = read_records(text, tabs=path.lower().endswith(".tsv"), quoting=section.quoting)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"sources ({section.kind}): {path!r} is not text in UTF-8 from line {line} on"
            f" ({data[error.start : error.start + 4]!r}); save it as CSV in UTF-8"
        ) from error
    except TextError as fault:
        raise RecipeError(f"sources ({section.kind}): {path!r}, {fault}") from fault
    if not records:
        return []
    header, *records = records
    names = [(name or "").strip() for name in header.fields]
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise RecipeError(
            f"sources ({section.kind}): {path!r}, line {header.line}: expected each column once,"
            f" got {twice[0]!r} twice; rename one"
        )
    return [_row(names, record.fields) for record in records]


def _row(names: Sequence[str], fields: Sequence[str | None]) -> dict[str, object] | str:
    """A record by the header's names, or the reason why it is none."""
    if len(fields) != len(names):
        return f"line_with_too_{'few' if len(fields) < len(names) else 'many'}_fields"
    return dict(zip(names, fields, strict=True))


def utf8_of(data: bytes) -> bytes:
    """The bytes of a text in UTF-8, also where it was UTF-16 or 32, as Windows programs write it.

    Told by its byte order mark, else by the NULs that stand beside every ASCII letter.
    """
    marks = {
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
    encoding = next((name for mark, name in marks.items() if data.startswith(mark)), "")
    if not encoding and b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        text = data.decode(encoding) if encoding else ""
    except UnicodeDecodeError:
        return data
    return text.encode("utf-8", "surrogatepass") if encoding else data
