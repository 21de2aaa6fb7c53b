from typing import Any

import pytest
import yaml

from pipeline.cards.model_card import render_model_card
from pipeline.core.training_record import measured_rows

RECORD = {"base_model": "org/base", "data": "mvc", "start": {"loss": 2.77}, "final": {"loss": 1.25}}


def _header(card: str) -> dict[str, Any]:
    header: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return header


def test_what_was_measured_before_and_after_becomes_the_model_index() -> None:
    (index,) = _header(render_model_card("org/mine", RECORD))["model-index"]
    assert index == {
        "name": "mine",
        "results": [
            {
                "task": {"type": "image-text-to-text"},
                "dataset": {"name": "mvc", "type": "mvc", "split": "validation"},
                "metrics": [{"type": "loss", "value": 1.25}],
            }
        ],
    }


@pytest.mark.parametrize(
    "changes", [{"final": {}}, {"start": {}}, {"data": ""}, {"final": {"loss": float("nan")}}]
)
def test_without_results_there_is_no_model_index(changes: dict[str, Any]) -> None:
    header = _header(render_model_card("org/mine", {**RECORD, **changes}))
    assert list(header) == [
        "library_name",
        "pipeline_tag",
        "base_model",
        "base_model_relation",
        "tags",
    ]


def test_a_base_model_that_is_no_hub_name_is_not_in_the_header() -> None:
    assert "base_model" not in _header(render_model_card("org/mine", {"base_model": "base"}))


def test_numbers_before_and_after_are_those_of_the_terminal() -> None:
    start = {"loss": 2.7726, "margin_attend": 0.0, "accuracy_attend": 0.0, "loss_attend_a": 0.7}
    final = {"loss": 1.2, "margin_attend": 3.5, "accuracy_attend": 0.7812, "loss_attend_a": 0.25}
    assert measured_rows(start, final) == [
        ["loss", "2.7726", "1.2000"],
        ["margin attend, nats", "+0.00", "+3.50"],
        ["accuracy attend", "tie", "78.1 %"],  # policy = reference: no margin is above 0 yet
        ["loss attend a", "0.7000", "0.2500"],
    ]
    card = render_model_card("org/mine", {**RECORD, "start": start, "final": final})
    assert "| accuracy attend | tie | 78.1 % |" in card
    assert measured_rows({}, final) == []
