"""A recipe that could not train is refused before anything is loaded."""

from pathlib import Path

import pytest

from pipeline.recipe import RecipeError, load_recipe
from training.config import BETAS_OF, ObjectiveSection, TrainSection
from training.loop import betas_of
from training.objectives import OBJECTIVES, loss_at_start


@pytest.mark.parametrize("name", ["svco", "vco", "dpo"])
def test_an_objective_without_a_term_is_an_error_of_the_recipe(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{model: tiny, data: /d, out: /o}")
    zeros = [f"objective.{beta}=0" for beta in BETAS_OF[name]]
    with pytest.raises(RecipeError, match=f"objective: .*the objective {name} has no term to train"):
        load_recipe(tmp_path / "recipe.yaml", [f"objective.name={name}", *zeros], TrainSection)
    load_recipe(tmp_path / "recipe.yaml", [f"objective.name={name}", *zeros[1:], f"objective.{BETAS_OF[name][0]}=0.1"], TrainSection)


def test_sft_needs_no_beta() -> None:
    ObjectiveSection.model_validate({"name": "sft", **{beta: 0 for betas in BETAS_OF.values() for beta in betas}})


def test_the_recipe_and_the_objectives_agree_on_which_betas_count() -> None:
    assert BETAS_OF.keys() == OBJECTIVES.keys()
    every = {beta for betas in BETAS_OF.values() for beta in betas}
    for name, heeded in BETAS_OF.items():
        for beta in heeded:
            others = {other: 0.0 for other in every if other != beta}
            alone = betas_of(ObjectiveSection.model_validate({"name": name, **others}))
            assert loss_at_start(name, alone) == pytest.approx(0.6931472)  # one term: log 2
