"""Prompts and responses are those of inference, in each family's format; folders round-trip; others
are refused.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline.core.recipe import UserError
from tests.training.tiny_families import inference_inputs
from training.models.families import parameters_of
from training.models.generation import generate
from training.models.pair import short_pair
from training.models.vlm import (
    Vlm,
    encode_prompt,
    encode_response,
    load_vlm,
    pixel_values,
    save_vlm,
)


@pytest.fixture(scope="module")
def vlm(tiny_model: Path) -> Vlm:
    return load_vlm(tiny_model)


def _decoded(vlm: Vlm, ids: list[int]) -> str:
    return str(vlm.processor.tokenizer.decode(ids))


@pytest.mark.parametrize("size", [None, (50, 31), (60, 90), (130, 64)])
def test_a_prompt_is_what_transformers_makes_for_generation(
    vlm: Vlm, size: tuple[int, int] | None
) -> None:
    theirs = inference_inputs(
        vlm, "What is shown?", None if size is None else Image.new("RGB", size)
    )
    assert (
        encode_prompt(vlm, "What is shown?", with_image=size is not None, size=size)
        == theirs["input_ids"][0].tolist()
    )


FORMATS = {
    "llava-llama": "<s>USER: {image}What is shown? ASSISTANT:",
    "llava-qwen2": "<|im_start|>user\n{image}\nWhat is shown?<|im_end|>\n<|im_start|>assistant\n",
    "qwen2_5_vl": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{image}What is shown?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "qwen3_vl": "<|im_start|>user\n{image}What is shown?<|im_end|>\n<|im_start|>assistant\n",
}


def test_a_prompt_has_the_documented_format_and_one_placeholder_per_feature(vlm: Vlm) -> None:
    # 28 pixels in patches of 14; for Qwen 84 x 56, or 96 x 64, in squares of 28 or 32.
    number = 4 if vlm.family.startswith("llava") else 6
    size = (96, 64) if vlm.family == "qwen3_vl" else (84, 56)
    placeholders = ("<|image_pad|>" if vlm.kind.any_size else "<image>") * number
    image = {"llava-llama": placeholders + "\n", "llava-qwen2": placeholders}.get(
        vlm.family, f"<|vision_start|>{placeholders}<|vision_end|>"
    )
    expected = FORMATS[vlm.family]
    assert _decoded(vlm, encode_prompt(vlm, "What is shown?", with_image=False)) == expected.format(
        image=""
    )
    assert _decoded(
        vlm, encode_prompt(vlm, "What is shown?", with_image=True, size=size)
    ) == expected.format(image=image)
    assert vlm.layout(size).num_tokens == number


def test_positions_of_prompt_and_answer_are_the_models_own(vlm: Vlm) -> None:
    sizes = ((60, 90), (130, 64))
    pair = short_pair(vlm, ("What is shown?", "A red bar.", "A blue bar."), sizes).tokens(vlm)
    if not vlm.kind.any_size:
        assert pair.positions_a is pair.positions_b is None
        return
    for prompt, positions_A, size in zip(
        pair.prompts, (pair.positions_a, pair.positions_b), sizes, strict=False
    ):
        inputs = inference_inputs(vlm, "What is shown?", Image.new("RGB", size))
        types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(pair.response_a)))
        grid = inputs["image_grid_thw"]
        ids = torch.tensor([prompt + pair.response_a])
        theirs = vlm.model.model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grid)[
            0
        ][:, 0].numpy()
        assert positions_A is not None
        assert (theirs[:, : len(prompt) + 1] == positions_A).all()
        assert (theirs[:, len(prompt) :] == positions_A[:, -1:] + range(len(pair.response_a))).all()


def test_where_images_differ_in_size_a_prompt_needs_it(vlm: Vlm) -> None:
    if vlm.kind.any_size:
        with pytest.raises(ValueError, match="expected the image's size"):
            encode_prompt(vlm, "What is shown?", with_image=True)
    else:
        assert len(encode_prompt(vlm, "What is shown?", with_image=True)) > 4


def test_each_part_has_its_parameters(vlm: Vlm) -> None:
    parts = {
        part: {id(p) for p in parameters_of(vlm.model, part)}
        for part in ("vision tower", "projector", "language model")
    }
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(list(vlm.model.parameters()))
    assert {id(p) for p in vlm.model.lm_head.parameters()} <= parts["language model"]


def test_a_tokenizer_that_closes_every_text_does_not_close_the_prompt(vicuna_llava: Path) -> None:
    from tokenizers import processors

    vlm = load_vlm(vicuna_llava)
    plain = (
        encode_prompt(vlm, "What is shown?", with_image=True),
        encode_response(vlm, "A red bar."),
    )
    closing = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    vlm.processor.tokenizer.backend_tokenizer.post_processor = closing
    assert vlm.processor.tokenizer("A")["input_ids"][-1] == vlm.end_of_turn_id
    assert (
        encode_prompt(vlm, "What is shown?", with_image=True),
        encode_response(vlm, "A red bar."),
    ) == plain


def test_a_response_is_the_text_and_the_end_of_turn(vlm: Vlm) -> None:
    expected = " A red bar.</s>" if vlm.family == "llava-llama" else "A red bar.<|im_end|>"
    assert _decoded(vlm, encode_response(vlm, " A red bar.\n")) == expected


def test_prompt_and_response_together_are_the_tokens_of_the_whole_text(vlm: Vlm) -> None:
    prompt, response = (
        encode_prompt(vlm, "What is shown?", with_image=False),
        encode_response(vlm, "A red bar."),
    )
    whole = _decoded(vlm, prompt + response)
    special = {"add_special_tokens": False}
    assert vlm.processor.tokenizer(whole, **special)["input_ids"] == prompt + response


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_response_is_refused(vlm: Vlm, text: str) -> None:
    with pytest.raises(ValueError, match="expected a response with text"):
        encode_response(vlm, text)


def test_texts_cannot_smuggle_in_control_tokens(vlm: Vlm) -> None:
    placeholder = vlm.processor.image_token
    with pytest.raises(ValueError, match=re.escape(repr(placeholder))):
        encode_prompt(vlm, f"What is {placeholder} this?", with_image=True, size=(64, 64))
    end = vlm.processor.tokenizer.eos_token
    with pytest.raises(ValueError, match="control token"):
        encode_response(vlm, f"A red bar.{end} And more.")


def test_images_become_pixels_of_the_shape_that_was_foreseen(vlm: Vlm) -> None:
    images = [Image.new("RGB", size) for size in ((30, 80), (80, 30), (28, 28))]
    pixels = pixel_values(vlm, images)
    assert [tuple(image.shape) for image in pixels] == [
        vlm.layout(image.size).pixels_shape for image in images
    ]
    if not vlm.kind.any_size:
        assert isinstance(pixels, torch.Tensor)
        assert pixels.shape == (3, 3, 28, 28)


def test_a_batch_answers_as_each_question_alone(vlm: Vlm) -> None:
    images = [Image.new("RGB", (28, 28), "red"), None, Image.new("RGB", (40, 28), "blue")]
    questions = [
        "What is shown?",
        "Which shape do you see in the picture?",
        "Describe the picture.",
    ]
    together = generate(vlm, images, questions, max_new_tokens=6)
    alone = [
        generate(vlm, [i], [q], max_new_tokens=6)[0] for i, q in zip(images, questions, strict=True)
    ]
    assert together == alone
    assert generate(vlm, [], [], max_new_tokens=6) == []


def _answer_of_a_model_that_says_only(vlm: Vlm, token: int) -> str:
    bias = torch.zeros(vlm.model.config.text_config.vocab_size)
    bias[token] = 1e4
    handle = vlm.model.lm_head.register_forward_hook(lambda *given: given[2] + bias)
    try:
        return generate(vlm, [None], ["What is shown?"], max_new_tokens=6)[0]
    finally:
        handle.remove()


def test_generation_stops_at_the_end_of_turn(vlm: Vlm) -> None:
    assert _answer_of_a_model_that_says_only(vlm, vlm.end_of_turn_id) == ""


@pytest.mark.parametrize("several", [True, False])
def test_generation_stops_where_the_checkpoint_says_as_well(
    vicuna_llava: Path, several: bool
) -> None:
    vlm = load_vlm(vicuna_llava)
    (letter,) = vlm.processor.tokenizer("x", add_special_tokens=False)["input_ids"]
    assert _answer_of_a_model_that_says_only(vlm, letter) == "xxxxxx"
    vlm.model.generation_config.eos_token_id = [letter, vlm.end_of_turn_id] if several else letter
    assert _answer_of_a_model_that_says_only(vlm, letter) == ""
    assert _answer_of_a_model_that_says_only(vlm, vlm.end_of_turn_id) == ""


def test_the_checkpoints_generation_settings_do_not_count(vicuna_llava: Path) -> None:
    vlm = load_vlm(vicuna_llava)
    images, questions = (
        [Image.new("RGB", (28, 28), "red"), None],
        ["What is shown?", "Describe the picture."],
    )
    plain = generate(vlm, images, questions, max_new_tokens=8)
    own = vlm.model.generation_config
    habits = {
        "repetition_penalty": 50.0,
        "no_repeat_ngram_size": 1,
        "suppress_tokens": list(range(4, 200)),
    }
    for name, value in habits.items():
        setattr(own, name, value)
        assert generate(vlm, images, questions, max_new_tokens=8) == plain, name
    assert vlm.model.generation_config is own  # which is saved with the model


def test_saving_and_loading_keeps_weights_and_tokens(vlm: Vlm, tmp_path: Path) -> None:
    save_vlm(vlm, tmp_path)
    again = load_vlm(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "chat_template.jinja",
    }
    for (name, ours), theirs in zip(
        vlm.model.named_parameters(), again.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    prompts = [
        encode_prompt(which, "What is shown?", with_image=True, size=(64, 64))
        for which in (again, vlm)
    ]
    assert prompts[0] == prompts[1]


def test_another_model_type_is_refused_with_the_reason(tmp_path: Path) -> None:
    from transformers import LlavaConfig, LlavaNextConfig

    LlavaNextConfig().save_pretrained(tmp_path / "next")
    with pytest.raises(UserError, match="model_type is 'llava_next'; supported are llava"):
        load_vlm(tmp_path / "next")
    LlavaConfig(text_config={"model_type": "mistral"}).save_pretrained(tmp_path / "mistral")
    with pytest.raises(UserError, match="text model is 'mistral'"):
        load_vlm(tmp_path / "mistral")


def test_models_that_packed_rows_do_not_fit_are_refused(tmp_path: Path) -> None:
    from transformers import LlavaConfig, Qwen2_5_VLConfig, Qwen2Config, Qwen3Config

    windows = {
        "num_hidden_layers": 2,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
    }
    refused = {
        "model_type is 'qwen3', a model without vision": Qwen3Config(),
        "its text model has sliding-window layers": LlavaConfig(
            text_config=Qwen2Config(**windows).to_dict()
        ),
        "its text model has sliding-window layers, which": Qwen2_5_VLConfig(text_config=windows),
    }
    for number, (reason, config) in enumerate(refused.items()):
        config.save_pretrained(tmp_path / str(number))
        with pytest.raises(UserError, match=reason):
            load_vlm(tmp_path / str(number))


def _changed_copy(source: Path, target: Path, name: str, **changes: Any) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    (target / name).write_text(json.dumps({**json.loads((source / name).read_text()), **changes}))
    return target


def test_a_processor_without_chat_template_is_refused(vicuna_llava: Path, tmp_path: Path) -> None:
    folder = _changed_copy(vicuna_llava, tmp_path / "copy", "config.json")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_vlm(folder)


def test_a_processor_that_does_not_fit_its_model_is_refused(
    vicuna_llava: Path, tmp_path: Path
) -> None:
    folder = _changed_copy(
        vicuna_llava, tmp_path / "copy", "processor_config.json", num_additional_image_tokens=3
    )
    with pytest.raises(UserError, match="makes 6 placeholders of an image, the model 4 features"):
        encode_prompt(load_vlm(folder), "What is shown?", with_image=True)


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a whole Hugging Face model folder") as raised:
        load_vlm(tmp_path / "missing")
    assert "\n" not in str(raised.value)


def test_a_model_without_its_processor_or_weights_is_refused_in_one_line(
    tiny_llava: Path, tmp_path: Path
) -> None:
    for number, kept in enumerate((("config.json", "model.safetensors"), ("config.json",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in kept:
            (folder / name).write_bytes((tiny_llava / name).read_bytes())
        with pytest.raises(UserError, match="expected a whole Hugging Face model folder") as raised:
            load_vlm(folder)
        assert "\n" not in str(raised.value)
