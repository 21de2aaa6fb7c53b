"""The report's contact sheets: kept pairs, and dropped ones by reason, each with its pictures, texts and scores."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.page import cards, marked_differences, pair_card, paragraph, text
from pipeline.report_rows import Mask, Rows
from pipeline.schema import SCORE_COLUMNS

MAX_CHARS_SHOWN = 400


def contact_sheet(rows: Rows, mask: Mask, num_shown: int, reason: str = "") -> str:
    """Cards of up to `num_shown` rows of a mask; the score that `reason` names stands out."""
    found = int(mask.sum())
    if not found or not num_shown:
        return paragraph("None." if not found else f"{found:,}, none shown.")
    chosen = rows.read(rows.sample(mask, num_shown))
    counted = (
        f"{found:,}"
        if len(chosen) == found
        else f"{len(chosen)} of {found:,}, the categories in turn, each in the order of pair_id (a hash)"
    )
    return paragraph(f"{counted}. Words that differ are marked.") + cards([_card(row, reason) for row in chosen])


def dropped_sheets(rows: Rows, num_shown: int) -> str:
    """A contact sheet per drop reason, the most frequent first."""
    counted = sorted(((number, reason) for (reason,), number in rows.counts("drop_reason").items() if reason), reverse=True)
    sheets = [
        f"<h3>{text(reason)}</h3>{contact_sheet(rows, rows.where('drop_reason', reason), num_shown, reason)}" for _, reason in counted
    ]
    return "".join(sheets)


def _card(row: Mapping[str, Any], reason: str) -> str:
    answers = marked_differences(*(_clipped(row[f"answer_{side}"] or row[f"caption_{side}"]) for side in "ab"))
    image_a, image_b = ((row[f"image_{side}"] or {}).get("bytes") for side in "ab")
    scores = [_score(name, row[name], reason) for name in SCORE_COLUMNS if row[name] is not None]
    origin = " \u00b7 ".join(part for part in (row["category"], row["operation"], row["source"], _clipped(row["source_id"])) if part)
    below = [Markup(" \u00b7 ").join(scores), Markup('<span class="soft">{}</span>').format(origin)]
    return pair_card(image_a, image_b, [answers[0]], [answers[1]], [line for line in below if line], _clipped(row["question"]))


def _score(name: str, value: float, reason: str) -> Markup:
    shown = Markup("{} {:.4f}").format(name, value)
    return Markup('<b class="bad">{}</b>').format(shown) if reason.startswith(f"{name}_") else shown


def _clipped(words: str | None) -> str:
    """At most MAX_CHARS_SHOWN characters: a row may have been dropped for its ten thousand."""
    line = words or ""
    return line if len(line) <= MAX_CHARS_SHOWN else f"{line[:MAX_CHARS_SHOWN]} ... ({len(line):,} characters)"
