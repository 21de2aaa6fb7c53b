"""The plan's numbers against what torch counts and what real models hold, and by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.config import TrainSection
from training.data.pairs import PairReader
from training.data.vision_features import freeze_unseen
from training.estimate import known_models
from training.estimate.flops import (
    PairLengths,
    attention_flops,
    forward_flops,
    lengths_of_row,
    train_flops_per_pair,
    vision_flops,
)
from training.estimate.gpus import find_gpu, peak_flops
from training.estimate.known_models import find_shape, known_shape
from training.estimate.memory import (
    NF4_BYTES,
    activation_bytes,
    layer_bytes_per_token,
    memory_of,
    weight_bytes,
)
from training.estimate.model_shape import ModelShape, ShapeError, shape_of_config
from training.estimate.policy_size import policy_size
from training.objectives.terms import ALL_CELLS
from training.trainer.optimizer import adamw
from training.trainer.policy import build_policy, part_of

Make = Callable[..., Path]


def recipe(model: Path | str = "m", **changes: Any) -> TrainSection:
    return TrainSection.model_validate({"model": str(model), "data": "d", "out": "o", **changes})


def shape_of(model: Any) -> ModelShape:
    return shape_of_config(json.loads(model.config.to_json_string(use_diff=False)))


LENGTHS = PairLengths((576 + 40, 576 + 40, 40), (40, 40), (576, 576))  # of the paper's LLaVA-1.5


def test_tokens_of_a_pair_are_those_of_its_packed_row() -> None:
    assert LENGTHS.num_tokens() == 2 * (616 + 80) + 120 == 1512
    assert LENGTHS.num_scored() == 240
    assert LENGTHS.num_tokens(frozenset({(0, 0), (0, 1)})) == 616 + 80
    assert LENGTHS.num_tokens(frozenset({(2, 0)})) == 80


def test_flops_of_llava_by_hand() -> None:
    text = known_shape("llava-hf/llava-1.5-7b-hf").text
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    attention = 4 * 32 * 4096 * (2 * (616**2 / 2 + 80 * 696) + (40**2 / 2 + 80 * 120))
    assert attention_flops(text, LENGTHS, ALL_CELLS) == attention
    projector = 2 * 1152 * (1024 * 4096 + 4096**2)
    head = 240 * 2 * 4096 * 32064
    forward = 2 * 1512 * matrices + attention + head + projector
    assert forward_flops(known_shape("llava-hf/llava-1.5-7b-hf"), LENGTHS, ALL_CELLS) == forward
    flops = train_flops_per_pair(known_shape("llava-hf/llava-1.5-7b-hf"), LENGTHS, recipe())
    assert (flops.forward, flops.recompute, flops.vision) == (forward, 0, 0)
    assert flops.total == pytest.approx(3 * forward, rel=0.01)
    assert 55e12 < flops.total < 65e12  # TFLOP per pair


def test_a_tower_that_is_not_cached_runs_for_each_image_and_thrice_if_it_is_trained() -> None:
    shape = known_shape("llava-hf/llava-1.5-7b-hf")
    image = vision_flops(shape.vision, 576)
    assert (
        image
        == 2 * 577 * (24 * (4 * 1024**2 + 2 * 1024 * 4096) + 3 * 14**2 * 1024)
        + 4 * 1024 * 24 * 577**2
    )
    assert train_flops_per_pair(shape, LENGTHS, recipe(), cached=False).vision == 2 * image
    assert (
        train_flops_per_pair(shape, LENGTHS, recipe(train={"freeze_vision": False})).vision
        == 6 * image
    )
    # DPO looks at image a alone.
    assert (
        train_flops_per_pair(shape, LENGTHS, recipe(objective={"name": "dpo"}), cached=False).vision
        == image
    )


RECIPES: dict[str, dict[str, Any]] = {
    "full": {},
    "full, recomputed": {"train": {"checkpoint_activations": True}},
    "lora": {"lora": {"rank": 4}},
    "lora alone, some layers": {
        "lora": {"rank": 4, "targets": "(q|v)_proj"},
        "train": {"train_projector": False},
    },
    "bf16": {"train": {"precision": "bfloat16"}},
    "lora, bf16 weights": {
        "lora": {"rank": 4},
        "train": {"precision": "bfloat16", "weights": "bfloat16"},
    },
    "one side": {"objective": {"name": "dpo"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("ignore")
def test_flops_and_activations_are_those_of_the_real_pass(
    name: str, tiny_llava: Path, make_mvc: Make
) -> None:
    section = recipe(tiny_llava, **RECIPES[name])
    trained = build_policy(section, "cpu", 1)
    reader = PairReader(make_mvc(4, 0), "train", trained.vlm)
    cells, shape = section.objective.cells, shape_of(trained.vlm.model)
    packed = reader.packed(range(4), cells)
    features = list(torch.randn(8, 4, shape.feature_width))
    kept, low = {}, section.train.precision == "bfloat16"

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # the tensor too, or its place would be given to another
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    watched = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with (
        FlopCounterMode(display=False) as forward,
        watched,
        torch.autocast("cpu", torch.bfloat16, enabled=low),
    ):
        table = trained.policy(packed, features[:4], features[4:])
        total = table[~table.isnan()].sum()
    with (
        FlopCounterMode(display=False) as backward,
        torch.autocast("cpu", torch.bfloat16, enabled=low),
    ):
        total.backward()

    expected = [
        train_flops_per_pair(shape, _lengths(reader, pair), section, causal=1.0)
        for pair in range(4)
    ]
    assert forward.get_total_flops() == pytest.approx(
        sum(flops.forward for flops in expected), rel=0.02
    )
    assert backward.get_total_flops() == pytest.approx(
        sum(flops.backward + flops.recompute for flops in expected), rel=0.05
    )
    # where the layer at work is seen in the backward pass only
    if not section.train.checkpoint_activations:
        weights = {p.untyped_storage().data_ptr() for p in trained.vlm.model.parameters()}
        softmax = 4 * len(packed.targets_T) * shape.text.vocab
        copies = (
            2
            * sum(
                p.numel()
                for p in trained.vlm.model.parameters()
                if p.ndim == 2 and p.dtype == torch.float32
            )
            if low
            else 0
        )
        held = (
            sum(
                tensor.untyped_storage().nbytes()
                for place, tensor in kept.items()
                if place not in weights
            )
            - softmax
        )
        predicted = sum(
            activation_bytes(shape, _lengths(reader, pair), section) for pair in range(4)
        )
        # Per token exact to the operation; the row's own indices, masks and norms' scales weigh
        # more at this width of 32.
        assert held - copies < 1.35 * predicted
        assert held > 0.85 * predicted


def _lengths(reader: PairReader, pair: int) -> PairLengths:
    packed = reader.packed([pair])
    prompts = tuple(float(group.prompt) for group in packed.groups)
    a, b = packed.num_tokens_P2[0].tolist()
    return PairLengths(
        (prompts[0], prompts[1], prompts[2]),
        (a, b),
        (packed.images[0].num_tokens, packed.images[1].num_tokens),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora": {"rank": 4}},
        {"lora": {"rank": 3}, "train": {"weights": "bfloat16", "precision": "bfloat16"}},
        {"train": {"freeze_vision": False, "train_projector": False}},
    ],
    ids=str,
)
def test_weights_gradients_and_optimiser_are_exact(
    changes: dict[str, Any], tiny_llava: Path
) -> None:
    section = recipe(tiny_llava, **changes)
    trained = build_policy(section, "cpu", 1)
    shape = shape_of(trained.vlm.model)
    memory = memory_of(shape, LENGTHS, section, gpu=False)
    assert (
        weight_bytes(policy_size(shape, section), section)
        == sum(p.nbytes for p in trained.policy.parameters())
        == memory["weights"]
    )
    optimizer = adamw(trained.parameters, section.optim)
    for parameter in trained.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert memory["gradients"] == sum(parameter.grad.nbytes for parameter in trained.parameters)
    states = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    assert memory["optimiser"] == sum(value.nbytes for value in states)


def test_sharding_divides_what_is_trained_and_leaves_the_tower_whole() -> None:
    shape = known_shape("llava-hf/llava-1.5-7b-hf")
    one = memory_of(shape, LENGTHS, recipe(), gpu=False)
    eight = memory_of(shape, LENGTHS, recipe(workers={"num_workers": 8, "shard": True}), gpu=False)
    tower = 4 * shape.vision.num_parameters
    assert eight["weights"] == (one["weights"] - tower) / 8 + tower
    assert (eight["gradients"], eight["optimiser"]) == (one["gradients"] / 8, one["optimiser"] / 8)


def test_four_bits_hold_the_layers_of_the_language_model_alone() -> None:
    shape = known_shape("Qwen/Qwen3-VL-8B-Instruct")
    section = recipe(
        lora={"quantize": "nf4"},
        train={"weights": "bfloat16", "precision": "bfloat16", "train_projector": False},
    )
    size = policy_size(shape, section)
    layers = 36 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12288)
    assert size.quantized == layers
    expected = NF4_BYTES * layers + 2 * (shape.num_parameters - layers) + 4 * size.adapters
    assert weight_bytes(size, section) == expected


def test_recomputing_keeps_less_and_computes_more() -> None:
    shape = known_shape("llava-hf/llava-1.5-7b-hf")
    plain, recomputed = recipe(), recipe(train={"checkpoint_activations": True})
    assert (
        activation_bytes(shape, LENGTHS, recomputed) < activation_bytes(shape, LENGTHS, plain) / 10
    )
    assert (
        train_flops_per_pair(shape, LENGTHS, recomputed).useful
        == train_flops_per_pair(shape, LENGTHS, plain).total
    )


def test_more_in_a_layer_is_kept_of_more() -> None:
    full, adapters = (
        recipe(train={"precision": "bfloat16"}),
        recipe(lora={}, train={"precision": "bfloat16", "weights": "bfloat16"}),
    )
    small, large = (
        known_shape(name).text for name in ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf")
    )
    for section in (full, adapters):
        assert layer_bytes_per_token(small, section) < layer_bytes_per_token(large, section)


def test_parameters_of_a_saved_llava_are_counted_by_part(tiny_llava: Path) -> None:
    trained = build_policy(recipe(tiny_llava, train={"freeze_vision": False}), "cpu", 1)
    model = trained.vlm.model
    shape, _ = find_shape(str(tiny_llava), recipe().tiny)  # from config.json as saved
    counts = dict.fromkeys(("vision tower", "projector", "language model"), 0)
    for name, parameter in model.named_parameters():
        counts[part_of(model, name)] += parameter.numel()
    assert counts == {
        "vision tower": shape.vision.num_parameters,
        "projector": shape.num_projector_parameters,
        "language model": shape.text.num_parameters,
    }
    freeze_unseen(trained.vlm)
    moving = sum(
        p.numel()
        for name, p in model.named_parameters()
        if part_of(model, name) == "vision tower" and p.requires_grad
    )
    assert moving == shape.vision.num_parameters - shape.vision.num_unseen_parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", known_models.known_models())
def test_shapes_of_known_models_are_those_of_their_classes(name: str) -> None:
    shape = shape_of_config(known_models.known_models()[name]["config"])
    assert shape == known_shape(name)


def test_a_model_is_remembered_with_its_shape(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "known_models.json"
    file.write_text(known_models.KNOWN_FILE.read_text())
    monkeypatch.setattr(known_models, "KNOWN_FILE", file)
    known_models.known_models.cache_clear()
    known_models.remember("org/tiny", json.loads((tiny_llava / "config.json").read_text()))
    try:
        assert find_shape("org/tiny", recipe().tiny, hub=False) == (
            find_shape(str(tiny_llava), recipe().tiny)[0],
            "the table of published models",
        )
        assert len(known_models.known_models()) == 8
    finally:
        known_models.known_models.cache_clear()


def test_building_a_shape_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    find_shape("tiny", recipe().tiny)
    assert torch.equal(before, torch.get_rng_state())


def test_known_sizes() -> None:
    # The numbers that the Hub shows for these checkpoints.
    assert known_shape("llava-hf/llava-1.5-7b-hf").num_parameters == 7_063_427_072
    assert known_shape("Qwen/Qwen2.5-VL-7B-Instruct").num_parameters == 8_292_166_656
    assert known_shape("Qwen/Qwen3-VL-8B-Instruct").num_parameters == 8_767_123_696


def test_what_cannot_be_sized_says_why(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="model_type is 'bert', .* supported are llava .*qwen3_vl"):
        shape_of_config({"model_type": "bert"})
    with pytest.raises(ShapeError, match="does not make a model .*no-such-model"):
        shape_of_config({"model_type": "no-such-model"})
    with pytest.raises(ShapeError, match="does not make a model .*hidden_size"):
        shape_of_config({"model_type": "qwen3_vl", "text_config": {"hidden_size": "wide"}})
    with pytest.raises(ShapeError, match="model=org/unknown: no folder here, and not among"):
        find_shape("org/unknown", recipe().tiny, hub=False)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("h100", "H100"),
        ("A100-80GB", "A100-80"),
        ("a100", "A100-80"),
        ("NVIDIA L4", "L4"),
        ("rtx 4090", "RTX4090"),
    ],
)
def test_gpus_are_found_however_they_are_spelt(given: str, name: str) -> None:
    assert find_gpu(given)[0] == name


def test_an_unknown_gpu_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"--gpu 'H10': expected one of A100-40, .*; did you mean H100\?"
    ):
        find_gpu("H10")


def test_lengths_are_found_again_from_a_rows_total() -> None:
    assert lengths_of_row(LENGTHS.num_tokens(), LENGTHS.responses, LENGTHS.features) == LENGTHS


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_peaks_by_the_name_that_cuda_gives(device: str, tflops: float) -> None:
    assert peak_flops(device, low_precision=True) == tflops * 1e12
    assert peak_flops("Some Accelerator", low_precision=True) is None
