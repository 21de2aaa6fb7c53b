"""The packed pass against six separate ones: the same log-probabilities and the same gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training.logps import logps_of_features, pair_logps, vision_features
from training.packing import PairTokens, pack
from training.vlm import Vlm, encode_prompt, encode_response, load_vlm

Oracle = Callable[..., Any]
TEXTS = [
    ("What is shown?", "A red circle on grey.", "A blue circle."),
    ("Describe the picture.", "A bar.", "Which shape do you see? A green cross on grey."),
    ("Which shape do you see in the picture?", "A yellow square on grey.", "A red square on grey."),
]


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> Vlm:
    return load_vlm(tiny_llava)


def _pairs(vlm: Vlm) -> list[PairTokens]:
    return [
        PairTokens(
            encode_prompt(vlm, question, with_image=True), encode_prompt(vlm, question, with_image=False),
            encode_response(vlm, a), encode_response(vlm, b),
        )
        for question, a, b in TEXTS
    ]  # fmt: skip


def _pixels(num_images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, num_images, 3, 28, 28, generator=generator).unbind()


def _gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_rows_equal_six_separate_passes_in_value_and_in_every_gradient(vlm: Vlm, plain_logps: Oracle) -> None:
    pairs, (pixels_a, pixels_b) = _pairs(vlm), _pixels(len(TEXTS))
    weights_P32 = torch.linspace(-1, 1, len(TEXTS) * 6).view(-1, 3, 2)  # every sequence counts differently
    ours_P32 = pair_logps(vlm.model, pack(pairs, vlm.image_token_id), pixels_a, pixels_b)
    plain_P32 = plain_logps(vlm.model, pairs, vlm.image_token_id, pixels_a, pixels_b)
    torch.testing.assert_close(ours_P32, plain_P32, rtol=1e-6, atol=1e-5)

    ours = _gradients(vlm.model, (ours_P32 * weights_P32).sum())
    plain = _gradients(vlm.model, (plain_P32 * weights_P32).sum())
    assert ours.keys() == plain.keys()
    largest = max(gradient.norm() for gradient in plain.values())
    for name, gradient in plain.items():  # some, such as those of key biases, are zero but for rounding
        error = (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-3 * largest)
        assert error < 2e-6, f"{name}: {error:.1e}"


def test_padding_never_changes_a_logp(vlm: Vlm) -> None:
    pairs, (pixels_a, pixels_b) = _pairs(vlm), _pixels(len(TEXTS))
    with torch.no_grad():
        together_P32 = pair_logps(vlm.model, pack(pairs, vlm.image_token_id), pixels_a, pixels_b)
        alone_P32 = torch.cat(
            [
                pair_logps(vlm.model, pack([pair], vlm.image_token_id), pixels_a[i : i + 1], pixels_b[i : i + 1])
                for i, pair in enumerate(pairs)
            ]
        )
    torch.testing.assert_close(together_P32, alone_P32, rtol=1e-6, atol=1e-5)


def test_each_image_reaches_its_own_condition(vlm: Vlm) -> None:
    pairs, (pixels_a, pixels_b) = _pairs(vlm)[:1], _pixels(1)
    packed = pack(pairs, vlm.image_token_id)
    with torch.no_grad():
        before_P32 = pair_logps(vlm.model, packed, pixels_a, pixels_b)
        after_P32 = pair_logps(vlm.model, packed, pixels_a, pixels_b * 2)
    changed = (before_P32 - after_P32).abs()[0] > 1e-6
    assert changed.tolist() == [[False, False], [True, True], [False, False]]


def test_features_made_once_give_the_same_numbers(vlm: Vlm) -> None:
    packed, (pixels_a, pixels_b) = pack(_pairs(vlm), vlm.image_token_id), _pixels(len(TEXTS))
    with torch.no_grad():
        features_a, features_b = vision_features(vlm.model, pixels_a), vision_features(vlm.model, pixels_b)
        cached_P32 = logps_of_features(vlm.model, packed, features_a, features_b)
        direct_P32 = pair_logps(vlm.model, packed, pixels_a, pixels_b)
    torch.testing.assert_close(cached_P32, direct_P32, rtol=1e-6, atol=1e-5)


def test_a_kernel_that_would_misread_the_mask_is_refused(vlm: Vlm) -> None:
    pixels_a, pixels_b = _pixels(1)
    vlm.model.set_attn_implementation("eager")
    try:
        with pytest.raises(ValueError, match="sdpa"):
            pair_logps(vlm.model, pack(_pairs(vlm)[:1], vlm.image_token_id), pixels_a, pixels_b)
    finally:
        vlm.model.set_attn_implementation("sdpa")


def test_features_that_do_not_fit_the_placeholders_are_refused(vlm: Vlm) -> None:
    packed = pack(_pairs(vlm)[:1], vlm.image_token_id)
    with pytest.raises(ValueError, match="image a: expected features"):
        logps_of_features(vlm.model, packed, torch.zeros(1, 3, 16), torch.zeros(1, 4, 16))
