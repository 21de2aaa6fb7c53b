"""`svco plan`: what it shows and advises.

Every recipe can be planned; memory that runs out becomes one line with advice.
"""

import json
import re
from collections import ChainMap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.core.recipe import load_recipe
from training import plan_cli as plan_report
from training import train_svco
from training.config import TrainSection
from training.estimate.advice import (
    OutOfMemoryInTrainingError,
    advice,
    is_out_of_memory,
    with_changes,
)
from training.estimate.data_size import default_size, size_of_data
from training.estimate.flops import PairLengths
from training.estimate.gpus import GPUS
from training.estimate.known_models import find_shape, known_shape
from training.estimate.memory import GB, memory_of, needed_bytes
from training.plan_cli import hours_of, keeps_features, more_advice, work_of
from training.runtime.environment import LocalEnv
from training.trainer.loop import fit
from training.trainer.policy import Policy

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("svco_*.yaml"))
Make = Callable[..., Path]
LLAVA = known_shape("llava-hf/llava-1.5-7b-hf")
LENGTHS = PairLengths((616, 616, 40), (40, 40), (576, 576))


def recipe(**changes: Any) -> TrainSection:
    gpu = {"workers": {"use_gpu": True, **changes.pop("workers", {})}}
    return TrainSection.model_validate({"model": "m", "data": "d", "out": "o", **gpu, **changes})


