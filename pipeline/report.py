"""report.html of a build: how many pairs stayed and why others left, what the scores look like, and the pairs themselves."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import BuildSection
from pipeline.ingest import ImageLibrary
from pipeline.page import PageSection, cards, figure_svg, html_table, pair_card, render_page, text
from pipeline.schema import CATEGORIES, SCORE_COLUMNS
from pipeline.selection import bands


def write_report(rows: pa.Table, library: ImageLibrary, manifest: dict[str, Any], section: BuildSection, path: Path) -> None:
    """Writes the page.

    Args:
        rows: Every candidate with scores, `drop_reason`, `split`, question and answers.
    """
    counts = manifest["rows"]
    lead = f"{counts['in']:,} candidates, {counts['kept']:,} kept, {counts['dropped']:,} dropped."
    sections = [
        PageSection("Rows", _counts_html(counts) + _category_html(rows)),
        PageSection("Why rows left", _reasons_html(counts)),
        PageSection("Scores", _scores_html(rows, section)),
        PageSection("Kept pairs", _contact_sheet(rows, library, "", section.report.num_kept_shown)),
    ]
    for reason in counts["dropped_by_reason"]:
        sheet = _contact_sheet(rows, library, reason, section.report.num_dropped_shown)
        sections.append(PageSection(f"Dropped: {reason}", sheet))
    sections.append(PageSection("How long it took", _stages_html(manifest["stages"])))
    render_page(manifest["name"], sections, path, lead)


def _counts_html(counts: dict[str, Any]) -> str:
    rows = [[split, f"{number:,}"] for split, number in counts["by_split"].items()]
    return html_table(["split", "rows"], [*rows, ["rejects", f"{counts['dropped']:,}"]])


def _category_html(rows: pa.Table) -> str:
    categories = np.array(rows["category"].to_pylist(), dtype=object)
    kept = np.array([not reason for reason in rows["drop_reason"].to_pylist()], dtype=bool)
    lines = [
        [name, f"{(categories == name).sum():,}", f"{((categories == name) & kept).sum():,}"]
        for name in CATEGORIES
        if (categories == name).any()
    ]
    return "<h3>By category</h3>" + html_table(["category", "candidates", "kept"], lines)


def _reasons_html(counts: dict[str, Any]) -> str:
    if not counts["dropped"]:
        return '<p class="soft">Nothing was dropped.</p>'
    return html_table(["reason", "rows", "share of candidates"], [
        [reason, f"{number:,}", f"{100 * number / counts['in']:.1f} %"] for reason, number in counts["dropped_by_reason"].items()
    ])  # fmt: skip


def _scores_html(rows: pa.Table, section: BuildSection) -> str:
    columns = [name for name in SCORE_COLUMNS if not pc.all(pc.is_null(rows[name])).as_py()]
    if not columns:
        return '<p class="soft">No row reached scoring.</p>'
    return "".join(_histogram(rows, name, section) for name in columns)


def _histogram(rows: pa.Table, name: str, section: BuildSection) -> str:
    from matplotlib.figure import Figure

    reached = pc.is_valid(rows[name])
    values = rows.filter(reached)[name].to_numpy()
    kept = np.array([not reason for reason in rows.filter(reached)["drop_reason"].to_pylist()], dtype=bool)
    figure = Figure(figsize=(7.2, 2.3))
    axes = figure.add_subplot()
    edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-3), 61)
    axes.hist([values[kept], values[~kept]], bins=list(edges), stacked=True, color=["#1f5fbf", "#c9d0db"], label=["kept", "dropped"])
    band = bands(section.selection)[name]
    for bound in (band.min, band.max):
        if bound is not None:
            axes.axvline(bound, color="#b3261e", linewidth=1.2)
    axes.set_xlabel(name)
    axes.set_ylabel("pairs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure_svg(figure)


def _contact_sheet(rows: pa.Table, library: ImageLibrary, reason: str, num_shown: int) -> str:
    part = rows.filter(pc.equal(rows["drop_reason"], reason))
    if part.num_rows == 0 or num_shown == 0:
        return '<p class="soft">None to show.</p>'
    # By the hash of the id: a fixed sample, and not the first rows of the first source.
    order = sorted(range(part.num_rows), key=lambda i: hashlib.sha256(part["pair_id"][i].as_py().encode()).digest())
    chosen = part.take(order[:num_shown]).to_pylist()
    note = f'<p class="soft">{len(chosen)} of {part.num_rows:,}, drawn by hash.</p>'
    return note + cards([_card(row, library) for row in chosen])


def _card(row: dict[str, Any], library: ImageLibrary) -> str:
    def image(side: str) -> bytes | None:
        key = row[f"image_{side}_sha256"]
        return library[key] if key is not None and key in library else None

    scores = [f"{name} {row[name]:.3f}" for name in SCORE_COLUMNS if row[name] is not None]
    lines = [
        line
        for line in (row["question"], " \u00b7 ".join(scores), f"{row['category']} \u00b7 {row['source']} \u00b7 {row['source_id']}")
        if line
    ]
    return pair_card(
        image("a"), image("b"), [row["answer_a"] or row["caption_a"] or ""], [row["answer_b"] or row["caption_b"] or ""], lines
    )


def _stages_html(stages: Sequence[dict[str, Any]]) -> str:
    rows = [[text(stage["name"]), "reused" if stage["reused"] else f"{stage['seconds']:.1f} s", stage["fingerprint"]] for stage in stages]
    return html_table(["stage", "time", "fingerprint"], rows)
