"""The report's section on the shortcut audit, from the manifest's "audit"."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.pages.page import html_table, paragraph

_NOTE = (
    "Can the original side be told from the edited one by format, compression, size, noise or blur"
    " alone? AUC 0.5 is chance, 1 is every time."
)
_COLUMNS = (
    "source",
    "operation",
    "pairs",
    "audited",
    "AUC",
    "95 % interval",
    "verdict",
    "what differs (AUC alone)",
)
_VERDICTS = {
    "ok": "no shortcut found",
    "warning": "WARNING: the sides can be told apart",
    "too_few": "too few pairs to tell",
    "not_applicable": "not applicable: no side is the original",
}


def audit_html(results: Sequence[Mapping[str, Any]]) -> Markup:
    """A table of `pipeline.audit.shortcuts.AuditResult`s as they stand in the manifest."""
    return paragraph(_NOTE) + html_table(_COLUMNS, [_cells(result) for result in results])


def _cells(result: Mapping[str, Any]) -> list[str]:
    separability = result["separability"]
    measured = (
        [
            "{auc:.2f}".format(**separability),
            "{auc_low:.2f} to {auc_high:.2f}".format(**separability),
        ]
        if separability
        else ["", ""]
    )
    is_told = separability and result["verdict"] == "warning"
    return [
        result["source"],
        result["operation"],
        f"{result['num_pairs']:,}",
        f"{result['num_audited']:,}",
        *measured,
        _VERDICTS[result["verdict"]],
        ", ".join(_clue(**clue) for clue in (separability["clues"] if is_told else ())),
    ]


def _clue(feature: str, auc: float) -> str:
    return f"{feature} {'higher' if auc > 0.5 else 'lower'} in b ({auc:.2f})"
