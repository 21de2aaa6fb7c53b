"""Every command refuses a model with a tensor that is not in its files, in one line, before Ray."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from eval import ask, run_eval
from pipeline.core.recipe import UserError
from svco import doctor
from training import make_reference, plan_cli, train_svco
from training.models.model_check import check_models
from training.models.vlm import check_model

Run = Callable[..., tuple[int, str]]
WEIGHTS = "model.safetensors"


def without_projector(folder: Path) -> str:
    tensors = load_file(folder / WEIGHTS)
    kept = {name: value for name, value in tensors.items() if "projector" not in name}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})
    return "4 of 64 tensors missing (model.multi_modal_projector.linear_1.bias, "


def wrapped_by_peft(folder: Path) -> str:
    tensors = load_file(folder / WEIGHTS)
    named = {f"base_model.model.{name}": value for name, value in tensors.items()}
    save_file(named, folder / WEIGHTS, {"format": "pt"})
    return "merge_and_unload()"


def cut_off(folder: Path) -> str:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7])
    return "no whole safetensors file"


def quantized(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    return "quantized (awq)"


def of_another_kind(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llava_next"}')
    return "supported are llava ("


def without_template(folder: Path) -> str:
    (folder / "chat_template.jinja").unlink()
    return "add chat_template.jinja"


def with_a_broken_template(folder: Path) -> str:
    (folder / "chat_template.jinja").write_text("{% for message in %}")
    return "its chat template cannot be rendered (Expected an expression"


def with_a_template_that_refuses(folder: Path) -> str:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('one system turn') }}")
    return "its chat template cannot be rendered (one system turn)"


BREAKS = (
    without_projector,
    wrapped_by_peft,
    cut_off,
    quantized,
    of_another_kind,
    without_template,
    with_a_broken_template,
    with_a_template_that_refuses,
)


@pytest.fixture(params=BREAKS, ids=lambda change: change.__name__)
def broken(request: pytest.FixtureRequest, vicuna_llava: Path, tmp_path: Path) -> tuple[Path, str]:
    """A model's folder, and words of the refusal."""
    folder = shutil.copytree(vicuna_llava, tmp_path / "broken")
    return folder, request.param(folder)


@pytest.fixture
def commands(make_mvc: Callable[..., Path], tmp_path: Path) -> dict[str, tuple[Any, list[str]]]:
    """By name: a command, and its arguments after the model."""
    data, images = make_mvc(4, 2), (tmp_path / "a.png", tmp_path / "b.png")
    for image in images:
        Image.new("RGB", (40, 30), "red").save(image)
    keys = [f"data={data}", f"out={tmp_path / 'out'}", "workers.num_workers=1"]
    shown = [f"--image={image}" for image in images]
    return {
        "train": (train_svco.run, keys),
        "train --dry-run": (train_svco.run, [*keys, "--dry-run"]),
        "reference": (make_reference.run, keys),
        "reference --dry-run": (make_reference.run, [*keys, "--dry-run"]),
        "plan": (plan_cli.run, [*keys, "workers.use_gpu=false"]),
        "eval": (run_eval.run, keys),
        "eval --dry-run": (run_eval.run, [*keys, "--dry-run"]),
        "ask": (ask.run, ["What is shown?", *shown, "--device=cpu"]),
    }


def test_every_command_refuses_it_in_one_line(
    broken: tuple[Path, str],
    commands: dict[str, tuple[Any, list[str]]],
    command_here: Run,
    tmp_path: Path,
) -> None:
    folder, words = broken
    for name, (command, arguments) in commands.items():
        model = str(folder) if name == "ask" else f"model={folder}"
        code, said = command_here(command, model, *arguments)
        assert code == 2, (name, said)
        assert words in said, (name, said)
        assert said.startswith("error: "), (name, said)
        assert said.count("\n") == 1, (name, said)
        assert str(folder) in said
        assert not (tmp_path / "out").exists(), name
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


