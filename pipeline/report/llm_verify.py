"""The report's section on verified answers: their margins, what a judge said of them, and which
pairs left for it.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.pages.page import bar, html_table, joined, paragraph, subsection, tiles
from pipeline.report.llm import spending_tiles

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


def verify_html(facts: Mapping[str, Any]) -> Markup:
    """Tables from the manifest's "verify"."""
    left: Mapping[str, int] = facts["dropped_by_reason"]
    parts = [
        tiles(
            [
                ("pairs verified", f"{facts['num_verified']:,}"),
                ("left here", f"{sum(left.values()):,}"),
            ]
        )
    ]
    if left:
        parts.append(
            html_table(
                ["reason", "pairs"], [[reason, f"{number:,}"] for reason, number in left.items()]
            )
        )
    if margins := facts.get("margins"):
        parts.append(subsection("Answer margins", paragraph(_NOTE), *_margins(margins)))
    if judge := facts.get("judge"):
        parts.append(subsection("Judge", tiles([*spending_tiles(judge)]), _verdicts(judge)))
    return joined(parts)


def _margins(facts: Mapping[str, Any]) -> list[Markup]:
    total = facts["num_pairs"]
    if not total:
        return [paragraph("No pair was left to measure.")]
    above = [
        (f"above 0, {'both sides' if name == 'both' else f'side {name}'}", f"{share:.1%}")
        for name, share in facts["frac_positive"].items()
    ]
    shares = list(next(iter(facts["quantiles"].values())))
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


def _verdicts(facts: Mapping[str, Any]) -> Markup:
    rows = [
        [_ASKED[name], *(f"{said[word]:,}" for word in ("true", "false", "missing"))]
        for name, said in facts["verdicts"].items()
    ]
    reasons = [[reason, f"{number:,}"] for reason, number in facts["refused_by_reason"].items()]
    verdicts = html_table(["asked", "true", "false", "missing"], rows)
    asked = paragraph(f"Asked of {facts['model']}.") + verdicts
    if not reasons:
        return asked
    return asked + html_table(["replies that were no verdict", "number"], reasons)
