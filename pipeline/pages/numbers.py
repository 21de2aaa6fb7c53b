"""Numbers as texts, the same on pages, on the terminal and in tables of documents."""

from collections.abc import Mapping
from typing import Any

# factor, digits, mark; what is not here has the factor 1 and two digits
_UNITS = {"share": (100.0, 1, " %"), "percent": (100.0, 1, ""), "area": (1.0, 3, "")}
MISSING = "-"


def show_number(number: Mapping[str, Any] | None, unit: str, *, is_difference: bool = False) -> str:
    """A value with its interval, "-" where there is none.

    Differences of shares are in points, so they bear no "%". What may lie on either side of 0 bears
    its sign, and so do its bounds: differences, and everything in nats.

        0.813, 0.77, 0.852 "share"    ->  "81.3 % [77.0, 85.2]"; a difference "+81.3 [+77.0, +85.2]"
        0.813, 0.77, 0.852 "percent"  ->  "81.3 [77.0, 85.2]", for a column that says "%"
        0.5, 0.25, 0.75 "nats"        ->  "+0.50 [+0.25, +0.75]"; "area" "0.500 [0.250, 0.750]"

    Args:
        number: "value", "low" and "high"; low is None where there is no interval.
        unit: "share", "percent", "area", "nats" with or without more words, or any other.
    """
    if number is None:
        return MISSING
    factor, digits, mark = _UNITS.get(unit, (1.0, 2, ""))
    sign = "+" if is_difference or unit.startswith("nats") else ""
    value, low, high = (
        "" if number.get(name) is None else f"{number[name] * factor:{sign}.{digits}f}"
        for name in ("value", "low", "high")
    )
    return value + ("" if is_difference else mark) + (f" [{low}, {high}]" if low else "")


def show_share(share: float | None, digits: int = 1) -> str:
    """A share without an interval: 0.253 -> "25.3 %", "-" for none."""
    return MISSING if share is None else f"{100.0 * share:.{digits}f} %"


def show_chance(chance: float | None, unit: str) -> str:
    """A chance level; where a score has none nothing is missing, so nothing is said."""
    return "" if chance is None else show_number({"value": chance}, unit)
