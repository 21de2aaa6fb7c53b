"""One rule for a number with its interval: sign, digits, unit, and what is missing."""

from typing import Any

import pytest

from pipeline.pages.numbers import show_chance, show_number, show_share

NUMBER = {"value": 0.5, "low": -0.25, "high": 0.75}


@pytest.mark.parametrize(
    ("number", "unit", "is_difference", "expected"),
    [
        (NUMBER, "share", False, "50.0 % [-25.0, 75.0]"),
        (NUMBER, "share", True, "+50.0 [-25.0, +75.0]"),
        (NUMBER, "percent", False, "50.0 [-25.0, 75.0]"),
        (NUMBER, "percent", True, "+50.0 [-25.0, +75.0]"),
        (NUMBER, "nats", False, "+0.50 [-0.25, +0.75]"),
        (NUMBER, "nats per token", True, "+0.50 [-0.25, +0.75]"),
        (NUMBER, "area", False, "0.500 [-0.250, 0.750]"),
        (NUMBER, "area", True, "+0.500 [-0.250, +0.750]"),
        (NUMBER, "points", False, "0.50 [-0.25, 0.75]"),
        (NUMBER, "words", True, "+0.50 [-0.25, +0.75]"),
        ({**NUMBER, "low": None, "high": None}, "share", False, "50.0 %"),
        ({"value": 0.5}, "share", True, "+50.0"),
        ({"value": 0.0, "low": 0.0, "high": 0.0}, "share", True, "+0.0 [+0.0, +0.0]"),
        (None, "share", False, "-"),
        (None, "nats", True, "-"),
    ],
)
def test_a_number_is_shown_in_its_unit(
    number: dict[str, Any] | None, unit: str, is_difference: bool, expected: str
) -> None:
    assert show_number(number, unit, is_difference=is_difference) == expected


def test_a_share_and_a_chance_level_have_no_interval() -> None:
    assert (show_share(0.253), show_share(None)) == ("25.3 %", "-")
    assert (show_chance(0.25, "share"), show_chance(0.5, "area")) == ("25.0 %", "0.500")
    assert show_chance(None, "points") == ""
