"""Prompts and responses are those of inference, in both prompt formats; folders round-trip; others are refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from training.vlm import ModelError, Vlm, encode_prompt, encode_response, generate, load_vlm, pixel_values, save_vlm


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> Vlm:
    return load_vlm(tiny_llava)


def _decoded(vlm: Vlm, ids: list[int]) -> str:
    return str(vlm.processor.tokenizer.decode(ids))


def test_a_prompt_is_what_transformers_makes_for_generation(vlm: Vlm) -> None:
    item = {"type": "image", "image": Image.new("RGB", (50, 31))}
    for with_image in (True, False):
        content = [*([item] if with_image else []), {"type": "text", "text": "What is shown?"}]
        theirs = vlm.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"][0]
        assert encode_prompt(vlm, "What is shown?", with_image=with_image) == list(theirs)


def test_a_prompt_without_an_image_is_the_text_alone(vlm: Vlm) -> None:
    expected = {
        "llava-llama": "<s>USER: What is shown? ASSISTANT:",
        "llava-qwen2": "<|im_start|>user\n\nWhat is shown?<|im_end|>\n<|im_start|>assistant\n",
    }
    assert _decoded(vlm, encode_prompt(vlm, "What is shown?", with_image=False)) == expected[vlm.family]


def test_a_prompt_with_an_image_has_one_placeholder_per_feature(vlm: Vlm) -> None:
    ids = encode_prompt(vlm, "What is shown?", with_image=True)
    assert ids.count(vlm.image_token_id) == vlm.num_image_tokens == 4  # 28 pixels in patches of 14


def test_a_tokenizer_that_closes_every_text_does_not_close_the_prompt(vicuna_llava: Path) -> None:
    from tokenizers import processors

    vlm = load_vlm(vicuna_llava)
    plain = encode_prompt(vlm, "What is shown?", with_image=True), encode_response(vlm, "A red bar.")
    closing = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    vlm.processor.tokenizer.backend_tokenizer.post_processor = closing
    assert vlm.processor.tokenizer("A")["input_ids"][-1] == vlm.end_of_turn_id
    assert (encode_prompt(vlm, "What is shown?", with_image=True), encode_response(vlm, "A red bar.")) == plain


def test_a_response_is_the_text_and_the_end_of_turn(vlm: Vlm) -> None:
    expected = {"llava-llama": " A red bar.</s>", "llava-qwen2": "A red bar.<|im_end|>"}
    assert _decoded(vlm, encode_response(vlm, " A red bar.\n")) == expected[vlm.family]


def test_prompt_and_response_together_are_the_tokens_of_the_whole_text(vlm: Vlm) -> None:
    prompt, response = encode_prompt(vlm, "What is shown?", with_image=False), encode_response(vlm, "A red bar.")
    whole = _decoded(vlm, prompt + response)
    special = {"add_special_tokens": False}
    assert vlm.processor.tokenizer(whole, **special)["input_ids"] == prompt + response


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_response_is_refused(vlm: Vlm, text: str) -> None:
    with pytest.raises(ValueError, match="expected a response with text"):
        encode_response(vlm, text)


def test_texts_cannot_smuggle_in_control_tokens(vlm: Vlm) -> None:
    with pytest.raises(ValueError, match="'<image>'"):
        encode_prompt(vlm, "What is <image> this?", with_image=True)
    end = vlm.processor.tokenizer.eos_token
    with pytest.raises(ValueError, match="control token"):
        encode_response(vlm, f"A red bar.{end} And more.")


def test_images_of_any_size_become_pixels_of_one_size(vlm: Vlm) -> None:
    images = [Image.new("RGB", size) for size in ((10, 80), (80, 10), (28, 28))]
    assert pixel_values(vlm, images).shape == (3, 3, 28, 28)


def test_a_batch_answers_as_each_question_alone(vlm: Vlm) -> None:
    images = [Image.new("RGB", (28, 28), "red"), None, Image.new("RGB", (40, 28), "blue")]
    questions = ["What is shown?", "Which shape do you see in the picture?", "Describe the picture."]
    together = generate(vlm, images, questions, max_new_tokens=6)
    alone = [generate(vlm, [i], [q], max_new_tokens=6)[0] for i, q in zip(images, questions, strict=True)]
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
def test_generation_stops_where_the_checkpoint_says_as_well(tiny_llava: Path, several: bool) -> None:
    vlm = load_vlm(tiny_llava)
    (letter,) = vlm.processor.tokenizer("x", add_special_tokens=False)["input_ids"]
    assert _answer_of_a_model_that_says_only(vlm, letter) == "xxxxxx"
    vlm.model.generation_config.eos_token_id = [letter, vlm.end_of_turn_id] if several else letter
    assert _answer_of_a_model_that_says_only(vlm, letter) == ""
    assert _answer_of_a_model_that_says_only(vlm, vlm.end_of_turn_id) == ""


def test_the_checkpoints_generation_settings_do_not_count(vicuna_llava: Path) -> None:
    vlm = load_vlm(vicuna_llava)
    images, questions = [Image.new("RGB", (28, 28), "red"), None], ["What is shown?", "Describe the picture."]
    plain = generate(vlm, images, questions, max_new_tokens=8)
    own = vlm.model.generation_config
    habits = {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1, "suppress_tokens": list(range(4, 200))}
    for name, value in habits.items():
        setattr(own, name, value)
        assert generate(vlm, images, questions, max_new_tokens=8) == plain, name
    assert vlm.model.generation_config is own  # which is saved with the model


def test_saving_and_loading_keeps_weights_and_tokens(vlm: Vlm, tmp_path: Path) -> None:
    save_vlm(vlm, tmp_path)
    again = load_vlm(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "chat_template.jinja"}
    for (name, ours), theirs in zip(vlm.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert encode_prompt(again, "What is shown?", with_image=True) == encode_prompt(vlm, "What is shown?", with_image=True)


def test_another_model_type_is_refused_with_the_reason(tmp_path: Path) -> None:
    from transformers import LlavaConfig, LlavaNextConfig

    LlavaNextConfig().save_pretrained(tmp_path / "next")
    with pytest.raises(ModelError, match="model_type is 'llava_next'; supported is 'llava'"):
        load_vlm(tmp_path / "next")
    LlavaConfig(text_config={"model_type": "mistral"}).save_pretrained(tmp_path / "mistral")
    with pytest.raises(ModelError, match="text model is 'mistral'"):
        load_vlm(tmp_path / "mistral")


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a whole Hugging Face model folder") as raised:
        load_vlm(tmp_path / "missing")
    assert "\n" not in str(raised.value)


def test_a_model_without_its_processor_or_weights_is_refused_in_one_line(tiny_llava: Path, tmp_path: Path) -> None:
    for number, kept in enumerate((("config.json", "model.safetensors"), ("config.json",))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in kept:
            (folder / name).write_bytes((tiny_llava / name).read_bytes())
        with pytest.raises(ModelError, match="expected a whole Hugging Face model folder") as raised:
            load_vlm(folder)
        assert "\n" not in str(raised.value)
