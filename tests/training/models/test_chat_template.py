"""Templates that open an answer with reasoning: it is closed in the prompt, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.recipe import UserError
from training import train_svco
from training.models import chat_template as chat
from training.models import generation
from training.models.vlm import Vlm, check_model, encode_prompt, encode_response, load_vlm

# The ends of templates, as published: reasoning always, with a switch, and off by default.
ALWAYS = "<think>\n"
ALWAYS_ON_ONE_LINE = "<think>"
SWITCH = (
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}"
)
SWITCH_OF_ANOTHER_NAME = (
    "{% if thinking is defined and not thinking %}</think>{% else %}<think>{% endif %}"
)
OFF_UNLESS_ASKED = "{% if thinking %}<think>{% else %}</think>{% endif %}"
ONLY_WHEN_TURNED_OFF = (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}"
)
CLOSED = {
    ALWAYS: "<think>\n\n</think>\n\n",
    ALWAYS_ON_ONE_LINE: "<think>\n\n</think>\n\n",
    "<reasoning>\n": "<reasoning>\n\n</reasoning>\n\n",
    SWITCH: "<think>\n\n</think>\n\n",
    SWITCH_OF_ANOTHER_NAME: "</think>",
    OFF_UNLESS_ASKED: "</think>",
    ONLY_WHEN_TURNED_OFF: "",
    "": "",
}
QUESTION = "What is shown?"


def thinking(source: Path, target: Path, end: str) -> Path:
    """A copy of a model whose template ends so where an answer starts."""
    shutil.copytree(source, target)
    file = target / "chat_template.jinja"
    file.write_text(file.read_text() + "{% if add_generation_prompt %}" + end + "{% endif %}")
    return target


def decoded(vlm: Vlm, ids: list[int]) -> str:
    return str(vlm.processor.tokenizer.decode(ids))


@pytest.mark.parametrize("end", CLOSED, ids=range(len(CLOSED)))
def test_an_answer_follows_reasoning_that_is_closed(
    tiny_model: Path, tmp_path: Path, end: str
) -> None:
    vlm, plain = load_vlm(thinking(tiny_model, tmp_path / "m", end)), load_vlm(tiny_model)
    for with_image in (True, False):
        prompts = [
            encode_prompt(which, QUESTION, with_image=with_image, size=(64, 64))
            for which in (vlm, plain)
        ]
        assert decoded(vlm, prompts[0]) == decoded(plain, prompts[1]) + CLOSED[end]
    answer = decoded(vlm, encode_response(vlm, "A red bar."))
    if CLOSED[end]:
        assert answer.startswith("A red bar.")  # not inside a tag's line, nor after a space
    else:
        assert answer == decoded(plain, encode_response(plain, "A red bar."))
    fact = check_model(tmp_path / "m", trained=True)
    assert bool(fact) == (end not in (OFF_UNLESS_ASKED, ONLY_WHEN_TURNED_OFF, ""))


def test_the_templates_own_switch_is_preferred_and_named(
    tiny_qwen3_vl: Path, tmp_path: Path
) -> None:
    vlm = load_vlm(thinking(tiny_qwen3_vl, tmp_path / "m", SWITCH))
    conversation = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    own = vlm.processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, enable_thinking=False
    )
    assert encode_prompt(vlm, QUESTION, with_image=False) == own[0]
    assert "enable_thinking=false" in chat.closing(vlm.processor).fact


def test_generation_answers_the_same_prompt(
    vicuna_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_vlm(thinking(vicuna_llava, tmp_path / "m", ALWAYS))
    asked = []
    plain = vlm.model.generate

    def listens(input_ids: object, **how: object) -> object:
        asked.append(input_ids)
        return plain(input_ids=input_ids, **how)

    monkeypatch.setattr(vlm.model, "generate", listens)
    generation.generate(vlm, [Image.new("RGB", (30, 30))], [QUESTION], max_new_tokens=2)
    generation.generate(vlm, [None], [QUESTION], max_new_tokens=2)
    for ids, with_image in zip(asked, (True, False), strict=True):
        assert ids[0].tolist() == encode_prompt(vlm, QUESTION, with_image=with_image)


@pytest.mark.parametrize("end", ["[THINK]", "<|think|>\n", "<|begin_of_thought|>"])
def test_reasoning_of_which_the_end_is_unknown_is_refused(
    vicuna_llava: Path, tmp_path: Path, end: str
) -> None:
    folder = thinking(vicuna_llava, tmp_path / "m", end)
    with pytest.raises(UserError, match="the start of reasoning whose end is unknown") as raised:
        check_model(folder, trained=False)
    assert end.strip() in str(raised.value)
    assert str(folder) in str(raised.value)


def test_words_that_are_no_reasoning_are_left_alone(vicuna_llava: Path, tmp_path: Path) -> None:
    for number, end in enumerate(("I think", "<assistant>", "</think>", "<think></think>")):
        vlm = load_vlm(thinking(vicuna_llava, tmp_path / str(number), end))
        assert chat.closing(vlm.processor) == chat.Closing({}, "")


@pytest.mark.slow
def test_a_training_says_what_it_does_to_the_template(
    vicuna_llava: Path,
    make_mvc: Callable[..., Path],
    command_here: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    folder = thinking(vicuna_llava, tmp_path / "m", ALWAYS)
    keys = [f"model={folder}", f"data={make_mvc(4, 2)}", f"out={tmp_path / 'out'}"]
    code, said = command_here(train_svco.run, *keys, "--dry-run")
    assert code == 0
    assert "its template" in said
    assert "(</think>)" in said
    code, said = command_here(
        train_svco.run, *keys, "workers.num_workers=0", "optim.max_steps=1", "eval_every_steps=0"
    )
    assert code == 0, said
    assert f"{folder}: its template opens with reasoning, which is closed (</think>); serve" in said
    assert json.loads((tmp_path / "out" / "svco.json").read_text())["steps"] == 1
