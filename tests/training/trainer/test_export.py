"""What is exported: the base's own files with other numbers where something was trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from pipeline.core.recipe import UserError
from training.config import TrainSection
from training.models.model_folder import add_older_names
from training.models.vlm import load_vlm
from training.run_plan import ROUNDED, check_base
from training.runtime.environment import LocalEnv
from training.trainer.loop import fit

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**read(path), **values}))


def trained(recipe: dict[str, Any], out: Path, **changes: Any) -> Path:
    """The folder that two steps leave behind."""
    out.mkdir()
    steps = {"lr": 1e-2, "batch_pairs": 4, "micro_batch_pairs": 2, "max_steps": 2}
    fit(
        TrainSection.model_validate({**recipe, "optim": steps, "out": str(out), **changes}),
        LocalEnv(),
    )
    return out


@pytest.fixture
def base(vicuna_llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vicuna_llava, tmp_path / "base"))


def as_published(base: Path) -> None:
    """A folder of 5.x turned into what 4.x writes, as far as names go."""
    add_older_names(base)
    config = read(base / CONFIG)
    config["torch_dtype"] = config.pop("dtype")
    config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = 5e5
    (base / CONFIG).write_text(json.dumps(config))
    change(base / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    (base / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    (base / "modeling_foreign.py").write_text("raise SystemExit")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "merged", "adapters"])
def test_a_published_base_comes_back_file_by_file(
    recipe: dict[str, Any], base: Path, tmp_path: Path, way: str
) -> None:
    as_published(base)
    for file in base.iterdir():
        file.chmod(0o444)
    frozen = {"lora": {"merge": False}, "train": {"train_projector": False}}
    ways = {"whole": {}, "merged": {"lora": {}}, "adapters": frozen}
    recipe["model"] = str(base)
    out = trained(recipe, tmp_path / "out", **ways[way])
    kept = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    kept += ("chat_template.jinja", "preprocessor_config.json", "processor_config.json")
    kept += () if way == "adapters" else (CONFIG, "generation_config.json")
    for name in kept:
        assert (out / name).read_bytes() == (base / name).read_bytes(), name
    assert not list(out.glob("*.py"))
    assert (out / WEIGHTS).exists() == (out / CONFIG).exists() == (way != "adapters")
    if way != "adapters":
        shutil.rmtree(base)
        assert load_vlm(out).model.config.text_config.rope_parameters["rope_theta"] == 5e5


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["mine", "of old versions"])
def test_a_link_is_copied_as_what_it_points_to_and_names_of_tensors_stay(
    recipe: dict[str, Any], base: Path, tmp_path: Path, writer: str
) -> None:
    add_older_names(base)
    if writer == "of old versions":  # the names that transformers has in memory
        weights = load_file(base / WEIGHTS)
        native = {
            name.replace("language_model.model.", "model.language_model.")
            .replace("language_model.lm_head", "lm_head")
            .replace("vision_tower.", "model.vision_tower.")
            .replace("multi_modal_projector.", "model.multi_modal_projector."): value
            for name, value in weights.items()
        }
        save_file(native, base / WEIGHTS, {"format": "pt"})
    elsewhere = tmp_path / "blobs"
    elsewhere.mkdir()
    for file in list(base.iterdir()):
        (elsewhere / file.name).write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(elsewhere / file.name)
    names = load_file(base / WEIGHTS).keys()
    recipe["model"] = str(base)
    out = trained(recipe, tmp_path / "out", lora={})
    assert load_file(out / WEIGHTS).keys() == names
    assert not [file for file in out.iterdir() if file.is_symlink()]


@pytest.mark.slow
def test_several_files_and_their_index_stay_several(
    recipe: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    weights = load_file(base / WEIGHTS)
    halves = sorted(weights)[::2], sorted(weights)[1::2]
    files = {f"model-0000{number}-of-00002.safetensors": half for number, half in enumerate(halves)}
    for file, half in files.items():
        save_file({name: weights[name] for name in half}, base / file, {"format": "pt"})
    weight_map = {name: file for file, half in files.items() for name in half}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / WEIGHTS).unlink()
    recipe["model"] = str(base)
    out = trained(recipe, tmp_path / "out")
    stated = read(out / "model.safetensors.index.json")["weight_map"]
    assert set(stated.values()) == files.keys()
    assert {file: load_file(out / file).keys() for file in files} == {
        file: {name for name, at in stated.items() if at == file} for file in files
    }
    load_vlm(out)


@pytest.mark.slow
def test_a_base_in_fp32_is_not_rounded_by_weights_in_16_bits(
    recipe: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    low = {"weights": "bfloat16", "precision": "bfloat16"}
    recipe |= {"model": str(base), "lora": {}, "train": low}
    add_older_names(base)
    change(base / CONFIG, dtype="bfloat16", torch_dtype="bfloat16")  # which its tensors are not
    section = TrainSection.model_validate({**recipe, "out": str(tmp_path / "out")})
    assert check_base(section)[ROUNDED].startswith("float32 in its files, are rounded to bfloat16")
    before, out = load_file(base / WEIGHTS), trained(recipe, tmp_path / "out")
    after = load_file(out / WEIGHTS)
    assert {value.dtype for value in after.values()} == {torch.float32}
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all("_proj" in name or "projector" in name for name in moved)
    assert not any("vision_tower" in name or "embed" in name or "norm" in name for name in moved)
    # the projector moved by at most the rate of two steps: it did not start rounded
    bias = next(name for name in moved if name.endswith("linear_1.weight"))
    assert (after[bias] - before[bias]).abs().max() <= 2.1e-2
    assert read(out / CONFIG)["dtype"] == read(out / CONFIG)["torch_dtype"] == "float32"
    assert AutoModelForImageTextToText.from_pretrained(out).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_what_is_trained_starts_as_the_base_has_it_and_is_stored_in_its_type(
    recipe: dict[str, Any], base: Path, tmp_path: Path, stored: torch.dtype
) -> None:
    weights = {name: value.to(stored) for name, value in load_file(base / WEIGHTS).items()}
    save_file(weights, base / WEIGHTS, {"format": "pt"})
    low = {"weights": "bfloat16", "precision": "bfloat16"}
    recipe |= {"model": str(base), "train": low}
    out = trained(recipe, tmp_path / "out", optim={"lr": 1e-30, "max_steps": 1})
    after = load_file(out / WEIGHTS)
    assert {value.dtype for value in after.values()} == {stored}
    section = TrainSection.model_validate({**recipe, "out": str(tmp_path / "out")})
    assert (ROUNDED in check_base(section)) == (stored == torch.float16)


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 2.0}], ids=str)
def test_older_names_are_written_beside_the_newer_ones(
    base: Path, scaling: dict[str, Any] | None
) -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, **(scaling or {})}
    config = read(base / CONFIG)
    config["text_config"]["rope_parameters"] = rope
    (base / CONFIG).write_text(json.dumps(config))
    change(base / "tokenizer_config.json", extra_special_tokens=["<image>"])
    ours = load_vlm(base)
    add_older_names(base)
    text = read(base / CONFIG)["text_config"]
    assert text["rope_theta"] == 1e6
    assert text.get("rope_scaling") == ({"type": "linear", **scaling} if scaling else None)
    tokenizer = read(base / "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["additional_special_tokens"] == ["<image>"]
    assert "extra_special_tokens" not in tokenizer
    images = read(base / "preprocessor_config.json")
    assert images["image_processor_type"] == "CLIPImageProcessorFast"
    assert all("vision_tower.vision_model." in n for n in load_file(base / WEIGHTS) if "tower" in n)
    again = load_vlm(base)
    was, now = (vlm.model.config.text_config.rope_parameters for vlm in (ours, again))
    assert now == was | ({"type": "linear"} if scaling else {})
    assert again.processor.image_processor.to_dict() == ours.processor.image_processor.to_dict()
    assert again.processor.tokenizer.get_vocab() == ours.processor.tokenizer.get_vocab()
    written = {file.name: file.read_bytes() for file in base.iterdir()}
    add_older_names(base)
    assert written == {file.name: file.read_bytes() for file in base.iterdir()}


@pytest.mark.slow
def test_a_base_that_is_gone_when_the_result_is_written_is_one_line(
    recipe: dict[str, Any], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.trainer import loop

    def gone(*arguments: Any) -> None:
        (base / WEIGHTS).unlink()
        export(*arguments)

    export = loop.export_model
    monkeypatch.setattr(loop, "export_model", gone)
    recipe["model"] = str(base)
    with pytest.raises(UserError, match="put back what the run began with, and start it again"):
        trained(recipe, tmp_path / "out")


def test_a_base_with_adapters_in_its_folder_is_refused_before_it_is_trained(base: Path) -> None:
    (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    section = TrainSection.model_validate({"model": str(base), "data": "d", "out": "o"})
    with pytest.raises(UserError, match="adapters lie in it .* merge them"):
        check_base(section)
