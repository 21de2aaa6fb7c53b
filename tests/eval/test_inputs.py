"""What is evaluated: pairs that lack something, models that are not whole, models on the Hub."""

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from eval.config import EvalSection
from eval.inputs import find_models, read_items, weights_sha256
from eval.run_eval import plan_evaluation
from pipeline.core.recipe import RecipeError
from pipeline.core.schema import MvcError


@pytest.mark.parametrize("name", ["question", "answer_a", "answer_b", "group", "source"])
def test_a_pair_without_a_text_is_named_before_anything_is_scored(
    rows: list[dict[str, Any]], write_rows: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    folder = write_rows(tmp_path / "mvc", [*rows[:2], {**rows[2], name: None}])
    section = EvalSection(model="m", data=str(folder), out="o")
    with pytest.raises(MvcError, match=rf"pair {rows[2]['pair_id']} .* has no {name}"):
        read_items(section, images=False)
    assert read_items(section.model_copy(update={"max_pairs": 2})).num_rows == 2


def test_rows_without_hash_or_meta_are_read(
    rows: list[dict[str, Any]], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    bare = [{**row, "image_a_sha256": None, "image_b_sha256": None, "meta": None} for row in rows]
    assert read_items(
        EvalSection(model="m", data=str(write_rows(tmp_path / "mvc", bare)), out="o")
    ).num_rows == len(rows)


def test_a_model_whose_training_did_not_finish_is_no_model_without_base(
    finetuned: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(finetuned, tmp_path / "model")
    (model / ".svco_train").write_text("left by the trainer")
    (model / "recipe.yaml").write_text("steps: 10")
    section = EvalSection(model=str(model), data="d", out="o")
    assert find_models(section).before == model / "base"
    (model / "svco.json").unlink()
    with pytest.raises(RecipeError, match=r"did not finish \(no svco.json\).*base=none"):
        find_models(section)
    assert find_models(section.model_copy(update={"base": "none"})).before is None
    assert find_models(section.model_copy(update={"base": str(finetuned)})).before == finetuned
    (model / ".svco_train").unlink()
    assert find_models(section).before is None  # a model of someone else, who may have a recipe too


def test_a_plan_that_is_only_shown_fetches_no_weights(
    mvc: Path, finetuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = {"org/tuned": finetuned, "org/first": finetuned / "base"}
    remote = shutil.copytree(finetuned, tmp_path / "remote", ignore=shutil.ignore_patterns("base"))
    (remote / "svco.json").write_text(json.dumps({"base_model": "org/first"}))
    hub["org/tuned"] = remote

    def fetch(name: str, allow_patterns: list[str]) -> str:
        """Copies what the Hub would send: the files whose path matches a pattern, in which * also
        matches slashes.
        """
        for path in hub[name].rglob("*"):
            relative = path.relative_to(hub[name]).as_posix()
            if path.is_file() and any(fnmatch(relative, pattern) for pattern in allow_patterns):
                (tmp_path / "cache" / name / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "cache" / name / relative)
        return str(tmp_path / "cache" / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    section = EvalSection(model="org/tuned", data=str(mvc), out=str(tmp_path / "eval"))
    plan = plan_evaluation(section, images=False)
    assert plan.models.before == tmp_path / "cache" / "org/first"
    fetched = sorted(
        path.relative_to(tmp_path / "cache").as_posix()
        for path in (tmp_path / "cache").rglob("*")
        if path.is_file()
    )
    assert fetched == ["org/first/config.json", "org/tuned/config.json", "org/tuned/svco.json"]
    plan_evaluation(section)
    assert (tmp_path / "cache" / "org/first" / "model.safetensors").is_file()


def test_adapters_are_a_model_that_changes_with_its_base(tmp_path: Path) -> None:
    base, adapters = tmp_path / "base", tmp_path / "adapters"
    for folder in (base, adapters):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    (base / "config.json").write_text("{}")
    (adapters / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(base)})
    )
    section = EvalSection.model_validate(
        {"model": str(adapters), "base": "none", "data": "/d", "out": "/o"}
    )
    assert find_models(section).after == adapters
    before = weights_sha256(adapters)
    (base / "model.safetensors").write_bytes(b"other weights")
    assert weights_sha256(adapters) != before