def test_paths_and_numbers_of_the_task_are_all_here() -> None:
    assert {path.stem for path in RECIPES} >= {
        "svco_tiny",
        "svco_llava_1_5_7b",
        "svco_llava_interleave_7b",
    }
    assert len([path for path in RECIPES if "lora" in path.stem]) == 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_planned_and_dry_run(
    path: Path,
    make_mvc: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = make_mvc(6, 2)
    plan_report.run(
        [f"data={data}"],
        recipe=path,
        gpu=None,
        mfu=0.4,
        price_per_hour=2.0,
        tflops=None,
        memory_gb=None,
    )
    train_svco.run(
        [f"data={data}", f"out={tmp_path / 'out'}"], recipe=path, print_recipe=False, dry_run=True
    )
    shown = capsys.readouterr().err
    assert "6 for training, 2 for validation" in shown
    assert "fits" in shown
    assert "NO" not in shown  # each recipe fits what it says it is for


@pytest.mark.slow
def test_the_plan_loads_neither_torch_nor_ray(lean_command: Callable[..., Any]) -> None:
    arguments = ["--recipe", "svco_llava_1_5_7b", "--gpu", "H100", "--price-per-hour", 3]
    done = lean_command("plan", *arguments)
    assert "10,669 for training" in done.stderr  # the paper's data, for none was given


def test_time_is_work_over_what_the_gpus_reach() -> None:
    assert hours_of(3.6e18, peak=1e15, workers=2, mfu=0.5) == 1.0


def test_work_of_a_run_by_hand() -> None:
    section = recipe(
        optim={"num_epochs": 2, "batch_pairs": 4}, eval_every_steps=2, train={"cache_vision": False}
    )
    data = default_size(LLAVA, {"train": 10, "validation": 3})
    work = work_of(LLAVA, data, section)
    forward = work["reference"] / 13  # all pairs once, with their images
    assert work["validation"] == pytest.approx(3 * forward * 3)  # after steps 2, 4 and 6
    assert work["images, once"] == 0
    # two epochs, forward and twice that backward
    assert work["training"] == pytest.approx(2 * 10 * 3 * forward, rel=0.05)
    stored = work_of(LLAVA, data, section.model_copy(update={"reference": "folder"}))
    assert (stored["reference"], stored["training"]) == (0, work["training"])


def test_features_are_kept_only_where_they_fit() -> None:
    data = default_size(LLAVA, {"train": 10, "validation": 0})
    room = 20 * 576 * 1024 * 4 / 1e9
    assert keeps_features(LLAVA, data, recipe(train={"max_cache_gb": room * 1.001}))
    assert not keeps_features(LLAVA, data, recipe(train={"max_cache_gb": room * 0.999}))
    assert not keeps_features(LLAVA, data, recipe(train={"freeze_vision": False}))


@pytest.mark.slow
def test_lengths_of_data_are_those_of_training_to_a_token_a_text_and_the_template(
    tiny_llava: Path, make_mvc: Make
) -> None:
    from training.data.pairs import PairReader
    from training.models.vlm import load_vlm

    folder = make_mvc(6, 2)
    shape, source = find_shape(str(tiny_llava), recipe().tiny)
    data = size_of_data(folder, str(tiny_llava), shape)
    reader = PairReader(folder, "train", load_vlm(tiny_llava))
    assert source.endswith("config.json")
    assert data.num_pairs == {"train": 6, "validation": 2}
    assert data.mean.responses == pytest.approx(
        reader.num_tokens_N2.double().mean(dim=0).tolist(), abs=1
    )  # a text may merge with what is before it
    assert data.mean.features == (4, 4)
    # The template is estimated; these two formats have 15 tokens of it or fewer with this
    # tokenizer.
    assert data.mean.num_tokens() == pytest.approx(reader.lengths.mean(), abs=3 * 14 + 6)


def test_images_of_the_qwen_families_have_features_by_their_size(make_mvc: Make) -> None:
    shape = known_shape("Qwen/Qwen3-VL-8B-Instruct")
    assert default_size(shape).mean.features == (20 * 15, 20 * 15)  # 640 x 480 in squares of 32
    # 32 x 32 pixels are enlarged to 65,536 at least: 8 x 8 squares.
    assert size_of_data(make_mvc(3, 1), "m", shape).mean.features == (64, 64)


def test_pairs_that_training_would_leave_out_are_told(make_mvc: Make) -> None:
    shape = known_shape("Qwen/Qwen3-VL-8B-Instruct")
    data = size_of_data(make_mvc(4, 1), "m", shape)
    assert len(data.sequences) == 4
    assert all(64 < tokens < 2048 for tokens in data.sequences)  # 64 of the image, the rest text
    assert more_advice(recipe(), shape, data) == []
    told = more_advice(recipe(max_length_tokens=64), shape, data)[0]
    assert told.startswith("max_length_tokens=64 leaves out 100% of the pairs (the longest has ")
    assert "normalize.max_px=1024" in told
    halves = replace(data, sequences=(10.0, 30.0, 20.0, 40.0))
    assert halves.share_over(20) == 0.5


def test_advice_is_the_first_that_fits() -> None:
    section = recipe(train={"precision": "bfloat16"}, optim={"micro_batch_pairs": 8})
    need_gb = sum(memory_of(LLAVA, LENGTHS, section).values()) / GB
    lines = advice(section, LLAVA, LENGTHS, budget_gb=need_gb - 1)
    assert lines[0].startswith("set ")
    assert lines[0].endswith("which fits")
    assert "lora" not in lines[0]
    # One GPU of 40 GB cannot hold the whole model's optimiser, whatever else is changed.
    lines = advice(section, LLAVA, LENGTHS, budget_gb=40)
    assert "lora={}" in lines[0]
    assert any("optim.lr" in line for line in lines)


@pytest.mark.parametrize("budget_gb", [100, 60, 40, 20, 8])
@pytest.mark.parametrize(
    "changes",
    [{}, {"workers": {"num_workers": 8}}, {"train": {"freeze_vision": False}}, {"lora": {}}],
    ids=str,
)
def test_what_is_advised_is_allowed_and_fits(changes: dict[str, Any], budget_gb: float) -> None:
    section = recipe(optim={"micro_batch_pairs": 8}, **changes)
    for line in advice(section, LLAVA, LENGTHS, budget_gb=budget_gb):
        keys, _, fits = line.removeprefix("or ").removeprefix("set ").partition(": ")
        if fits.endswith("which fits"):
            stated = {
                key: yaml.safe_load(value) for key, value in (k.split("=") for k in keys.split())
            }
            changed = with_changes(section, stated)
            assert changed is not None
            assert sum(memory_of(LLAVA, LENGTHS, changed).values()) / GB <= budget_gb


def test_advice_says_when_nothing_helps() -> None:
    (line,) = advice(recipe(), LLAVA, LENGTHS, budget_gb=2)
    assert line.startswith("nothing fits: even with optim.micro_batch_pairs=1 ")
    assert "take a smaller model, larger GPUs, or more of them" in line
    frozen = {"freeze_vision": True, "precision": "bfloat16", "weights": "bfloat16"}
    least = recipe(
        lora={"quantize": "nf4"},
        optim={"micro_batch_pairs": 1},
        train={**frozen, "checkpoint_activations": True},
    )
    (line,) = advice(least, LLAVA, LENGTHS, budget_gb=2)
    assert line.startswith("nothing fits: with nothing that these keys change a worker needs ")


OPTIONS: dict[str, dict[str, Any]] = {
    "as it ships": {},
    "a trained tower": {"lora": None, "train.freeze_vision": False, "workers.shard": False},
    "no adapters": {"lora": None},
    "fp32": {"train.precision": "float32", "train.weights": "float32"},
    "light": {"train.checkpoint_activations": True, "optim.micro_batch_pairs": 1},
    "one worker": {"workers.num_workers": 1, "workers.shard": False},
    "large passes": {"optim.micro_batch_pairs": 16},
    "for CPUs": {"workers.use_gpu": False},
}


def stated_changes(line: str) -> dict[str, Any]:
    """The keys that a line of advice sets."""
    return {
        key: yaml.safe_load(value.rstrip(":"))
        for key, value in (word.split("=") for word in line.split() if "=" in word)
    }


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_each_line_of_advice_fits_alone_and_those_that_use_room_also_together(option: str) -> None:
    num_advised = 0
    for name in ("svco_llava_1_5_7b", "svco_lora_qwen2_5_vl_7b", "svco_qlora_qwen3_vl_8b"):
        shipped = load_recipe(name, ["data=d", "out=o"], TrainSection)
        section = with_changes(shipped, OPTIONS[option])
        if section is None:
            continue  # adapters on a tower, or a recipe of adapters in 4 bits without them
        for model in ("llava-hf/llava-1.5-13b-hf", "Qwen/Qwen2.5-VL-3B-Instruct"):
            shape = known_shape(model)
            lengths = default_size(shape).longest
            for gpu in ("L4", "A100-40", "B200"):
                room = 0.9 * GPUS[gpu].memory_gb
                lines = advice(section, shape, lengths, budget_gb=room, cached=False)
                sets = [stated_changes(line) for line in lines if not line.startswith("adapters")]
                if lines and lines[0].startswith("nothing fits"):
                    continue
                fits = not (lines and lines[0].startswith("set "))
                for changes in [*sets, *([dict(ChainMap(*sets))] if fits else [])]:
                    changed = with_changes(section, changes)
                    assert changed is not None, changes
                    need = needed_bytes(shape, lengths, changed, cached=False)
                    assert need / GB <= room, (name, gpu, changes)
                    num_advised += 1
    assert num_advised


@pytest.mark.parametrize("overrides", [[], ["lora=null"], ["workers.use_gpu=false"]], ids=str)
def test_what_a_plan_advises_fits_when_it_is_planned_again(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(more: list[str]) -> str:
        path = ROOT / "recipes" / "svco_lora_qwen2_5_vl_7b.yaml"
        plan_report.run(
            [*overrides, *more],
            recipe=path,
            gpu="A100-40",
            mfu=0.4,
            price_per_hour=None,
            tflops=None,
            memory_gb=None,
        )
        return " ".join(capsys.readouterr().err.split())

    sets = re.findall(r"set ((?:[a-z][\w.]+=[^\s:]+ ?)+):", planned([]))
    assert len(sets) >= 2
    for keys in sets:
        assert re.search(r"fits\W+yes", planned(keys.split()))


def test_memory_that_features_would_take_is_advised_only_where_it_is_free(make_mvc: Make) -> None:
    shape = known_shape("Qwen/Qwen3-VL-8B-Instruct")
    data = default_size(shape, {"train": 200, "validation": 0})
    section = recipe(train={"cache_vision": False})
    (line,) = more_advice(section, shape, data)
    changed = with_changes(section, stated_changes(line.partition(":")[0]))
    assert changed is not None
    assert keeps_features(shape, data, changed)
    stated_gb = changed.train.max_cache_gb
    assert more_advice(section, shape, data, free_gb=stated_gb) == [line]
    assert more_advice(section, shape, data, free_gb=stated_gb - 0.1) == []


def test_longer_pairs_are_not_advised_where_there_is_no_memory_for_them(make_mvc: Make) -> None:
    shape = known_shape("Qwen/Qwen3-VL-8B-Instruct")
    data = size_of_data(make_mvc(4, 1), "m", shape)
    (line,) = more_advice(recipe(max_length_tokens=64), shape, data, fits=False)
    assert "there is no memory for them" in line
    assert "raise it" not in line


def test_advice_uses_room_that_is_there() -> None:
    section = recipe(
        lora={},
        train={"precision": "bfloat16", "weights": "bfloat16", "checkpoint_activations": True},
        optim={"micro_batch_pairs": 1},
    )
    lines = advice(section, LLAVA, LENGTHS, budget_gb=80)
    assert any(
        line.startswith("train.checkpoint_activations=false fits too") and "saves" in line
        for line in lines
    )
    assert any(line.startswith("optim.micro_batch_pairs=2 fits too") for line in lines)


def test_changes_that_a_recipe_refuses_are_not_advised() -> None:
    assert with_changes(recipe(lora={}), {"train.freeze_vision": False}) is None
    changed = with_changes(recipe(), {"lora": {}})
    assert changed is not None
    assert changed.lora is not None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory:"
                " you tried to allocate 8 bytes."
            ),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_memory_is_taken_for_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_memory_that_runs_out_is_one_line_with_advice(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    plain = Policy.forward

    def forward(self: Policy, *arguments: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation."
            )
        return plain(self, *arguments)

    monkeypatch.setattr(Policy, "forward", forward)
    section = TrainSection.model_validate(
        {
            "model": str(vicuna_llava),
            "data": str(make_mvc(6, 2)),
            "out": str(out),
            "log": {"num_samples": 0},
        }
    )
    with pytest.raises(OutOfMemoryInTrainingError) as raised:
        fit(section, LocalEnv())
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(
        "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); by `svco plan` a worker"
        " needs about "
    )
    assert "set optim.micro_batch_pairs=" in message or "set train." in message
    assert raised.value.exit_code == 1
    assert not (out / "svco.json").exists()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["step"] == 0


def test_other_errors_stay_as_they_are(
    vicuna_llava: Path, make_mvc: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Policy, *arguments: Any) -> torch.Tensor:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Policy, "forward", forward)
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError, match="a fault of ours"):
        fit(
            TrainSection(
                model=str(vicuna_llava), data=str(make_mvc(4, 2)), out=str(tmp_path / "out")
            ),
            LocalEnv(),
        )
