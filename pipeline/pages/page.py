"""Self-contained HTML pages: one file with styles, plots and thumbnails inside, opened anywhere.

Every function returns `Markup`: texts that come from data are escaped, what is `Markup` already is
taken as it is.
"""

import base64
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup, escape

from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# a word or a mark with the space behind it
_PIECE = re.compile(r"\s+|(?:[\w\u2019'-]+|[^\w\s])\s*")


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading and the HTML beneath it."""

    heading: str
    html: Markup


@cache
def _template() -> Template:
    folder = FileSystemLoader(Path(__file__).parent)
    return Environment(autoescape=True, loader=folder).get_template("page.html.jinja")


def render_page(title: str, sections: Sequence[PageSection], path: Path, lead: str = "") -> None:
    """Writes one HTML file with a line of links to its sections, whole or not at all."""
    write_text(path, _template().render(title=title, lead=lead, sections=sections))


def paragraph(words: str) -> Markup:
    """A remark in the quiet colour."""
    return Markup('<p class="soft">{}</p>').format(words)


def subsection(heading: str, *parts: Markup) -> Markup:
    """A small heading and what stands below it."""
    return Markup("<h3>{}</h3>{}").format(heading, joined(parts))


def folded(summary: str, html: Markup) -> Markup:
    """Something long, of which only the summary shows until it is opened."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, html)


def joined(parts: Iterable[object], around: Markup = Markup("{}")) -> Markup:
    """The parts one after the other, each in the markup `around`."""
    return Markup("").join(around.format(part) for part in parts)


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table of texts, and of `Markup` such as a `bar`."""
    body = joined((joined(row, Markup("<td>{}</td>")) for row in rows), Markup("<tr>{}</tr>"))
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        joined(columns, Markup("<th>{}</th>")), body
    )


def bar(fraction: float) -> Markup:
    """A small horizontal bar for a table cell, filled to `fraction`."""
    return Markup('<span class="bar"><i style="width:{:.1f}%"></i></span>').format(100 * fraction)


def tiles(facts: Sequence[tuple[str, str]]) -> Markup:
    """Large numbers with their names beneath, in a row that wraps: (name, number)."""
    tile = Markup('<div class="tile"><b>{}</b>{}</div>')
    return _boxed("tiles", joined(tile.format(number, name) for name, number in facts))


def figure_svg(figure: "Figure") -> Markup:
    """A matplotlib figure as inline SVG without background, the same bytes for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "svco", "svg.fonttype": "none"}):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None}, transparent=True
        )
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 (matplotlib escapes the texts inside)


def plots(figures: Sequence[Markup]) -> Markup:
    """Several plots, side by side where there is room."""
    return _boxed("plots", joined(figures, Markup("<div>{}</div>")))


def thumbnail(data: bytes | None, size_px: int = 256) -> Markup:
    """An <img> with the picture inside, at most `size_px` a side; words where there is none."""
    if data is None:
        return _boxed("blank", "no picture")
    try:
        image = decode_rgb(data)
    except ImageError as error:
        return _boxed("blank", f"no picture ({error.reason})")
    image.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img alt="" loading="lazy" src="data:image/jpeg;base64,{}">').format(encoded)


def pair_card(
    image_a: bytes | None,
    image_b: bytes | None,
    lines_a: Sequence[str],
    lines_b: Sequence[str],
    lines: Sequence[str] = (),
    heading: str = "",
) -> Markup:
    """A card: a heading, both images side by side, texts under each, and texts below."""
    sides = (thumbnail(image_a) + text_lines(lines_a), thumbnail(image_b) + text_lines(lines_b))
    return card(text_lines([heading] if heading else []), sides, text_lines(lines))


def card(above: Markup, sides: Sequence[Markup], below: Markup) -> Markup:
    """A card: something above, two parts side by side, something below."""
    halves = _boxed("sides", joined(sides, Markup("<div>{}</div>")))
    return _boxed("card", above + halves + below)


def text_lines(texts: Sequence[str]) -> Markup:
    """A paragraph for each text, from right to left where it is Arabic or Hebrew."""
    return joined(texts, Markup('<p dir="auto">{}</p>'))


def cards(items: Sequence[Markup]) -> Markup:
    """Cards in a grid that adapts to the width of the window."""
    return _boxed("cards", joined(items))


def _boxed(kind: str, inside: str) -> Markup:
    return Markup('<div class="{}">{}</div>').format(kind, inside)


def marked_differences(text_a: str, text_b: str) -> tuple[Markup, Markup]:
    """Both texts with the words that the other has not in <mark>; case alone is no difference.

    "A red star."  /  "A blue star."  ->  "A <mark>red</mark> star."  /  "A <mark>blue</mark> star."
    """
    left, right = _PIECE.findall(text_a), _PIECE.findall(text_b)
    seen_left, seen_right = (
        [piece.strip().casefold() for piece in pieces] for pieces in (left, right)
    )
    marked: tuple[list[Markup], list[Markup]] = ([], [])
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(
        None, seen_left, seen_right, autojunk=False
    ).get_opcodes():
        for parts, pieces in zip(marked, (left[a0:a1], right[b0:b1]), strict=True):
            stretch = "".join(pieces)
            words = stretch.rstrip()
            parts.append(
                escape(stretch)
                if kind == "equal" or not words
                else Markup("<mark>{}</mark>{}").format(words, stretch[len(words) :])
            )
    return Markup("").join(marked[0]), Markup("").join(marked[1])
