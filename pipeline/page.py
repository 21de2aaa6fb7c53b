"""Self-contained HTML pages: one file with its styles, plots and thumbnails inside, opened anywhere.

Every text that comes from data is escaped here or by the caller through `text`.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup, escape

from pipeline.images import ImageError, decode_rgb
from pipeline.store import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { --ink: #1c2430; --soft: #5d6776; --line: #dde2ea; --paper: #ffffff; --wash: #f5f7fa; --accent: #1f5fbf; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 25px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 10px; } h3 { font-size: 15px; margin: 18px 0 8px; }
.lead { color: var(--soft); margin: 0 0 22px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px; margin: 0 0 18px; }
section > div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 12px; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: 10px; font-size: 13px; overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; margin: 0 0 6px; }
.sides img { width: 100%; height: 140px; object-fit: contain; background: var(--wash); border-radius: 4px; }
.card p { margin: 2px 0; } .soft { color: var(--soft); } .good { color: #17713a; } .bad { color: #b3261e; }
</style></head><body><main>
<h1>{{ title }}</h1><p class="lead">{{ lead }}</p>
{% for section in sections %}<section><h2>{{ section.heading }}</h2><div>{{ section.html }}</div></section>
{% endfor %}</main></body></html>
"""


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading and the HTML beneath it; `html` is inserted as it is, so its texts must be escaped already."""

    heading: str
    html: str


def render_page(title: str, sections: Sequence[PageSection], path: Path, lead: str = "") -> None:
    """Writes one self-contained HTML file, whole or not at all."""
    # The texts inside were escaped by those who made the HTML.
    safe = [{"heading": section.heading, "html": Markup(section.html)} for section in sections]  # noqa: S704
    write_text(path, Environment(autoescape=True).from_string(_PAGE).render(title=title, lead=lead, sections=safe))


def text(value: object) -> str:
    """A value from data as HTML text: never markup."""
    return str(escape(str(value)))


def html_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; every cell is escaped."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figure_svg(figure: "Figure") -> str:
    """A matplotlib figure as inline SVG, the same bytes for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "svco", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def thumbnail(data: bytes | None, size_px: int = 192) -> str:
    """An <img> with the picture inside (at most `size_px` a side), or words where it does not decode."""
    try:
        image = decode_rgb(data or b"")
    except ImageError as error:
        return f'<p class="soft">no picture ({text(error.reason)})</p>'
    image.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{encoded}">'


def pair_card(
    image_a: bytes | None, image_b: bytes | None, lines_a: Sequence[str], lines_b: Sequence[str], lines: Sequence[str] = ()
) -> str:
    """A card with both images side by side, texts under each, and texts below; every text is escaped."""

    def side(image: bytes | None, texts: Sequence[str]) -> str:
        return f"<div>{thumbnail(image)}{_paragraphs(texts)}</div>"

    return f'<div class="card"><div class="sides">{side(image_a, lines_a)}{side(image_b, lines_b)}</div>{_paragraphs(lines)}</div>'


def cards(items: Sequence[str]) -> str:
    """Cards in a grid that adapts to the width of the window."""
    return f'<div class="cards">{"".join(items)}</div>'


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f"<p>{text(line)}</p>" for line in texts)
