"""Writes docs/recipes.md from the recipes' own models: every key, type, default and comment.

python docs/recipe_reference.py            # after a change of a recipe's shape
python docs/recipe_reference.py --check    # says whether the page is up to date
"""

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
import types
import typing
from typing import Any, Literal

from pydantic.fields import FieldInfo

from docs.made_pages import DOCS, write_or_check
from eval.config import EvalSection
from pipeline.config import BuildSection
from pipeline.core.recipe import Section
from training.config import TrainSection

PAGE = DOCS / "recipes.md"
RECIPES: dict[str, tuple[str, type[Section]]] = {
    "build": ("`svco build` (pipeline/build_mvc.py), recipes/mvc_*.yaml", BuildSection),
    "train": ("`svco train` and `svco reference` (training/), recipes/svco_*.yaml", TrainSection),
    "eval": ("`svco eval` (eval/run_eval.py), recipes/eval_*.yaml", EvalSection),
}
HEAD = """# Recipe reference

Every key that a recipe may have. Made from the models that validate recipes by \
`python docs/recipe_reference.py`; a test checks that
it is up to date. An unknown key is an error that names the nearest known one. \
Any key can be given on the command line, lists by number:
`encoders.clip.device=cuda sources.0.path=DIR`. \
`--print-recipe` shows a recipe with all defaults filled in, `--dry-run` what it would do.
"""
BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "at least {} long",
}


class Reference:
    """Writes one recipe section by section; what occurs twice is written once and linked."""

    def __init__(self, recipe: str) -> None:
        self._recipe = recipe
        self._anchors: dict[type[Section], str] = {}
        self._waiting: list[tuple[str, type[Section]]] = []

    def write(self, shape: type[Section]) -> list[str]:
        """The lines of the recipe whose top is `shape`."""
        lines: list[str] = []
        self._visit("", shape)
        while self._waiting:
            path, section = self._waiting.pop(0)
            lines += self._section(path, section)
        return lines

    def _visit(self, path: str, section: type[Section]) -> str:
        """The anchor of a section, which is written later if it is new."""
        if section not in self._anchors:
            words = f"{self._recipe} {path} {_kind(section)}"
            self._anchors[section] = "-".join(re.findall(r"\w+", words))
            self._waiting.append((path, section))
        return self._anchors[section]

    def _section(self, path: str, section: type[Section]) -> list[str]:
        kind = _kind(section)
        title = f"`{path}`" + (f" with `kind: {kind}`" if kind else "") if path else "the top"
        comments = comments_of(section)
        within = f"{path}[{kind}]" if kind else path
        rows = [
            self._row(within, name, field, comments.get(name, ""))
            for name, field in section.model_fields.items()
        ]
        head = ["| key | type | default | |", "|---|---|---|---|"]
        text = _paragraphs(section)
        return [
            f'<a id="{self._anchors[section]}"></a>',
            "",
            f"### {title}",
            "",
            *text,
            *head,
            *rows,
            "",
        ]

    def _row(self, path: str, name: str, field: FieldInfo, comment: str) -> str:
        full = f"{path}.{name}" if path else name
        shown = self._type(full, field.annotation) + _bounds(field)
        return (
            f"| `{name}` | {_cell(shown)} | {_cell(_default(field))} |"
            f" {_cell(_as_in_yaml(comment))} |"
        )

    def _type(self, path: str, annotation: Any) -> str:
        """A type as a recipe's author thinks of it."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation is type(None):
            return "null"
        if isinstance(annotation, type) and issubclass(annotation, Section):
            return f"[{_kind(annotation) or 'section'}](#{self._visit(path, annotation)})"
        if origin is Literal:
            return " or ".join(f"`{value}`" for value in arguments)
        if origin is typing.Annotated:
            return self._type(path, arguments[0])
        if origin in (typing.Union, types.UnionType):
            return " or ".join(self._type(path, argument) for argument in arguments)
        if origin in (tuple, list):
            inner = [argument for argument in arguments if argument is not Ellipsis]
            return "list of " + ", ".join(self._type(path, argument) for argument in inner)
        if origin is dict:
            return (
                f"mapping of {self._type(path, arguments[0])} to {self._type(path, arguments[1])}"
            )
        return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(
            annotation, "any"
        )


def comments_of(section: type[Section]) -> dict[str, str]:
    """What the source says beside each field, or in the lines above it, by name; of parents too."""
    found: dict[str, str] = {}
    for parent in reversed(section.__mro__):
        if not issubclass(parent, Section) or parent is Section:
            continue
        source = textwrap.dedent(inspect.getsource(parent))
        by_line = {
            token.start[0]: token.string.lstrip("# ").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        lines = source.splitlines()
        definition = ast.parse(source).body[0]
        assert isinstance(definition, ast.ClassDef)
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                first = node.lineno
                while lines[first - 2].strip().startswith("#"):
                    first -= 1
                texts = [
                    by_line[number]
                    for number in range(first, (node.end_lineno or node.lineno) + 1)
                    if number in by_line
                ]
                if texts:
                    found[node.target.id] = " ".join(texts)
    return found


def _kind(section: type[Section]) -> str:
    """What tells a section from its siblings in a list: the one value that its `kind` may have."""
    field = section.model_fields.get("kind")
    values = typing.get_args(field.annotation) if field is not None else ()
    return str(values[0]) if len(values) == 1 else ""


def _paragraphs(section: type[Section]) -> list[str]:
    text = inspect.cleandoc(section.__doc__ or "")
    return [
        line for part in text.split("\n\n") for line in (_as_in_yaml(" ".join(part.split())), "")
    ]


def _bounds(field: FieldInfo) -> str:
    """The limits of a value, as ", at least 1, below 5"."""
    limits = [
        (name, getattr(item, name))
        for item in field.metadata
        for name in BOUNDS
        if getattr(item, name, None) is not None
    ]
    return "".join(", " + BOUNDS[name].format(value) for name, value in limits)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return ""
    plain = (
        [item.model_dump(mode="json") if isinstance(item, Section) else item for item in value]
        if isinstance(value, tuple)
        else value
    )
    return f"`{json.dumps(plain, ensure_ascii=False, default=str)}`"


def _as_in_yaml(text: str) -> str:
    """A comment of the code, for a reader of recipes: what is None there is null here."""
    return re.sub(r"\bNone\b", "null", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for name, (title, shape) in RECIPES.items():
        lines += [f"## {title}", "", *Reference(name).write(shape)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page, "recipe_reference.py")
