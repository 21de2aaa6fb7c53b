"""The report's sections on what a model was asked: texts that it wrote, answers that it judged."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.pages.numbers import show_share
from pipeline.pages.page import bar, html_table, joined, paragraph, subsection, tiles

_NOTE = (
    "An answer's margin is how much nearer it is to its own image than to the other one, by the"
    " CLIP that measured the captions. Right answers should be above 0; being above 0 does not make"
    " an answer right, because such models are nearly blind to fine detail."
)
_ASKED = {
    "judged_a_of_a": "answer a, image a (should be true)",
    "judged_a_of_b": "answer a, image b (should be false)",
    "judged_b_of_a": "answer b, image a (should be false)",
    "judged_b_of_b": "answer b, image b (should be true)",
}


def rewrite_html(facts: Mapping[str, Any]) -> Markup:
    """Tables from the manifest's "rewrite"."""
    total = sum(facts["by_status"].values())
    rows = [[status, f"{num:,}", bar(num / total)] for status, num in facts["by_status"].items()]
    reasons = sorted(facts["refused_by_reason"].items(), key=lambda item: (-item[1], item[0]))
    return joined(
        [
            tiles(_spending_tiles(facts)),
            html_table(["pairs written by", "pairs", ""], rows),
            subsection("Refused replies", _counts_table("reason", "replies", dict(reasons)))
            if reasons
            else paragraph("No reply was refused."),
        ]
    )


def verify_html(facts: Mapping[str, Any]) -> Markup:
    """Tables from the manifest's "verify"."""
    left: Mapping[str, int] = facts["dropped_by_reason"]
    verified = [
        ("pairs verified", f"{facts['num_verified']:,}"),
        ("left here", f"{sum(left.values()):,}"),
    ]
    parts = [tiles(verified), *([_counts_table("reason", "pairs", left)] if left else [])]
    if margins := facts.get("margins"):
        parts.append(subsection("Answer margins", paragraph(_NOTE), *_margins(margins)))
    if judge := facts.get("judge"):
        parts.append(subsection("Judge", tiles(_spending_tiles(judge)), *_verdicts(judge)))
    return joined(parts)


def _counts_table(name: str, unit: str, counts: Mapping[str, int]) -> Markup:
    return html_table([name, unit], [[key, f"{number:,}"] for key, number in counts.items()])


def _margins(facts: Mapping[str, Any]) -> list[Markup]:
    total = facts["num_pairs"]
    if not total:
        return [paragraph("No pair was left to measure.")]
    above = [
        (f"above 0, {'both sides' if name == 'both' else f'side {name}'}", show_share(share))
        for name, share in facts["frac_positive"].items()
    ]
    shares, *_ = map(list, facts["quantiles"].values())
    spread = [
        [f"side {name}", *(f"{values[share]:.4f}" for share in shares)]
        for name, values in facts["quantiles"].items()
    ]
    bounds = [
        [f"min_answer_margin {bound}", f"{number:,}", bar(number / total)]
        for bound, number in facts["num_kept_at_min"].items()
    ]
    return [
        tiles(above),
        html_table(["quantile", *shares], spread),
        html_table(["bound", "pairs that keep it", ""], bounds),
    ]


def _verdicts(facts: Mapping[str, Any]) -> list[Markup]:
    rows = [
        [_ASKED[name], *(f"{said[word]:,}" for word in ("true", "false", "missing"))]
        for name, said in facts["verdicts"].items()
    ]
    reasons = facts["refused_by_reason"]
    return [
        paragraph(f"Asked of {facts['model']}."),
        html_table(["asked", "true", "false", "missing"], rows),
        *([_counts_table("replies that were no verdict", "number", reasons)] if reasons else []),
    ]


def _spending_tiles(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the chats with a model took: replies, tokens, money, time."""
    shown = {
        "replies": f"{facts['num_replies']:,}",
        "from the cache": f"{facts['num_cache_hits']:,}",
        "input tokens": f"{facts['num_prompt_tokens']:,}",
        "output tokens": f"{facts['num_completion_tokens']:,}",
    }
    if "usd_without_cache" in facts:
        shown["USD without the cache"] = f"{facts['usd_without_cache']:.4f}"
        shown["USD paid for this folder"] = f"{facts['usd_paid']:.4f}"
    latencies = facts.get("latency_s", {}).items()
    return [*shown.items(), *((f"latency {name}", f"{value:.2f} s") for name, value in latencies)]
