"""Self-contained HTML pages: one file with its styles, plots and thumbnails inside, opened
anywhere.

Every text that comes from data is escaped here, or by the caller through `text`; what is already
HTML is `Markup`.
"""

import base64
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup, escape

from pipeline.core.images import ImageError, decode_rgb
from pipeline.core.storage import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Plots are drawn black on nothing, so that in dark mode turning lightness around (and the hues
# back) is all they need.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
:root { --ink: #1c2430; --soft: #5d6776; --line: #e3e7ee; --paper: #ffffff; --wash: #f5f7fa; --accent: #1f5fbf; --rest: #cfd6e1;
  --good: #17713a; --bad: #b3261e; --mark: #dbe8fb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #98a2b1; --line: #2c333d; --paper: #1a1f27; --wash: #12161c; --accent: #7fb0f5; --rest: #444d5a;
    --good: #6ccb8f; --bad: #f2857b; --mark: #263d5f; }
  section svg { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 12px; } h3 { font-size: 15px; margin: 22px 0 8px; overflow-wrap: anywhere; }
section > div > h3:first-child { margin-top: 0; }
section p { margin: 0 0 10px; } section table + p, section svg + p { margin-top: 12px; } section p:last-child { margin-bottom: 0; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.lead { color: var(--soft); margin: 0 0 16px; max-width: 85ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 22px; font-size: 14px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin: 0 0 18px;
  scroll-margin-top: 12px; }
section > div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 5px 18px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; min-width: 120px; }
tbody tr:last-child td { border-bottom: 0; } td:last-child { white-space: normal; }
section svg { max-width: 100%; height: auto; display: block; }
svg text { font-family: inherit !important; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 18px 26px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 10px; margin: 0 0 18px; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; color: var(--soft); font-size: 13px; }
.tile b { display: block; color: var(--ink); font-size: 22px; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.bar { display: inline-block; width: 150px; height: 8px; border-radius: 4px; background: var(--rest); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 12px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 12px; font-size: 13px; overflow-wrap: anywhere; }
.card > p:first-child { font-weight: 600; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; margin: 0 0 8px; }
.sides img { width: 100%; height: 150px; object-fit: contain; display: block; background: var(--wash); border-radius: 5px; }
.blank { height: 150px; display: grid; place-items: center; background: var(--wash); border-radius: 5px; color: var(--soft); }
.whole { white-space: nowrap; } section .card p { margin: 3px 0; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 2px; }
details summary { cursor: pointer; color: var(--accent); } pre { font-size: 12.5px; line-height: 1.45; overflow-x: auto; margin: 12px 0 0; }
@media (max-width: 600px) { main { padding: 22px 12px 40px; } section { padding: 16px 14px; } .bar { width: 44px; }
  table { font-size: 13px; } th, td { padding-right: 10px; } th:first-child, td:first-child { min-width: 0; } }
@media print { section { break-inside: avoid; } nav { display: none; } }
</style></head><body><main>
<h1>{{ title }}</h1><p class="lead">{{ lead }}</p>
<nav>{% for section in sections %}<a href="#{{ section.anchor }}">{{ section.heading }}</a>{% endfor %}</nav>
{% for section in sections %}<section id="{{ section.anchor }}"><h2>{{ section.heading }}</h2><div>{{ section.html }}</div></section>
{% endfor %}</main></body></html>
"""
# a word or a mark with the space behind it
_PIECE = re.compile(r"\s+|(?:[\w\u2019'-]+|[^\w\s])\s*")


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading and the HTML beneath it; `html` is inserted as it is, so its texts must be escaped
    already.
    """

    heading: str
    html: str


def render_page(title: str, sections: Sequence[PageSection], path: Path, lead: str = "") -> None:
    """Writes one self-contained HTML file with a line of links to its sections, whole or not at
    all.
    """
    shown = [
        # The texts inside were escaped by those who made the HTML.
        {
            "anchor": f"section-{number}",
            "heading": section.heading,
            "html": Markup(section.html),  # noqa: S704
        }
        for number, section in enumerate(sections, 1)
    ]
    write_text(
        path,
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(title=title, lead=lead, sections=shown),
    )


def text(value: object) -> str:
    """A value from data as HTML text: never markup."""
    return str(escape(str(value)))


def paragraph(words: str) -> str:
    """A remark in the quiet colour; the words are escaped."""
    return f'<p class="soft">{text(words)}</p>'


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; every cell is escaped, unless it is `Markup` (a `bar`)."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_shown(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def bar(fraction: float) -> Markup:
    """A small horizontal bar for a table cell, filled to `fraction`."""
    return Markup('<span class="bar"><i style="width:{:.1f}%"></i></span>').format(100 * fraction)


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """Large numbers with their names beneath, in a row that wraps; (name, number), both escaped."""
    inside = "".join(
        f'<div class="tile"><b>{text(number)}</b>{text(name)}</div>' for name, number in facts
    )
    return f'<div class="tiles">{inside}</div>'


def figure_svg(figure: "Figure") -> str:
    """A matplotlib figure as inline SVG without a background, the same bytes for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "svco", "svg.fonttype": "none"}):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None}, transparent=True
        )
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def plots(figures: Sequence[str]) -> str:
    """Several plots, side by side where there is room."""
    inside = "".join(f"<div>{figure}</div>" for figure in figures)
    return f'<div class="plots">{inside}</div>'


def thumbnail(data: bytes | None, size_px: int = 256) -> str:
    """An <img> with the picture inside (at most `size_px` a side), or words where there is none or
    it does not decode.
    """
    if data is None:
        return _no_picture("no picture")
    try:
        image = decode_rgb(data)
    except ImageError as error:
        return _no_picture(f"no picture ({error.reason})")
    image.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{encoded}">'


def _no_picture(words: str) -> str:
    return f'<div class="blank">{text(words)}</div>'


def pair_card(
    image_a: bytes | None,
    image_b: bytes | None,
    lines_a: Sequence[str],
    lines_b: Sequence[str],
    lines: Sequence[str] = (),
    heading: str = "",
) -> str:
    """A card: a heading, both images side by side, texts under each, and texts below; all escaped,
    unless they are `Markup`.
    """

    def side(image: bytes | None, texts: Sequence[str]) -> str:
        return f"<div>{thumbnail(image)}{_paragraphs(texts)}</div>"

    above = _paragraphs([heading] if heading else [])
    return (
        f'<div class="card">{above}<div'
        f' class="sides">{side(image_a, lines_a)}{side(image_b, lines_b)}</div>{_paragraphs(lines)}</div>'
    )


def cards(items: Sequence[str]) -> str:
    """Cards in a grid that adapts to the width of the window."""
    return f'<div class="cards">{"".join(items)}</div>'


def marked_differences(text_a: str, text_b: str) -> tuple[Markup, Markup]:
    """Both texts, escaped, with the words that the other has not in <mark>; case alone is no
    difference.

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


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Markup) else text(value)


def _paragraphs(texts: Sequence[str]) -> str:
    # dir=auto: a caption in Arabic or Hebrew runs from right to left.
    return "".join(f'<p dir="auto">{_shown(line)}</p>' for line in texts)
