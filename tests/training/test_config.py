"""A recipe that could not train is refused before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.recipe import RecipeError, load_recipe
from training.config import ObjectiveSection, TrainSection
from training.objectives.losses import Objective
from training.objectives.terms import OBJECTIVES, Coefficients, coefficients_of


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if coefficients_of(name)])
def test_an_objective_without_a_term_is_an_error_of_the_recipe(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{model: tiny, data: /d, out: /o}")
    zeros = [f"objective.{coefficient}=0" for coefficient in coefficients_of(name)]
    with pytest.raises(
        RecipeError, match=f"objective: .*the objective {name} has no term to train"
    ):
        load_recipe(tmp_path / "recipe.yaml", [f"objective.name={name}", *zeros], TrainSection)
    first = [f"objective.{coefficient}=0.1" for coefficient in OBJECTIVES[name][0].coefficients]
    load_recipe(tmp_path / "recipe.yaml", [f"objective.name={name}", *zeros, *first], TrainSection)


@pytest.mark.parametrize(
    "zeros",
    [
        ("beta_dpo", "weight_generation"),
        ("weight_preference", "weight_quality", "weight_generation"),
    ],
)
def test_a_term_is_gone_when_one_of_its_coefficients_is(zeros: tuple[str, ...]) -> None:
    with pytest.raises(
        ValidationError,
        match=f"with {', '.join(zeros)} at 0 the objective mpo has no term to train",
    ):
        ObjectiveSection.model_validate({"name": "mpo", **dict.fromkeys(zeros, 0)})


def test_sft_needs_no_coefficient() -> None:
    ObjectiveSection.model_validate({"name": "sft", **dict.fromkeys(Coefficients.model_fields, 0)})


def test_the_recipe_and_the_objectives_agree_on_which_coefficients_count() -> None:
    usual = Coefficients().model_dump()
    assert usual == ObjectiveSection().model_dump(exclude={"name", "plus"})
    assert set(usual) == {name for objective in OBJECTIVES for name in coefficients_of(objective)}
    for name in OBJECTIVES:
        for coefficient in usual:
            low, high = (
                Objective(name, Coefficients(**{**usual, coefficient: value}))
                for value in (0.3, 0.7)
            )
            assert _differ(low, high) == (coefficient in coefficients_of(name)), (name, coefficient)


def _differ(low: Objective, high: Objective) -> bool:
    import torch

    from training.objectives.losses import Scores

    D_P32 = torch.tensor([[[3.0, 1.0], [2.0, 5.0], [7.0, 4.0]]])
    scores = Scores(D_P32=D_P32, logps_P32=D_P32 - 9, num_tokens_P2=torch.tensor([[2, 3]]))
    return bool(low(scores)[0] != high(scores)[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective": {"plus": {"sft": 0}}}, "expected weights above 0"),
        ({"objective": {"plus": {"stf": 1}}}, "stf"),
        ({"lora": {}, "train": {"freeze_vision": False}}, "adapters go on the language model only"),
        ({"workers": {"num_workers": 2, "min_workers": 3}}, "expected at most num_workers=2"),
        ({"workers": {"num_workers": 0, "shard": True}}, "set num_workers to at least 1"),
        ({"lora": {"merge": False}}, "set train.train_projector=false"),
        ({"lora": {"quantize": "nf4"}, "workers": {"shard": True}}, "adapters are small"),
        ({"train": {"weights": "bfloat16"}}, "set train.precision=bfloat16"),
        (
            {"train": {"freeze_vision": False}, "workers": {"shard": True}},
            "the vision tower is not sharded",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainSection.model_validate({"model": "tiny", "data": "/d", "out": "/o", **changes})