def test_doctor_says_what_is_wrong_with_a_model(
    broken: tuple[Path, str], command_here: Run
) -> None:
    folder, words = broken
    code, said = command_here(doctor.run, str(folder))
    assert code == 1
    problem = said[said.index("problem  model ") :]
    assert words in problem.replace("\n                           -> ", "; ")
    assert problem.count("\n") <= 4  # the fact, the remedy, and the count of problems


def test_doctor_finds_a_whole_model_whole(vicuna_llava: Path, command_here: Run) -> None:
    _, said = command_here(doctor.run, str(vicuna_llava))
    assert f"OK       model             {vicuna_llava}: its files hold all tensors" in said


def test_a_hub_id_that_cannot_be_reached_is_said_and_not_waited_for(
    commands: dict[str, tuple[Any, list[str]]],
    command_here: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("train", "reference"):
        command, arguments = commands[name]
        code, said = command_here(command, "model=org/none", *arguments)
        assert code == 2
        assert said.startswith("error: model=org/none: neither a folder nor a model")
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()
        code, said = command_here(command, "model=org/none", *arguments, "--dry-run")
        assert code == 0
        assert "not looked at: org/none is not in the Hub's cache" in " ".join(said.split())


@pytest.fixture
def hub_cache(vicuna_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache on a disk without network, in which "org/tiny" lies whole; its snapshot."""
    cache = tmp_path / "cache"
    snapshot = cache / "models--org--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(vicuna_llava, snapshot)
    (cache / "models--org--tiny" / "refs").mkdir()
    (cache / "models--org--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


def test_a_model_in_the_hubs_cache_is_looked_at_there(
    hub_cache: Path, commands: dict[str, tuple[Any, list[str]]], command_here: Run
) -> None:
    command, arguments = commands["train --dry-run"]
    code, said = command_here(command, "model=org/tiny", *arguments)
    assert code == 0, said
    assert "hold all tensors of its class" in said
    words = without_projector(hub_cache)
    code, said = command_here(command, "model=org/tiny", *arguments)
    assert code == 2
    assert words in said


def test_a_model_on_the_hub_is_looked_at_by_its_headers_there(
    hub_cache: Path,
    commands: dict[str, tuple[Any, list[str]]],
    command_here: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo

    tensors = {
        name: TensorInfo("F32", list(value.shape), (0, 0))
        for name, value in load_file(hub_cache / WEIGHTS).items()
    }
    (hub_cache / WEIGHTS).unlink()
    asked = []

    def headers(_: HfApi, repo: str, **how: object) -> SafetensorsRepoMetadata:
        asked.append(repo)
        file = SafetensorsFileMetadata({}, dict(tensors))
        return SafetensorsRepoMetadata(
            None, False, dict.fromkeys(tensors, WEIGHTS), {WEIGHTS: file}
        )

    monkeypatch.setattr(HfApi, "get_safetensors_metadata", headers)
    command, arguments = commands["train --dry-run"]
    code, said = command_here(command, "model=org/tiny", *arguments)
    assert code == 0, said
    assert asked == ["org/tiny"]
    del tensors["multi_modal_projector.linear_1.bias"]
    code, said = command_here(command, "model=org/tiny", *arguments)
    assert code == 2
    assert "1 of 64 tensors missing (model.multi_modal_projector.linear_1.bias)" in said


def test_what_was_found_whole_is_not_looked_at_again_until_a_file_changes(
    vicuna_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vicuna_llava, folder)
    looks: list[Path] = []

    def counted(model: Path, *, trained: bool) -> str:
        looks.append(model)
        return check_model(model, trained=trained)

    monkeypatch.setattr("training.models.vlm.check_model", counted)
    first = check_models([folder], trained=False, here=True)
    assert check_models([folder], trained=False, here=True) == first
    assert looks == [folder]
    check_models([folder], trained=True, here=True)  # another question
    assert looks == [folder] * 2
    without_projector(folder)
    for _ in range(2):  # refusals are not kept
        with pytest.raises(UserError, match="4 of 64 tensors missing"):
            check_models([folder], trained=False, here=True)
    assert looks == [folder] * 4
