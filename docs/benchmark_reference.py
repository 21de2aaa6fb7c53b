"""Writes the table of benchmarks in docs/evaluation.md from the benchmarks' own modules:
docstrings, options, headline, parsers.

python docs/benchmark_reference.py            # after a change of a benchmark
python docs/benchmark_reference.py --check    # says whether the table is up to date
"""

import inspect

from docs.made_pages import DOCS, between_marks, write_or_check
from eval.benchmarks.registry import CLASSES, benchmark
from eval.parsing.harness_parsers import COMPAT_PARSERS

PAGE = DOCS / "evaluation.md"
HEAD = [
    "| `name` | what | `source` | `options` | headline | chance | `parser` |",
    "|---|---|---|---|---|---|---|",
]


def stated(name: str, label: str) -> str:
    """What the paragraph "LABEL: ..." of a benchmark's module says, on one line.

    Raises:
        ValueError: The module has no such paragraph.
    """
    found = [part for part in _paragraphs(name) if part.startswith(f"{label}: ")]
    if len(found) != 1:
        raise ValueError(
            f"{CLASSES[name]}: expected one paragraph {label!r} in its docstring, found"
            f" {len(found)}"
        )
    return _line(found[0].removeprefix(f"{label}: "))


def _paragraphs(name: str) -> list[str]:
    return (inspect.getdoc(inspect.getmodule(benchmark(name))) or "").split("\n\n")


def table() -> str:
    """The table, a row per benchmark."""
    return "".join(f"{line}\n" for line in [*HEAD, *(_row(name) for name in CLASSES)])


def _row(name: str) -> str:
    found = benchmark(name)
    parsers = [
        "default",
        *dict.fromkeys(harness for harness, known in COMPAT_PARSERS if known == name),
    ]
    files, chance = (stated(name, label).rstrip(".") for label in ("Native files", "Chance"))
    cells = [
        f"`{name}`",
        _line(_paragraphs(name)[0]).rstrip("."),
        files,
        _options(name),
        f"`{found.headline}`",
        chance,
        _words(parsers),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _options(name: str) -> str:
    """Each option with its values, the default first, and what its benchmark's class says of it."""
    found = benchmark(name)
    if not found.options:
        return ""
    values = [f"`{option}: {' | '.join(allowed)}`" for option, allowed in found.options.items()]
    return "; ".join(values) + ". " + _line(type(found).__doc__ or "")


def _words(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _line(text: str) -> str:
    return " ".join(text.split())


def page() -> str:
    """The whole page, with the table made anew."""
    return between_marks(PAGE, "benchmarks", table())


if __name__ == "__main__":
    write_or_check(PAGE, page, "benchmark_reference.py")
