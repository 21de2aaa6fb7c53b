"""A recipe that could not train is refused before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.recipe import RecipeError, load_recipe
from training.config import ObjectiveSection, TrainSection
from training.objectives.losses import OBJECTIVES, Coefficients, Objective
from training.objectives.terms import COEFFICIENTS_OF, TERMS_OF


@pytest.mark.parametrize("name", [name for name, heeded in COEFFICIENTS_OF.items() if heeded])
def test_an_objective_without_a_term_is_an_error_of_the_recipe(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{model: tiny, data: /d, out: /o}")
    zeros = [f"objective.{coefficient}=0" for coefficient in COEFFICIENTS_OF[name]]
    with pytest.raises(
        RecipeError, match=f"objective: .*the objective {name} has no term to train"
    ):
        load_recipe(tmp_path / "recipe.yaml", [f"objective.name={name}", *zeros], TrainSection)
    one = [f"objective.{coefficient}=0.1" for coefficient in TERMS_OF[name][0].coefficients]
    load_recipe(tmp_path / "recipe.yaml", [f"objective.name={name}", *zeros, *one], TrainSection)


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
    ObjectiveSection.model_validate(
        {"name": "sft", **{name: 0 for heeded in COEFFICIENTS_OF.values() for name in heeded}}
    )


def test_the_recipe_and_the_objectives_agree_on_which_coefficients_count() -> None:
    assert COEFFICIENTS_OF.keys() == OBJECTIVES.keys()
    assert ObjectiveSection().coefficients() == {
        name: getattr(Coefficients(), name) for name in Coefficients.__slots__
    }
    usual = ObjectiveSection().coefficients()
    for name, heeded in COEFFICIENTS_OF.items():
        for coefficient in usual:
            one, other = (
                Objective(name, Coefficients(**{**usual, coefficient: value}))
                for value in (0.3, 0.7)
            )
            assert _differ(one, other) == (coefficient in heeded), (name, coefficient)


def _differ(one: Objective, other: Objective) -> bool:
    import torch

    from training.objectives.losses import Scores

    D_P32 = torch.tensor([[[3.0, 1.0], [2.0, 5.0], [7.0, 4.0]]])
    scores = Scores(D_P32=D_P32, logps_P32=D_P32 - 9, num_tokens_P2=torch.tensor([[2, 3]]))
    return bool(one(scores)[0] != other(scores)[0])


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
