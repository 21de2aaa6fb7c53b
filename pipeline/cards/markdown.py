"""Texts from data as Markdown that nothing in them can break out of."""

import re
from collections.abc import Iterable, Sequence
from typing import Any


def literal(value: object) -> str:
    """A text from data on one line, as code: no markup of its own."""
    return "`" + " ".join(str(value).replace("`", "'").split())[:200] + "`"


def plain(words: str) -> str:
    """A text from data on one line, with what Markdown or HTML would read escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~])", r"\\\1", " ".join(words.split()))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table whose texts are code and whose numbers have separators."""
    lines = [columns, *([_cell(cell) for cell in row] for row in rows)]
    heading, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([heading, f"|{'---|' * len(columns)}", *body])


def _cell(cell: object) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    return literal(cell).replace("|", "\\|") if cell else ""


def folded(summary: str, text: str, language: str) -> str:
    """A code block that opens on a click; its fence is longer than any run of ticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return (
        f"<details><summary>{summary}</summary>\n\n{fence}{language}\n{text}\n{fence}\n\n</details>"
    )
