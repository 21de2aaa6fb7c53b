"""What we export, read by transformers 4.57.6 and by ours: the same tokens, pixels and logits.

The bases are as the Hub has them, written by 4.57.6, and the same written by ours. Each is trained
for two steps, whole and by adapters, and the exports are read by programs of their own, so that
neither version knows what the other has in memory.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.peers.read_exports import QUESTIONS, logits_of, tokens_and_pixels
from tests.training.conftest import mvc_row, write_mvc
from training.config import TrainSection
from training.models.model_folder import PROCESSOR_FILES
from training.models.vlm import load_vlm
from training.runtime.environment import LocalEnv
from training.trainer import loop
from training.trainer.export import export_model

pytestmark = [pytest.mark.peer, pytest.mark.slow]

HERE = Path(__file__).parent
OLD = "transformers-4.57.6"
BASES = ("llava-llama-clip", "llava-qwen2-clip", "llava-qwen2-siglip", "qwen2_5_vl", "qwen3_vl")
LORA = {"rank": 4, "alpha": 8}
# What is trained of a base, by how it is told in the name of an export.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "whole": {"train": {"freeze_vision": False}},
    "merged": {"lora": LORA},
    "adapters": {"lora": {**LORA, "merge": False}, "train": {"train_projector": False}},
}
EXPORTS = [
    (base, writer, way)
    for base in BASES
    for writer in ("old", "new")
    for way in (WAYS if writer == "old" else ("merged",))
]


def run(program: str, *arguments: Path, old: bool) -> None:
    """Runs a program beside this file with 4.57.6 or with our transformers."""
    path = [str(Path(os.environ["SVCO_PEERS"]).resolve() / OLD)] if old else []
    done = subprocess.run(
        [sys.executable, HERE / program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old/NAME` as 4.57.6 writes them, `new/NAME` the same written by ours."""
    folder = tmp_path_factory.mktemp("bases")
    run("make_bases.py", folder / "old", old=True)
    for name in BASES:
        for part in (AutoModelForImageTextToText, AutoProcessor):
            part.from_pretrained(folder / "old" / name).save_pretrained(folder / "new" / name)
    return folder


class Reading:
    """What either version made of the exports, and what the models in memory said."""

    def __init__(self, folder: Path, bases: Path) -> None:
        self.folder, self.bases = folder, bases
        self.jobs: dict[str, dict[str, str]] = {}
        self.memory: dict[str, Any] = {}
        data = write_mvc(folder / "mvc", {"train": [mvc_row(number) for number in range(8)]})
        for base, writer, way in EXPORTS:
            self._train(data, base, writer, way)
        (folder / "jobs.json").write_text(json.dumps(self.jobs))
        self.by: dict[str, Any] = {}
        for version in ("old", "new"):
            out = folder / f"{version}.npz"
            run("read_exports.py", folder / "jobs.json", out, old=version == "old")
            self.by[version] = np.load(out)

    def _train(self, data: Path, base: str, writer: str, way: str) -> None:
        # a copy, so that it can be deleted before anybody reads the export
        name, kept = f"{base}-{writer}-{way}", self.bases / writer / base
        model, out = self.folder / f"base-of-{name}", self.folder / name
        shutil.copytree(kept, model)
        processor = load_vlm(model).processor
        inputs = tokens_and_pixels(processor, with_image=True)[1]
        torch.save(inputs, self.folder / f"{name}.pt")
        section = TrainSection.model_validate(
            {
                "model": str(model),
                "data": str(data),
                "out": str(out),
                "eval_every_steps": 0,
                "workers": {"num_workers": 0},
                "optim": {"lr": 1e-2, "batch_pairs": 4, "micro_batch_pairs": 2, "max_steps": 2},
                "log": {"num_samples": 0, "tensorboard": False},
                **WAYS[way],
            }
        )

        def export(trained: Any, *arguments: Any) -> None:
            self.memory[name] = logits_of(trained.vlm.model, inputs).numpy()
            export_model(trained, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "export_model", export)
            out.mkdir()
            loop.fit(section, LocalEnv())
        self.jobs[name] = {"folder": str(out), "inputs": str(self.folder / f"{name}.pt")}
        if way == "adapters":
            self.jobs[name]["base"] = str(model)
        else:
            shutil.rmtree(model)

    def made(self, version: str, name: str) -> dict[str, Any]:
        """What one version made of an export."""
        stored = self.by[version]
        made = {
            key.removeprefix(f"{name}/"): stored[key]
            for key in stored
            if key.startswith(f"{name}/")
        }
        assert "error" not in made, f"{version}: {made['error']}"
        return made


