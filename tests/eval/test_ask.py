"""`svco ask`: the numbers are those of separate passes, the table says which is which, and every
mistake is one line.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval import ask as ask_module
from eval.ask import Opinion, ask, rgb_images, rows_of, run, share_of_first, verdict
from pipeline.core.recipe import UserError
from training.models.generation import generate
from training.models.vlm import encode_prompt, encode_response, load_vlm, pixel_values


@pytest.fixture
def images(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, side in zip(paths, "ab", strict=True):
        Image.open(io.BytesIO(rows[2][f"image_{side}"]["bytes"])).save(path)
    return paths


def test_numbers_are_those_of_six_separate_passes(finetuned: Path, images: list[Path]) -> None:
    question, texts = "What is shown?", ("A star.", "Two red circles.")
    opinion = ask(finetuned, rgb_images(images), question, texts, device="cpu", max_new_tokens=4)
    vlm = load_vlm(finetuned)
    pixels = pixel_values(vlm, rgb_images(images))
    for condition in range(3):
        prompt = encode_prompt(vlm, question, with_image=condition < 2)
        for number, text in enumerate(texts):
            response = encode_response(vlm, text)
            seen = {"pixel_values": pixels[condition][None]} if condition < 2 else {}
            with torch.inference_mode():
                logits = vlm.model(input_ids=torch.tensor([prompt + response]), **seen).logits[
                    0, len(prompt) - 1 : -1
                ]
            expected = (
                logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum().item()
            )
            assert opinion.logps_32[condition, number] == pytest.approx(expected, rel=1e-4)
    assert opinion.num_tokens == tuple(len(encode_response(vlm, text)) for text in texts)
    assert list(opinion.answers) == generate(
        vlm, list(rgb_images(images)), [question] * 2, max_new_tokens=4
    )


def test_base_and_tuned_stand_side_by_side(
    finetuned: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        str(finetuned),
        "What is shown?",
        images,
        base="auto",
        answer=["A star.", "A <b>."],
        max_new_tokens=3,
        device="cpu",
    )
    shown = capsys.readouterr().err
    assert "judged a  A star." in shown and "flatters" not in shown
    for word in (
        "base log p(a)",
        "tuned log p(a)",
        "image a",
        "image b",
        "no image",
        "base: ",
        "tuned: ",
    ):
        assert word in shown


def test_the_base_judges_what_the_tuned_model_said(
    finetuned: Path,
    images: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def answers(model: Path, images: Any, question: str, texts: Any, **_: Any) -> Opinion:
        asked.append((model.name, texts))
        return Opinion((f"{model.name} a", f"{model.name} b"), np.zeros((3, 2)), (3, 3))

    monkeypatch.setattr(ask_module, "ask", answers)
    run(str(finetuned), "?", images, base="auto", answer=None, max_new_tokens=3, device="cpu")
    assert asked == [("tuned", None), ("base", ("tuned a", "tuned b"))]
    shown = capsys.readouterr().err
    assert shown.index("base   of a  base a") < shown.index("tuned  of a  tuned a")
    assert "judged are the tuned model's own words, which flatters it" in " ".join(shown.split())


def test_sureness_is_the_share_of_two() -> None:
    assert share_of_first(-2.0, -2.0) == 0.5
    assert share_of_first(math.log(0.3), math.log(0.1)) == pytest.approx(0.75)
    assert share_of_first(-1e4, 0.0) == 0.0
    assert share_of_first(0.0, -1e4) == 1.0


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[-1, -2], [-2, -1], [-1, -1]], "prefers each image's own answer"),
        ([[-2, -1], [-1, -2], [-1, -1]], "prefers the other's answer for both images"),
        ([[-1, -2], [-1, -3], [-1, -1]], "prefers answer a for both images"),
        ([[-2, -1], [-3, -1], [-1, -1]], "prefers answer b for both images"),
        ([[-2, -1], [-2, -1], [-1, -1]], "the images make no difference"),
    ],
)
def test_verdicts(table: list[list[float]], expected: str) -> None:
    opinion = Opinion(("", ""), np.array(table, float), (1, 1))
    assert verdict(opinion) == expected
    assert len(rows_of({"after": opinion})) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": ["a.png"]}, "expected two images, got 1; give --image A.jpg --image B.jpg"),
        ({"image": ["a.png", "missing.png"]}, "missing.png: cannot be read \\(No such file"),
        ({"image": ["a.png", "text.png"]}, "text.png: cannot be read \\(not_an_image"),
        ({"answer": ["one"]}, "expected two answers to judge, got 1"),
        ({"device": "tpu"}, "--device 'tpu': expected auto, cpu or cuda"),
        ({"question": "  "}, "expected a question, got none"),
        ({"base": "nowhere"}, "base=nowhere"),
        ({"question": "What <image> is this?"}, "What <image> is this|control token|<image>"),
    ],
)
def test_mistakes_are_one_line(
    change: dict[str, Any], message: str, finetuned: Path, images: list[Path]
) -> None:
    folder = images[0].parent
    (folder / "text.png").write_text("not a picture")
    given: dict[str, Any] = {
        "question": "What?",
        "image": ["a.png", "b.png"],
        "base": "none",
        "answer": None,
        "device": "cpu",
        **change,
    }
    given["image"] = [folder / name for name in given["image"]]
    with pytest.raises(ValueError, match=message) as raised:
        run(str(finetuned), max_new_tokens=2, **given)
    assert "\n" not in str(raised.value)


def test_a_model_that_says_nothing_is_told(
    finetuned: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.models.generation.generate", lambda *_, **__: ["", "A star."])
    with pytest.raises(
        UserError,
        match="says nothing about image a; give the two answers to judge with --answer, twice",
    ):
        ask(finetuned, rgb_images(images), "What?", None, device="cpu", max_new_tokens=2)
