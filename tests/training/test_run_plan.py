"""A finished run is taken for finished only while all that made it, and the weights, are the same;
others' folders are left alone.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.recipe import RecipeError, UserError
from pipeline.core.storage import sha256_file
from training.config import TrainSection
from training.run_plan import TRAINING_RUN, base_sha256, plan_training


@pytest.fixture
def finished(make_mvc: Callable[..., Path], tmp_path: Path) -> TrainSection:
    """The recipe of a run that left its record and weights, and its base; the weights are
    stand-ins, for a plan reads none.
    """
    base, out, data = tmp_path / "base", tmp_path / "out", make_mvc(4, 2)
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"base weights")
    section = TrainSection(model=str(base), data=str(data), out=str(out))
    out.mkdir()
    (out / TRAINING_RUN.marks[0]).write_text("")
    (out / "model.safetensors").write_bytes(b"trained weights")
    record = {
        "recipe": section.model_dump(mode="json"),
        "data_sha256": sha256_file(data / "manifest.json"),
    }
    (out / "svco.json").write_text(json.dumps({**record, "base_sha256": base_sha256(section)}))
    return section


def test_the_same_run_is_finished(finished: TrainSection) -> None:
    plan = plan_training(finished)
    assert plan.finished is not None
    assert plan.finished["base_sha256"] == base_sha256(finished)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_another_base_in_the_same_folder_is_another_run(finished: TrainSection, name: str) -> None:
    (Path(finished.model) / name).write_bytes(b"other")
    with pytest.raises(RecipeError, match="differs in the weights of model"):
        plan_training(finished)


def test_other_files_beside_the_base_make_no_difference(finished: TrainSection) -> None:
    (Path(finished.model) / "README.md").write_text("words")
    assert plan_training(finished).finished is not None


def test_a_run_whose_weights_are_gone_is_not_finished(finished: TrainSection) -> None:
    (Path(finished.out) / "model.safetensors").unlink()
    assert plan_training(finished).finished is None


def test_a_run_with_a_missing_shard_is_not_finished(finished: TrainSection) -> None:
    out = Path(finished.out)
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    (out / "model-00001-of-00002.safetensors").write_bytes(b"1")
    assert plan_training(finished).finished is None
    (out / "model-00002-of-00002.safetensors").write_bytes(b"2")
    assert plan_training(finished).finished is not None


def test_an_unfinished_run_may_be_done_again(finished: TrainSection) -> None:
    (Path(finished.out) / "svco.json").unlink()
    assert plan_training(finished).finished is None


def test_a_folder_with_a_recipe_of_its_own_is_not_ours(finished: TrainSection) -> None:
    out = Path(finished.out)
    for name in ("svco.json", TRAINING_RUN.marks[0]):
        (out / name).unlink()
    (out / "recipe.yaml").write_text("pancakes: 4 eggs")
    with pytest.raises(UserError, match="one of an earlier training run, found"):
        plan_training(finished)


def test_a_data_set_is_never_an_out(finished: TrainSection) -> None:
    (Path(finished.data) / "recipe.yaml").write_text("")
    (Path(finished.data) / TRAINING_RUN.marks[0]).write_text("")
    with pytest.raises(UserError, match="training run, found 'manifest.json'"):
        plan_training(finished.model_copy(update={"out": finished.data}))


def test_a_folder_of_adapters_alone_is_no_model_to_train_from(
    finished: TrainSection, tmp_path: Path
) -> None:
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text("{}")
    with pytest.raises(
        RecipeError, match="found adapters; train from a model that they are merged"
    ):
        plan_training(finished.model_copy(update={"model": str(adapters)}))
