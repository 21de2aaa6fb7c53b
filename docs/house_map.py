"""Writes the map of packages in docs/design.md from their own docstrings.

python docs/house_map.py            # after a module was added, moved or renamed
python docs/house_map.py --check    # says whether the map is up to date
"""

import ast

from docs.made_pages import DOCS, between_marks, write_or_check

PACKAGES = ("svco", "pipeline", "training", "eval")


def house() -> str:
    """A table: each package with what it is for and its modules."""
    lines = ["| package | what it is for | modules |", "|---|---|---|"]
    for package in PACKAGES:
        for place in sorted((DOCS.parent / package).rglob("__init__.py")):
            folder = place.parent
            about = (ast.get_docstring(ast.parse(place.read_text())) or "").split("\n\n")[0]
            names = sorted(path.stem for path in folder.glob("*.py") if path.stem[0] != "_")
            modules = ", ".join(f"`{name}`" for name in names)
            name = folder.relative_to(DOCS.parent).as_posix()
            lines.append(f"| `{name}/` | {' '.join(about.split())} | {modules} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/design.md with the map made anew."""
    return between_marks(DOCS / "design.md", "house", house())


if __name__ == "__main__":
    write_or_check(DOCS / "design.md", page, "house_map.py")
