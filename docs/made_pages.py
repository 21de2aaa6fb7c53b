"""How the scripts beside this one bring a page up to date, or say that it is not."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent


def between_marks(page: Path, name: str, made: str) -> str:
    """A page with what stands between its marks `<!-- NAME: .. -->` and `<!-- /NAME -->` replaced.

    Raises:
        ValueError: The marks do not stand there once.
    """
    pattern = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- /{name} -->\n)"
    text, count = re.subn(
        pattern, lambda marks: f"{marks[1]}\n{made}\n{marks[2]}", page.read_text(), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"expected the marks of {name} once in {page.name}, found {count}")
    return text


def write_or_check(page: Path, make: Callable[[], str], script: str) -> None:
    """Writes the page; with --check exits with 1 where it is not what `make` gives."""
    if sys.argv[1:] != ["--check"]:
        page.write_text(make())
    elif not page.is_file() or page.read_text() != make():
        print(f"docs/{page.name} is not up to date; run: python docs/{script}", file=sys.stderr)
        raise SystemExit(1)
