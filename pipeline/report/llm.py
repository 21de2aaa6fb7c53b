"""The report's section on rewriting by a model: how rows were written, what was refused, and what
it cost.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from pipeline.pages.page import bar, html_table, paragraph, subsection, tiles


def rewrite_html(facts: Mapping[str, Any]) -> Markup:
    """Tables from the manifest's "rewrite"."""
    by_status: Mapping[str, int] = facts["by_status"]
    total = sum(by_status.values()) or 1
    rows = [[status, f"{number:,}", bar(number / total)] for status, number in by_status.items()]
    reasons = sorted(facts["refused_by_reason"].items(), key=lambda item: (-item[1], item[0]))
    refused = html_table(
        ["reason", "replies"], [[reason, f"{number:,}"] for reason, number in reasons]
    )
    return (
        tiles([*spending_tiles(facts)])
        + html_table(["pairs written by", "pairs", ""], rows)
        + (
            subsection("Refused replies", refused)
            if reasons
            else paragraph("No reply was refused.")
        )
    )


def spending_tiles(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What talking with a model took: replies, tokens, money, time."""
    yield "replies", f"{facts['num_replies']:,}"
    yield "from the cache", f"{facts['num_cache_hits']:,}"
    yield "input tokens", f"{facts['num_prompt_tokens']:,}"
    yield "output tokens", f"{facts['num_completion_tokens']:,}"
    if "usd_without_cache" in facts:
        yield "USD without the cache", f"{facts['usd_without_cache']:.4f}"
        yield "USD paid for this folder", f"{facts['usd_paid']:.4f}"
    for name, value in facts.get("latency_s", {}).items():
        yield f"latency {name}", f"{value:.2f} s"
