"""The report's contact sheets: kept pairs, and dropped ones by reason, with pictures and scores."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.core.schema import SCORE_COLUMNS
from pipeline.pages.page import cards, joined, marked_differences, pair_card, paragraph, subsection
from pipeline.report.rows import Mask, Rows

MAX_CHARS_SHOWN = 240
_SHORT = dict(zip(SCORE_COLUMNS, ("clip", "dinov2", "pixels", "margin a", "margin b"), strict=True))
_NOTE = (
    "The categories in turn, each in the order of pair_id, which is a hash: nobody chose them."
    " Words that differ are marked."
)


def kept_sheet(rows: Rows, num_shown: int) -> Markup:
    """A contact sheet of the data itself."""
    return paragraph(_NOTE) + _sheet(rows, rows.kept, num_shown, "")


def dropped_sheets(rows: Rows, num_shown: int) -> Markup:
    """A contact sheet per drop reason, most frequent first; the score that it names stands out."""
    return paragraph(_NOTE) + joined(
        subsection(reason, _sheet(rows, rows.where("drop_reason", reason), num_shown, reason))
        for reason in rows.drop_reasons()
    )


def _sheet(rows: Rows, mask: Mask, num_shown: int, reason: str) -> Markup:
    total = int(mask.sum())
    chosen = rows.read(rows.sample(mask, num_shown))
    counted = f"all {total:,}" if len(chosen) == total else f"{len(chosen)} of {total:,}"
    return paragraph(counted) + cards([_card(row, reason) for row in chosen])


def _card(row: Mapping[str, Any], reason: str) -> Markup:
    answers = marked_differences(
        *(_clipped(row[f"answer_{side}"] or row[f"caption_{side}"]) for side in "ab")
    )
    scores = [_score(name, row[name], reason) for name in SCORE_COLUMNS if row[name] is not None]
    origin = (row["category"], row["operation"], row["source"], _clipped(row["source_id"]))
    below = [
        Markup(" \u00b7 ").join(scores),
        Markup('<span class="soft">{}</span>').format(" \u00b7 ".join(filter(None, origin))),
    ]
    return pair_card(
        (row["image_a"] or {}).get("bytes"),
        (row["image_b"] or {}).get("bytes"),
        [answers[0]],
        [answers[1]],
        [line for line in below if line],
        _clipped(row["question"]),
    )


def _score(name: str, value: float, reason: str) -> Markup:
    shown = Markup('<span class="whole">{} {:.4f}</span>').format(_SHORT[name], value)
    return Markup('<b class="bad">{}</b>').format(shown) if reason.startswith(f"{name}_") else shown


def _clipped(words: str | None) -> str:
    """At most MAX_CHARS_SHOWN characters: a row may have been dropped for its ten thousand."""
    if words and len(words) > MAX_CHARS_SHOWN:
        return f"{words[:MAX_CHARS_SHOWN]} ... ({len(words):,} characters)"
    return words or ""
