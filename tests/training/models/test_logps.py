"""The packed pass against six separate ones, for each family: the same log-probabilities and the
same gradients.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.training.tiny_families import separate_logps
from training.models import logps
from training.models.attention import DENSE, SPLIT, set_attention
from training.models.families import parameters_of
from training.models.logps import logps_of_features, pair_logps, token_logps, vision_features
from training.models.packing import PairTokens, pack
from training.models.pair import short_pair
from training.models.vlm import Vlm, load_vlm, pixel_values
from training.objectives.terms import ALL_CELLS

TEXTS = [
    ("What is shown?", "A red circle on grey.", "A blue circle."),
    ("Describe the picture.", "A bar.", "Which shape do you see? A green cross on grey."),
    ("Which shape do you see in the picture?", "A yellow square on grey.", "A red square on grey."),
]
# every sequence counts differently
WEIGHTS_P32 = torch.linspace(-1, 1, len(TEXTS) * 6).view(-1, 3, 2)
Gradients = dict[str, Tensor]


def _noise(width: int, height: int, seed: int) -> Image.Image:
    pixels = torch.randint(
        256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return Image.fromarray(pixels.numpy())


IMAGES_A = [_noise(60, 90, 1), _noise(120, 70, 2), _noise(64, 64, 3)]
IMAGES_B = [_noise(60, 90, 4), _noise(64, 64, 5), _noise(90, 60, 6)]


@dataclass(frozen=True)
class Case:
    """A model, three pairs of unlike lengths and image sizes, and what six separate passes say of
    each.
    """

    vlm: Vlm
    pairs: list[PairTokens]
    expected_P32: Tensor
    gradients: Gradients

    def logps(self, pairs: slice = slice(None), **options: Any) -> Tensor:
        pixels_a, pixels_b = (
            pixel_values(self.vlm, images[pairs]) for images in (IMAGES_A, IMAGES_B)
        )
        return pair_logps(
            self.vlm.model,
            pack(self.pairs[pairs], self.vlm.image_token_id, **options),
            pixels_a,
            pixels_b,
        )


@pytest.fixture(scope="module")
def case(tiny_model: Path) -> Case:
    vlm = load_vlm(tiny_model)
    # what stands between "ASSISTANT:" and an answer
    follow = " " if vlm.family == "llava-llama" else ""
    texts = [(question, follow + a, follow + b) for question, a, b in TEXTS]
    expected_P32 = separate_logps(vlm, texts, IMAGES_A, IMAGES_B)
    gradients = _gradients(vlm.model, (expected_P32 * WEIGHTS_P32).sum())
    sizes = [(a.size, b.size) for a, b in zip(IMAGES_A, IMAGES_B, strict=True)]
    pairs = [
        short_pair(vlm, text, size).tokens(vlm, f"pair{i}")
        for i, (text, size) in enumerate(zip(TEXTS, sizes, strict=True))
    ]
    return Case(vlm, pairs, expected_P32.detach(), gradients)


def _gradients(model: Any, loss: Tensor) -> Gradients:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _assert_equal(ours: Gradients, expected: Gradients, tolerance: float = 2e-6) -> None:
    assert ours.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    # some, such as those of key biases, are zero but for rounding
    for name, gradient in expected.items():
        error = (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-3 * largest)
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [DENSE, SPLIT])
def test_a_packed_row_equals_separate_passes_in_value_and_in_every_gradient(
    case: Case, kernel: str
) -> None:
    set_attention(case.vlm.model, kernel)
    ours_P32 = case.logps()
    set_attention(case.vlm.model, SPLIT)
    torch.testing.assert_close(ours_P32, case.expected_P32, rtol=1e-6, atol=1.5e-5)
    _assert_equal(_gradients(case.vlm.model, (ours_P32 * WEIGHTS_P32).sum()), case.gradients)


def test_recomputing_activations_changes_no_gradient(case: Case) -> None:
    model = case.vlm.model
    model.gradient_checkpointing_enable()
    model.train()  # transformers checkpoints in training mode only
    try:
        _assert_equal(_gradients(model, (case.logps() * WEIGHTS_P32).sum()), case.gradients)
    finally:
        model.gradient_checkpointing_disable()
        model.eval()


@pytest.mark.parametrize(
    "cells", [{(0, 0), (0, 1)}, {(0, 0), (1, 1)}, {(0, 0), (0, 1), (1, 0)}, {(2, 0)}]
)
def test_cells_that_are_not_needed_are_nan_and_the_others_as_ever(
    case: Case, cells: set[tuple[int, int]]
) -> None:
    with torch.no_grad():
        ours_P32 = case.logps(cells=cells)
    for condition, response in ALL_CELLS:
        expected_P = (
            case.expected_P32[:, condition, response]
            if (condition, response) in cells
            else torch.full((3,), torch.nan)
        )
        torch.testing.assert_close(
            ours_P32[:, condition, response], expected_P, rtol=1e-6, atol=1.5e-5, equal_nan=True
        )


def test_the_gradient_of_needed_cells_is_a_number(case: Case) -> None:
    ours_P32 = case.logps(cells={(0, 0), (0, 1)})
    ours = _gradients(case.vlm.model, (ours_P32[:, 0] * WEIGHTS_P32[:, 0]).sum())
    _assert_equal(ours, _gradients(case.vlm.model, (case.logps()[:, 0] * WEIGHTS_P32[:, 0]).sum()))


def test_the_company_of_other_pairs_never_changes_a_logp(case: Case) -> None:
    with torch.no_grad():
        alone_P32 = torch.cat([case.logps(slice(i, i + 1)) for i in range(len(TEXTS))])
    torch.testing.assert_close(alone_P32, case.expected_P32, rtol=1e-6, atol=1.5e-5)


def test_each_image_reaches_its_own_condition(case: Case) -> None:
    packed, pixels_a = (
        pack(case.pairs[:1], case.vlm.image_token_id),
        pixel_values(case.vlm, IMAGES_A[:1]),
    )
    other = [image.flip(0) for image in pixel_values(case.vlm, IMAGES_B[:1])]
    with torch.no_grad():
        after_P32 = pair_logps(case.vlm.model, packed, list(pixels_a), other)
    changed = (case.expected_P32[:1] - after_P32).abs()[0] > 1e-4
    assert changed.tolist() == [[False, False], [True, True], [False, False]]


def test_features_made_once_give_the_same_numbers(case: Case) -> None:
    packed = pack(case.pairs, case.vlm.image_token_id)
    with torch.no_grad():
        features = [
            vision_features(case.vlm.model, pixel_values(case.vlm, images))
            for images in (IMAGES_A, IMAGES_B)
        ]
        cached_P32 = logps_of_features(case.vlm.model, packed, *features)
    torch.testing.assert_close(cached_P32, case.expected_P32, rtol=1e-6, atol=1.5e-5)


@pytest.mark.parametrize("kernel", [DENSE, SPLIT])
def test_half_precision_comes_near(case: Case, kernel: str) -> None:
    set_attention(case.vlm.model, kernel)
    with torch.autocast("cpu", torch.bfloat16):
        ours_P32 = case.logps()
    set_attention(case.vlm.model, SPLIT)
    assert ours_P32.dtype == torch.float32
    torch.testing.assert_close(ours_P32, case.expected_P32, rtol=1e-2, atol=1e-2)
    gradients = _gradients(case.vlm.model, (ours_P32 * WEIGHTS_P32).sum())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_kernel_that_would_misread_the_mask_is_refused(case: Case) -> None:
    case.vlm.model.set_attn_implementation("eager")
    try:
        with pytest.raises(ValueError, match="'sdpa', got 'eager'"):
            case.logps()
    finally:
        set_attention(case.vlm.model, SPLIT)


def test_features_that_do_not_fit_the_placeholders_are_refused_by_pair(case: Case) -> None:
    packed = pack(case.pairs[:1], case.vlm.image_token_id)
    num_tokens = packed.images[0].num_tokens
    with pytest.raises(
        ValueError,
        match=f"pair pair0, image b: expected features of {num_tokens} placeholders, got 3",
    ):
        logps_of_features(
            case.vlm.model, packed, torch.zeros(1, num_tokens, 16), torch.zeros(1, 3, 16)
        )
    with pytest.raises(ValueError, match="image b: expected features of 1 pairs, got none"):
        logps_of_features(case.vlm.model, packed, torch.zeros(1, num_tokens, 16), None)


def test_many_logits_are_made_again_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    head, states_TH = (
        torch.nn.Linear(4, 11, bias=False),
        torch.randn(7, 4, generator=generator, requires_grad=True),
    )
    targets_T, weights_T = torch.arange(7), torch.linspace(-1, 1, 7)
    whole_T = token_logps(head, states_TH, targets_T)
    monkeypatch.setattr(logps, "MAX_LOGITS", 2 * 11)  # two rows at a time
    parts_T = token_logps(head, states_TH, targets_T)
    torch.testing.assert_close(parts_T, whole_T)
    wanted = [states_TH, head.weight]
    for ours, expected in zip(
        *(torch.autograd.grad((logp_T * weights_T).sum(), wanted) for logp_T in (parts_T, whole_T)),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)


def test_adapters_of_peft_get_the_gradients_and_start_as_nothing(tiny_qwen3_vl: Path) -> None:
    from peft import LoraConfig, get_peft_model

    vlm = load_vlm(tiny_qwen3_vl)
    pairs = [short_pair(vlm, TEXTS[0], (IMAGES_A[0].size, IMAGES_B[0].size)).tokens(vlm)]
    packed, pixels_a, pixels_b = (
        pack(pairs, vlm.image_token_id),
        pixel_values(vlm, IMAGES_A[:1]),
        pixel_values(vlm, IMAGES_B[:1]),
    )
    with torch.no_grad():
        before_P32 = pair_logps(vlm.model, packed, pixels_a, pixels_b)
    wrapped = get_peft_model(
        vlm.model, LoraConfig(target_modules=r".*language_model\.layers\..*\.(q_proj|v_proj)", r=2)
    )
    after_P32 = pair_logps(wrapped, packed, pixels_a, pixels_b)
    torch.testing.assert_close(after_P32, before_P32)
    gradients = _gradients(wrapped, after_P32.sum())
    assert gradients
    assert all("lora_" in name for name in gradients)
    assert {id(p) for p in wrapped.parameters() if p.requires_grad} <= {
        id(p) for p in parameters_of(wrapped, "language model")
    }