@pytest.fixture(scope="module")
def reading(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """All exports, made and read once."""
    return Reading(tmp_path_factory.mktemp("exports"), bases)


def test_the_versions_are_what_they_are_called(reading: Reading) -> None:
    assert str(reading.by["old"]["version"]) == OLD.removeprefix("transformers-")
    assert int(str(reading.by["new"]["version"]).split(".")[0]) >= 5


@pytest.mark.parametrize(("base", "writer", "way"), EXPORTS)
def test_both_versions_read_an_export_as_the_model_in_memory_is(
    reading: Reading, base: str, writer: str, way: str
) -> None:
    name = f"{base}-{writer}-{way}"
    old, new = reading.made("old", name), reading.made("new", name)
    processor = load_vlm(reading.bases / writer / base).processor
    for with_image in (False, True):
        for number, ours in enumerate(tokens_and_pixels(processor, with_image=with_image)):
            key = f"ids-{with_image}-{number}"
            assert old[key].tolist() == new[key].tolist() == ours["input_ids"].tolist()
            if with_image:
                pixels = ours["pixel_values"].numpy()
                np.testing.assert_array_equal(old[f"pixels-{number}"], pixels)
                np.testing.assert_array_equal(new[f"pixels-{number}"], pixels)
    assert len(QUESTIONS) == sum(key.startswith("ids-True") for key in old)
    for made in (old, new):
        np.testing.assert_allclose(made["logits"], reading.memory[name], rtol=0, atol=1e-5)
    assert str(old["dtype"]) == str(new["dtype"]) == "torch.float32"


@pytest.mark.parametrize("base", BASES)
def test_training_changed_what_is_compared(reading: Reading, base: str) -> None:
    whole, merged = (reading.memory[f"{base}-old-{way}"] for way in ("whole", "merged"))
    assert abs(whole - merged).max() > 1e-3


@pytest.mark.parametrize(("base", "way"), [(base, way) for base in BASES for way in WAYS])
def test_files_that_4_57_wrote_come_back_byte_by_byte(
    reading: Reading, base: str, way: str
) -> None:
    out, kept = reading.folder / f"{base}-old-{way}", reading.bases / "old" / base
    names = [*PROCESSOR_FILES, *(("generation_config.json",) if way != "adapters" else ())]
    copied = [name for name in names if (kept / name).is_file()]
    assert {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"} <= set(copied)
    for name in copied:
        assert (out / name).read_bytes() == (kept / name).read_bytes(), name


@pytest.mark.parametrize("base", BASES)
def test_how_far_pixels_are_without_use_fast(reading: Reading, base: str) -> None:
    """4.x takes PIL where a LLaVA's files do not say otherwise; Qwen's resizing is the same."""
    name = f"{base}-old-whole"
    old, new = reading.made("old", name), reading.made("new", name)
    np.testing.assert_array_equal(old["pixels-slow"], new["pixels-slow"])
    steps = 255 * abs(old["pixels-default"] - new["pixels-default"]).max() * 0.28
    assert steps < 1.5  # of 255, after a deviation of about 0.28
    written_by_ours = reading.made("old", f"{base}-new-merged")["pixels-default"]
    np.testing.assert_array_equal(written_by_ours, new["pixels-default"])
