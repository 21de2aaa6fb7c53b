"""Every job that is asked for a GPU, with a Ray that pretends to have one: its plan is checked and
run by Ray up to where torch is to use the GPU, and what torch then says is one line.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.eval.benchmarks.native_benchmarks import SIZES, write
from tests.training.conftest import mvc_row, write_mvc
from tests.training.tiny_families import write_tiny_llava

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the jobs would run"),
]


def test_every_job_gets_as_far_as_cuda_and_says_so_in_one_line(
    one_ray: None, command_here: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    from eval.run_eval import run as evaluate
    from pipeline.build_mvc import run as build
    from training.make_reference import run as reference
    from training.train_svco import run as train

    rows = [mvc_row(index) for index in range(4)]
    data = write_mvc(tmp_path / "mvc", {"train": rows, "validation": rows[:2]})
    model = write_tiny_llava(tmp_path / "model", chatml=False)
    table = {"name": "mmvp", "source": str(write("mmvp", tmp_path / "mmvp"))}
    questions = json.dumps([{**table, "expected_size": SIZES["mmvp"]}])
    scenes = ["--recipe", "mvc_demo", "sources.0.num_pairs=8"]
    on_gpu = ["encoders.clip.device=cuda"]
    asked = {
        "embed": (build, [*scenes, *on_gpu, f"out={tmp_path / 'embed'}"]),
        # embedded on the CPU, so that the margins of its answers are what is left
        "margins": (build, [*scenes, *on_gpu, "verify={}", f"out={tmp_path / 'built'}"]),
    }
    jobs = {
        "reference": (reference, [f"data={data}"]),
        "features": (reference, [f"data={data}", "store_features=true"]),
        "train": (train, [f"data={data}"]),
        "pairs": (evaluate, [f"data={data}", "base=none"]),
        "answers": (evaluate, [f"benchmarks={questions}", "base=none"]),
    }
    for name, (command, settings) in jobs.items():
        for number in (1, 0):  # a Ray worker, and this process
            out = tmp_path / f"{name}-{number}"
            workers = ["workers.use_gpu=true", f"workers.num_workers={number}"]
            asked[out.name] = (command, [*settings, f"model={model}", f"out={out}", *workers])
    assert command_here(build, *scenes, f"out={tmp_path / 'built'}")[0] == 0
    for name, (command, settings) in asked.items():
        code, said = command_here(command, *settings)
        assert code == 2, (name, said)
        assert "error: a GPU is asked for, but torch cannot use one" in said.splitlines()[-1], name
        assert "Traceback" not in said
