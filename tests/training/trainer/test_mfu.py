"""MFU by hand, on a GPU that is only said to be there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.config import TrainSection
from training.data.pairs import PairReader
from training.data.vision_features import VisionFeatures
from training.estimate.flops import Flops
from training.models.vlm import Vlm, load_vlm
from training.runtime.environment import LocalEnv
from training.trainer import mfu
from training.trainer.mfu import mfu_per_pair
from training.trainer.scoring import Split


def run_of(model: Path, data: Path) -> tuple[TrainSection, Vlm, Split]:
    asked = TrainSection.model_validate({"model": str(model), "data": str(data), "out": "/o"})
    vlm = load_vlm(model)
    reader = PairReader(asked.data, "train", vlm)
    features = VisionFeatures(reader, vlm, LocalEnv(), frozen=True, max_cache_bytes=1e9)
    return asked, vlm, Split(reader, features, torch.empty(0))


def test_it_is_the_needed_work_over_what_the_gpus_could_do(
    vicuna_llava: Path, make_mvc: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, vlm, split = run_of(vicuna_llava, make_mvc(4, 0))
    assert mfu_per_pair(asked, vlm, split, "cpu", 1) is None

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "some GPU")
    monkeypatch.setattr(mfu, "peak_flops", lambda *_, **__: 1e9)
    monkeypatch.setattr(
        mfu,
        "train_flops_per_pair",
        lambda *_, **__: Flops(forward=1e6, backward=2e6, recompute=9e9, vision=1e6),
    )
    # 5 pairs a second of 4 million operations on two GPUs of a billion each.
    assert mfu_per_pair(asked, vlm, split, "cuda:0", 2) == 0.01 / 5
    monkeypatch.setattr(mfu, "peak_flops", lambda *_, **__: None)
    assert mfu_per_pair(asked, vlm, split, "cuda:0", 2) is None


def test_real_lengths_and_shapes_fit_together(
    vicuna_llava: Path, make_mvc: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, vlm, split = run_of(vicuna_llava, make_mvc(4, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    share = 1e6 * (mfu_per_pair(asked, vlm, split, "cuda:0", 1) or 0)
    tokens = float(split.reader.lengths.mean())
    weights = sum(
        p.numel() for name, p in vlm.model.named_parameters() if "language_model.layers" in name
    )
    # the linear layers alone, by an H100's peak in fp32
    at_least = 6 * weights * tokens * 1e6 / 67e12
    assert at_least < share < 3 * at_least
