"""Whether an encoder's caption margins say anything: how many are above 0, where chance is half."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.core.intervals import SHARE, group_index, ratio_estimate, sums_by_group
from pipeline.core.schema import CAPTION_MARGIN_SUM
from pipeline.pages.numbers import show_number
from pipeline.pages.page import html_table, paragraph, subsection
from pipeline.selection.rules import score_of

MARGINS = ("caption_margin_a", "caption_margin_b")
NEAR_CHANCE = 0.6  # half of a blind encoder's margins are above 0
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class MarginShare:
    """How many of the margins of one name are above 0, with an interval over groups."""

    name: str
    num_scored: int
    number: Mapping[str, Any]

    @property
    def warning(self) -> str:
        """What to say of a share at chance, or below; "" of one that is clearly above it."""
        low = self.number["low"]
        if self.number["value"] >= NEAR_CHANCE and (low is None or low > 0.5):
            return ""
        return (
            f"{self.name}: {show_number(self.number, 'share')} of {self.num_scored:,} are above 0,"
            " where an encoder that sees no difference has half; do not select by it with this"
            " encoder"
        )


def margin_shares(
    scores: Mapping[str, NDArray[np.float64]], groups: Sequence[str]
) -> list[MarginShare]:
    """The share above 0 of each caption margin and of their sum; none where no CLIP ran.

    Args:
        scores: Of every row, NaN where it was not scored.
        groups: The group of every row.
    """
    if not all(name in scores for name in MARGINS):
        return []
    shares = []
    for name in (*MARGINS, CAPTION_MARGIN_SUM):
        values_N = score_of(scores, name)
        scored_N = np.isfinite(values_N)
        if not scored_N.any():
            continue
        of_scored = [group for group, is_scored in zip(groups, scored_N, strict=True) if is_scored]
        index, num_groups = group_index(of_scored)
        above = (values_N[scored_N] > 0).astype(float)
        sums_G2 = sums_by_group(np.stack([above, np.ones_like(above)], axis=1), index, num_groups)
        estimate = ratio_estimate(*sums_G2.T)
        assert estimate is not None  # there are rows
        low, high = estimate.interval(CONFIDENCE, SHARE) or (None, None)
        number = {"value": estimate.value, "low": low, "high": high}
        shares.append(MarginShare(name, int(scored_N.sum()), number))
    return shares


def margins_html(shares: Sequence[MarginShare]) -> Markup:
    """A row per margin, marked where it is at chance; nothing where there are none."""
    if not shares:
        return Markup()
    rows = [
        [
            share.name,
            f"{share.num_scored:,}",
            show_number(share.number, "share"),
            Markup('<b class="bad">near chance</b>') if share.warning else "",
        ]
        for share in shares
    ]
    note = (
        "How many candidates have a margin above 0, with 95 % intervals over groups. Right captions"
        " should be above 0; an encoder that sees no difference has half. The margin of one side"
        " also holds how near an image is to all texts, which cancels in the sum."
    )
    table = html_table(["margin", "scored", "above 0", ""], rows)
    return subsection("Caption margins above 0", table, paragraph(note))
