"""`svco validate DIR`: is this folder the MVC that its manifest says?

Every problem is named, not only the first. Reads one row group at a time. What a single shard can
show about itself is in `row_checks`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.core.schema import SPLITS, MvcError, read_manifest, row_counts
from pipeline.core.storage import sha256_file
from pipeline.dataset.row_checks import Problem, Seen, shard_problems

_NAME = re.compile(r"(?P<split>[a-z]+)-(?P<index>\d{5})-of-(?P<total>\d{5})\.parquet")
_FOLDERS = {"data": SPLITS, "rejects": ("rejects",)}
LINES_PER_KIND = 20


def problems(folder: Path, *, quick: bool, seen: Seen | None = None) -> Iterator[Problem]:
    """Everything that is wrong with an MVC folder, as it is found.

    Args:
        quick: Leaves out what needs the bytes of files and pictures: checksums and decoding.
        seen: Filled with what was read, for a summary.

    Raises:
        MvcError: There is no such folder.
    """
    if not folder.is_dir():
        raise MvcError(
            f"{folder}: expected an MVC folder, found none there; make one with svco build"
        )
    return _problems(folder, seen or Seen(), quick)


def _problems(folder: Path, seen: Seen, quick: bool) -> Iterator[Problem]:
    try:
        manifest = read_manifest(folder)
    except MvcError as error:
        yield Problem(
            "manifest.json",
            "manifest",
            str(error).removeprefix(f"{folder}: ").removeprefix(f"{folder / 'manifest.json'}: "),
        )
        manifest = {}
    if not (folder / "README.md").is_file():
        yield Problem(
            "README.md",
            "card_missing",
            "missing; without its header the Hub does not know the splits",
            is_warning=True,
        )
    shards = sorted(
        path
        for name in _FOLDERS
        if (folder / name).is_dir()
        for path in (folder / name).iterdir()
        if path.name[0] != "."
    )
    names = [path.relative_to(folder).as_posix() for path in shards]
    yield from _name_problems(names)
    if manifest:
        yield from _file_problems(folder, names, manifest.get("files"), quick)
    for path, name in zip(shards, names, strict=True):
        if path.suffix == ".parquet":
            # proper or not
            split = path.name.partition("-")[0] if name.startswith("data/") else "rejects"
            yield from shard_problems(path, name, split, seen, quick=quick)
    if manifest and seen.is_complete:
        yield from _count_problems(manifest.get("rows"), seen)


def _name_problems(names: list[str]) -> Iterator[Problem]:
    """Files that no reader of the split would find in their place, and numbers that are missing."""
    numbers: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for name in names:
        folder, _, file = name.partition("/")
        match = _NAME.fullmatch(file)
        if match is None or match["split"] not in _FOLDERS[folder]:
            expected = " or ".join(
                f"{folder}/{split}-00000-of-0000N.parquet" for split in _FOLDERS[folder]
            )
            yield Problem(name, "file_name", f"expected a name like {expected}")
        else:
            numbers[f"{folder}/{match['split']}", int(match["total"])].add(int(match["index"]))
    for (stem, total), indices in numbers.items():
        if indices != set(range(total)):
            wrong = sorted(indices ^ set(range(total)))
            yield Problem(
                stem,
                "file_numbers",
                f"of {total} files numbered from 0, these are missing or too many: {wrong[:10]}",
            )
    stems = Counter(stem for stem, _ in numbers)
    for stem in (stem for stem, count in stems.items() if count > 1):
        totals = sorted(total for other, total in numbers if other == stem)
        yield Problem(
            stem,
            "file_numbers",
            f"files of several writings are mixed: -of- {' and '.join(map(str, totals))}",
        )


def _file_problems(folder: Path, names: list[str], files: Any, quick: bool) -> Iterator[Problem]:
    """Shards against the manifest's list of them with their checksums."""
    if not isinstance(files, Mapping):
        yield Problem(
            "manifest.json",
            "manifest",
            "expected 'files' with the sha256 of each shard, found none",
        )
        return
    for name in sorted(set(files) - set(names)):
        yield Problem(name, "shard_missing", "in the manifest, but not here")
    for name in sorted(set(names) - set(files)):
        yield Problem(name, "shard_extra", "here, but not in the manifest")
    for name in sorted(set(names) & set(files)) if not quick else ():
        sha256 = sha256_file(folder / name)
        if sha256 != files[name]:
            yield Problem(
                name, "sha256", f"its sha256 is {sha256}, the manifest says {files[name]}"
            )


def _count_problems(stated: Any, seen: Seen) -> Iterator[Problem]:
    """The manifest's numbers of rows against those that are there."""
    if not isinstance(stated, Mapping):
        yield Problem(
            "manifest.json", "manifest", "expected 'rows' with the numbers of rows, found none"
        )
        return
    counts: dict[str, Any] = {**row_counts(seen.num_rows)}
    for key in sorted(set(counts) & set(stated)):
        there, said = (
            {name: number for name, number in _named(value).items() if number}
            for value in (counts[key], stated[key])
        )
        for name in sorted(set(there) | set(said)):
            if there.get(name, 0) != said.get(name, 0):
                where = f"rows.{key}" + (f".{name}" if name else "")
                yield Problem(
                    "manifest.json",
                    "count",
                    f"{where}: says {said.get(name, 0):,}, there are {there.get(name, 0):,}",
                )


def _named(value: Any) -> dict[str, int]:
    return dict(value) if isinstance(value, Mapping) else {"": int(value)}


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An MVC folder.")],
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Leave out checksums and decoding: names, columns, rows and counts only.",
        ),
    ] = False,
    show: Annotated[
        int, typer.Option(min=0, help="Lines shown of each kind of problem; 0: all.")
    ] = LINES_PER_KIND,
) -> None:
    """Check an MVC folder against the schema and its manifest; exit code 1 if anything is wrong."""
    seen, num_of_kind = Seen(), Counter[tuple[str, bool]]()
    for problem in problems(folder, quick=quick, seen=seen):
        num_of_kind[problem.kind, problem.is_warning] += 1
        if not show or num_of_kind[problem.kind, problem.is_warning] <= show:
            print(problem.line())
    for (kind, is_warning), number in num_of_kind.items():
        if show and number > show:
            print(
                f"... and {number - show:,} more {'warnings' if is_warning else 'problems'} of the"
                f" kind {kind!r} (--show 0 shows all)"
            )
    num_problems = sum(number for (_, is_warning), number in num_of_kind.items() if not is_warning)
    num_warnings = num_of_kind.total() - num_problems
    verdict = _counted(num_problems, "problem") if num_problems else "fine"
    print(
        "; ".join(
            [
                f"{folder}: {verdict}",
                seen.in_words(),
                *([_counted(num_warnings, "warning")] if num_warnings else []),
            ]
        )
    )
    if num_problems:
        raise typer.Exit(1)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
