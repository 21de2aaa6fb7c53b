"""report.html of a build, from the published folder alone: which pairs stayed, why others left.

`svco report DIR` makes it again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from markupsafe import Markup

from pipeline.core.manifest import BuildResult, GroupFacts, Manifest
from pipeline.core.progress import say
from pipeline.core.schema import SPLITS, read_manifest
from pipeline.core.storage import read_json
from pipeline.pages.page import (
    PageSection,
    bar,
    folded,
    html_table,
    joined,
    paragraph,
    render_page,
    subsection,
    tiles,
)
from pipeline.report.audit import audit_html
from pipeline.report.gallery import dropped_sheets, kept_sheet
from pipeline.report.llm import rewrite_html, verify_html
from pipeline.report.rows import Rows, read_rows
from pipeline.report.scores import scores_html, thresholds_html
from pipeline.selection.rules import SelectionSection, resolved_bounds
from pipeline.selection.stored import read_scores

NUM_KEPT_SHOWN, NUM_DROPPED_SHOWN = 24, 6  # where the manifest's recipe does not say


def write_report(out: Path, result: BuildResult) -> None:
    """Writes `out/report.html` from the shards and the manifest in `out`.

    Of the pictures only those shown are read.

    Args:
        result: What result.json holds besides: "stages" and "throughput"; either may be missing.

    Raises:
        MvcError: `out` is no MVC folder, or a shard cannot be read.
    """
    manifest, rows = read_manifest(out), read_rows(out)
    kept = int(rows.kept.sum())
    lead = (
        f"{kept:,} of {len(rows.table):,} candidates were kept ({_percent(kept, len(rows.table))})."
    )
    title = str(manifest.get("name") or "Minimal Visual Contrasts")
    sections = [PageSection(*part) for part in _sections(rows, manifest, result, out)]
    render_page(title, sections, out / "report.html", lead)


def _sections(
    rows: Rows, manifest: Manifest, result: BuildResult, out: Path
) -> Iterator[tuple[str, Markup]]:
    """Headings and HTML, in the order of the page; what is not known is left out."""
    recipe: Mapping[str, Any] = manifest.get("recipe") or {}
    shown: Mapping[str, Any] = recipe.get("report") or {}
    warnings = joined(manifest.get("warnings") or [], Markup('<p class="bad">{}</p>'))
    yield "Rows", warnings + _rows_html(rows)
    yield "Why rows left", _reasons_html(rows)
    yield from _score_sections(rows, out)
    yield "Kept pairs", kept_sheet(rows, shown.get("num_kept_shown", NUM_KEPT_SHOWN))
    if not rows.kept.all():
        num_shown = shown.get("num_dropped_shown", NUM_DROPPED_SHOWN)
        yield "Dropped pairs", dropped_sheets(rows, num_shown)
    parts: dict[str, tuple[Any, Callable[[Any], Markup]]] = {
        "Rewriting": (manifest.get("rewrite"), rewrite_html),
        "Verification of the answers": (manifest.get("verify"), verify_html),
        "Shortcut audit": (manifest.get("audit"), audit_html),
        "Groups": (manifest.get("links"), _groups_html),
    }
    yield from ((heading, html(facts)) for heading, (facts, html) in parts.items() if facts)
    yield "Licences", _licenses_html(rows)
    if result.get("stages"):
        yield "How long it took", _stages_html(result)
    if recipe:
        yield "Recipe", _recipe_html(recipe)


def _score_sections(rows: Rows, out: Path) -> Iterator[tuple[str, Markup]]:
    num_scores = len(rows.scores())
    columns, section = read_scores(out) if num_scores else ({}, SelectionSection())
    yield "Scores", scores_html(rows, resolved_bounds(columns, section) if num_scores else [])
    if num_scores > 1:
        yield "Thresholds", thresholds_html(columns, section)


def _rows_html(rows: Rows) -> Markup:
    by_split = {split: number for (split,), number in rows.counts("split").items()}
    facts = [
        ("candidates", f"{len(rows.table):,}"),
        *[(split, f"{by_split.get(split, 0):,}") for split in SPLITS],
        ("dropped", f"{by_split.get('', 0):,}"),
    ]
    return tiles(facts) + joined(
        subsection(f"By {name}", _kept_table(rows, name))
        for name in ("category", "source", "operation")
    )


def _kept_table(rows: Rows, column: str) -> Markup:
    """Candidates and kept rows for each value of a column."""
    counts = rows.counts(column, "drop_reason")
    kept = Counter({value: number for (value, reason), number in counts.items() if not reason})
    lines = [
        [
            value or "(none)",
            f"{total:,}",
            f"{kept[value]:,}",
            f"{total - kept[value]:,}",
            _percent(kept[value], total),
            bar(kept[value] / total),
        ]
        for (value,), total in rows.counts(column).items()
    ]
    return html_table([column, "candidates", "kept", "dropped", "share kept", ""], lines)


def _reasons_html(rows: Rows) -> Markup:
    reasons = rows.drop_reasons()
    total = sum(reasons.values())
    lines = [
        [reason, f"{number:,}", _percent(number, total), bar(number / total)]
        for reason, number in reasons.items()
    ]
    if not lines:
        return paragraph("Nothing was dropped.")
    return html_table(["reason", "rows", "share of dropped", ""], lines)


def _licenses_html(rows: Rows) -> Markup:
    counted = [
        [license_name or "(not stated)", source, f"{number:,}"]
        for (license_name, source, reason), number in rows.counts(
            "license", "source", "drop_reason"
        ).items()
        if not reason
    ]
    if not counted:
        return paragraph("No row was kept.")
    return html_table(["licence", "source", "kept rows"], counted)


def _groups_html(links: GroupFacts) -> Markup:
    """How many groups are left once those that share a picture are one, and the largest's size."""
    note = (
        "Pairs of one group never stand in both splits. Groups that share a picture, or one that"
        " looks the same, are linked into one."
    )
    facts = [
        ("groups as the sources name them", f"{links['num_groups']:,}"),
        ("linked groups", f"{links['num_linked_groups']:,}"),
        (
            "pairs in the largest",
            f"{links['largest_rows']:,} ({_percent(links['frac_largest'], 1)})",
        ),
        ("groups that it joins", f"{links['largest_groups']:,}"),
    ]
    return tiles(facts) + paragraph(note)


def _stages_html(result: BuildResult) -> Markup:
    stages = result["stages"]
    total_s = sum(stage["seconds"] for stage in stages) or 1.0
    lines = [
        [
            stage["name"],
            "reused" if stage["reused"] else f"{stage['seconds']:.1f} s",
            bar(stage["seconds"] / total_s),
            stage["fingerprint"],
        ]
        for stage in stages
    ]
    facts = [
        [name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"]
        for name, value in (result.get("throughput") or {}).items()
    ]
    rates = [subsection("Throughput", html_table(["", "value"], facts))] if facts else []
    return joined([html_table(["stage", "time", "", "fingerprint"], lines), *rates])


def _recipe_html(recipe: Mapping[str, Any]) -> Markup:
    shown = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True, width=100)
    return folded("every field, with its default filled in", Markup("<pre>{}</pre>").format(shown))


def _percent(part: float, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An MVC folder, as a build makes it.")
    ],
) -> None:
    """Make report.html again from a finished MVC folder."""
    result = folder / "result.json"
    write_report(folder, read_json(result) if result.is_file() else {})
    say(f"report  {folder / 'report.html'}")
