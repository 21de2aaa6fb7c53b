"""The package as a script or a notebook uses it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svco
from pipeline.core.recipe import UserError
from svco.cli import VERBS, command_of, main, usage

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "sources.0.num_pairs": 40,
    "workers.chunk_pairs": 20,
    "audit.enabled": False,
    "encoders.clip": None,
}
OTHER = {"sources.0.num_pairs": 20}


def test_importing_it_loads_nothing_heavy(lean_command: Callable[..., Any]) -> None:
    done = lean_command("--version", without="numpy,pyarrow,pydantic,typer,datasets")
    assert done.stdout == f"svco-toolkit {svco.__version__}\n"


def test_every_verb_is_listed_and_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert f"\n  {verb} " in usage() and callable(command_of(verb))


def test_help_of_a_verb_and_a_verb_that_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["help", "sweep"], ["sweep", "--help"]):
        monkeypatch.setattr(sys, "argv", ["svco", *arguments])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert "Usage: svco sweep" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["svco", "biuld"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "did you mean 'build'?" in capsys.readouterr().err


def test_a_recipe_is_found_by_its_name_anywhere(
    lean_command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = lean_command("train", "--recipe", "svco_tiny", "--print-recipe", "data=d", "out=o")
    (tmp_path / "svco_tiny.yaml").write_text("model: mine\ndata: d\nout: o\n")
    monkeypatch.chdir(tmp_path)
    from pipeline.core.recipe import load_recipe
    from training.config import TrainSection

    assert "model: tiny" in named.stdout
    assert load_recipe("svco_tiny", {"data": "d", "out": "o"}, TrainSection).model == "tiny"
    # a file that is there comes first
    assert load_recipe("svco_tiny.yaml", [], TrainSection).model == "mine"
    with pytest.raises(UserError, match=r"svco_tinny.*did you mean svco_tiny\?"):
        load_recipe("svco_tinny", [], TrainSection)


@pytest.mark.slow
def test_the_wheel_brings_recipes_template_and_sizes_along(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    from hatchling.builders.wheel import WheelBuilder

    for name in ("pyproject.toml", "README.md", "LICENSE", "recipes", "svco"):
        place = ROOT / name
        copy = shutil.copytree if place.is_dir() else shutil.copy
        copy(place, tmp_path / name)
    for package in ("pipeline", "training", "eval"):
        shutil.copytree(ROOT / package, tmp_path / package)
    (wheel,) = WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"))
    target = tmp_path / "site"
    shutil.unpack_archive(wheel, target, "zip")
    code = "from pipeline.core.recipe import find_recipe; print(find_recipe('mvc_pairs'))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "dist",
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == target / "svco" / "recipes" / "mvc_pairs.yaml"
    for file in ROOT.glob("pipeline/**/*.*"):
        if "__pycache__" not in file.parts:
            assert (target / file.relative_to(ROOT)).is_file(), file


@pytest.mark.ray
def test_the_whole_way_from_python(one_ray: None, tmp_path: Path) -> None:
    mvc = svco.build("mvc_demo", out=tmp_path / "mvc", overrides=SMALL)
    pairs = svco.load_pairs(mvc)
    other = svco.build("mvc_demo", out=tmp_path / "b" / "mvc", overrides={**SMALL, **OTHER})
    assert len(svco.load_pairs(other)) != len(pairs)  # though both folders have one name
    assert pairs[0]["image_a"].size == pairs[0]["image_b"].size
    small = {
        "data": mvc,
        "workers.num_workers": 0,
        "optim.max_steps": 2,
        "tiny.num_eye_images": 64,
        "tiny.num_texts": 64,
        "log.num_samples": 0,
    }
    model = svco.train("svco_tiny", out=tmp_path / "model", overrides=small)
    table = svco.reference(
        "svco_tiny", out=tmp_path / "reference", overrides={**small, "model": model / "base"}
    )
    assert (table / "DONE.json").is_file()
    scores = svco.evaluate(
        "eval_contrast",
        out=tmp_path / "eval",
        overrides={"model": model, "data": mvc, "workers.num_workers": 0},
    )
    assert (scores / "scores.json").is_file()
    images = [pairs[0]["image_a"], pairs[0]["image_b"]]
    texts = (pairs[0]["answer_a"], pairs[0]["answer_b"])
    opinion = svco.ask(model, images, pairs[0]["question"], answers=texts, device="cpu")
    assert opinion.logps_32.shape == (3, 2) and np.all(opinion.logps_32 < 0)
    with pytest.raises(UserError, match="split 'test' cannot be loaded"):
        svco.load_pairs(mvc, "test")
