"""Whether margins say anything: shares above 0 by hand, and where a warning is due."""

import numpy as np

from pipeline.report.margins import margin_shares, margins_html


def scores(margins_a: list[float], margins_b: list[float]) -> dict[str, np.ndarray]:
    return {"caption_margin_a": np.array(margins_a), "caption_margin_b": np.array(margins_b)}


def test_the_share_above_zero_stands_beside_each_margin_and_their_sum() -> None:
    a, b = [0.1, -0.1, 0.1, np.nan] * 40, [0.1, 0.2, -0.3, 0.1] * 40
    groups = [str(row // 4) for row in range(160)]
    one, other, both = margin_shares(scores(a, b), groups)
    assert (one.name, one.num_scored, one.number["value"]) == ("caption_margin_a", 120, 2 / 3)
    assert (other.num_scored, other.number["value"]) == (160, 0.75)
    assert (both.name, both.num_scored, both.number["value"]) == ("caption_margin_sum", 120, 2 / 3)
    assert one.number["low"] < 2 / 3 < one.number["high"]
    assert not any(share.warning for share in (one, other, both))
    html = margins_html([one, other, both])
    assert "caption_margin_sum" in html and "66.7 %" in html and 'class="bad"' not in html
    assert margin_shares({"pixels_image_cos": np.ones(3)}, ["x"] * 3) == []
    assert margins_html([]) == ""


def test_margins_at_chance_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    groups = [str(row) for row in range(200)]
    blind = scores(rng.normal(-0.01, 0.1, 200).tolist(), rng.normal(0.5, 0.1, 200).tolist())
    at_chance, sees, _ = margin_shares(blind, groups)
    assert at_chance.number["low"] < 0.5 and sees.number["value"] == 1.0
    assert "caption_margin_a" in at_chance.warning and "do not select by it" in at_chance.warning
    assert sees.warning == ""
    assert margins_html([at_chance, sees]).count('class="bad"') == 1
    # above one half for sure, and still of little use
    little = scores(np.where(np.arange(2000) % 100 < 56, 0.1, -0.1).tolist(), [0.1] * 2000)
    share = margin_shares(little, [str(row) for row in range(2000)])[0]
    assert share.number["low"] > 0.5 and share.warning
    # with few groups an interval reaches down to chance
    few = scores([0.1, 0.1, -0.1] * 4, [0.1] * 12)
    assert margin_shares(few, [str(row) for row in range(12)])[0].warning
