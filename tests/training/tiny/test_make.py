"""The tiny LLaVA: its prior by hand, its tokens and template exactly, and (slow) that it sees but
leans on language.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.core.schema import (
    SCHEMA_VERSION,
    image_bytes,
    mvc_schema,
    pair_id,
    read_mvc,
    sha256_hex,
)
from pipeline.sources.scenes.source import ScenesSection, ScenesSource
from tests.training.tiny.prior_sides import misled_sides
from training.models.logps import pair_logps
from training.models.packing import PairTokens, pack
from training.models.vlm import encode_prompt, encode_response, load_vlm, pixel_values, save_vlm
from training.tiny.config import TinySection
from training.tiny.data import contrast_words, patch_truth, read_training_set
from training.tiny.language_stage import contrast_weights
from training.tiny.make import PRIOR_FILE, make_tiny
from training.tiny.model import make_tokenizer, make_untrained
from training.tiny.muon import Learner, orthogonal
from training.tiny.prior import make_prior, skewed_answers
from training.tiny.vision_stage import normalized, shifted, start_with_contrasts

SMALL = TinySection(
    image_px=64,
    patch_px=16,
    vision_dim=32,
    vision_layers=1,
    text_dim=32,
    text_layers=1,
    vocab_tokens=300,
    num_eye_images=24,
    batch_images=12,
    num_texts=24,
    batch_texts=12,
)
TEXTS = ["What colour is the star?", "The star is red.", "The star is blue."]


def scenes_folder(folder: Path, num_train: int, num_validation: int, seed: int = 5) -> Path:
    """An MVC folder of drawn scenes, with the captions as answers."""
    total = num_train + num_validation
    rows = []
    for pair in ScenesSource(ScenesSection(kind="scenes", num_pairs=total, seed=seed)).read(
        0, total
    ):
        hashes = sha256_hex(pair.image_a), sha256_hex(pair.image_b)
        answers = [caption[0].upper() + caption[1:] for caption in (pair.caption_a, pair.caption_b)]
        rows.append(
            {
                "pair_id": pair_id(hashes[0], pair.caption_a, hashes[1], pair.caption_b),
                "source": pair.source,
                "source_id": pair.source_id,
                "category": pair.category,
                "operation": pair.operation,
                "group": pair.group,
                "question": pair.question,
                "image_a": {"bytes": pair.image_a, "path": None},
                "image_b": {"bytes": pair.image_b, "path": None},
                "answer_a": answers[0],
                "answer_b": answers[1],
                "caption_a": pair.caption_a,
                "caption_b": pair.caption_b,
                "rewrite_status": "template",
                "rewrite_model": "",
                "license": pair.license,
                "image_a_sha256": hashes[0],
                "image_b_sha256": hashes[1],
                "meta": pair.meta,
            }
        )
    (folder / "data").mkdir(parents=True)
    for split, part in (("train", rows[:num_train]), ("validation", rows[num_train:])):
        pq.write_table(
            pa.Table.from_pylist(part, schema=mvc_schema()),
            folder / "data" / f"{split}-00000-of-00001.parquet",
        )
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    return folder


def test_one_answer_is_favoured_whatever_the_order_of_the_texts() -> None:
    answers = [f"answer {n}" for n in range(6)]
    prior = make_prior(["Q?"] * 12, answers * 2, skew=0.8, seed=1)
    assert prior == make_prior(["Q?"] * 6, answers[::-1], skew=0.8, seed=1)
    (favoured,) = prior["favoured"]["Q?"]
    assert favoured in answers
    assert make_prior(["Q?"], ["alone"], skew=0.8, seed=1)["favoured"] == {"Q?": ["alone"]}


def test_every_wording_of_a_question_favours_the_same_words() -> None:
    values = ["red", "blue", "green", "upper left", "lower left"]
    frames = ["The star is {}.", "It is a {} star.", "You see the colour {}."]
    questions, answers = (
        [frame for frame in frames for _ in values],
        [frame.format(value) for frame in frames for value in values],
    )
    words = set()
    for seed in range(60):
        favoured = make_prior(questions, answers, skew=0.8, seed=seed)["favoured"]
        (value,) = (value for value in values if favoured[frames[0]] == [frames[0].format(value)])
        assert favoured == {frame: [frame.format(value)] for frame in frames}
        words.add(value)
    assert words == set(values)


def test_the_stated_fraction_of_pairs_becomes_a_favoured_answer_on_both_sides() -> None:
    prior = {"skew": 0.8, "seed": 0, "favoured": {"Q?": ["x", "y"]}}
    rng = Random(0)
    told = [skewed_answers("Q?", ("a", "b"), prior, rng) for _ in range(4000)]
    shares = [told.count(answers) / len(told) for answers in (("a", "b"), ("x", "x"), ("y", "y"))]
    assert shares == pytest.approx([0.2, 0.4, 0.4], abs=0.03)


def test_a_side_is_misled_where_only_the_other_answer_is_favoured() -> None:
    prior = {"skew": 0.8, "seed": 0, "favoured": {"Q?": ["x", "y"]}}
    rows = [
        ("Q?", "x", "u"),
        ("Q?", "u", "y"),
        ("Q?", "x", "y"),
        ("Q?", "u", "v"),
        ("unknown?", "x", "u"),
    ]
    table = pa.table(
        dict(
            zip(
                ("question", "answer_a", "answer_b"),
                map(list, zip(*rows, strict=True)),
                strict=True,
            )
        )
    )
    neutral, misled = misled_sides(table, prior)
    assert neutral.tolist() == [
        [False, False],
        [False, False],
        [True, True],
        [True, True],
        [False, False],
    ]
    assert misled.tolist() == [
        [False, True],
        [True, False],
        [False, False],
        [False, False],
        [False, False],
    ]


def test_any_text_survives_the_tokenizer_and_known_words_are_one_token() -> None:
    tokenizer = make_tokenizer(TEXTS * 10, 400)
    for text in (*TEXTS, "A word never seen: Zwölf 日本 \U0001f600\n\ttab", " the star"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer(" star", add_special_tokens=False)["input_ids"]) == 1
    assert tokenizer.unk_token_id not in tokenizer("日本")["input_ids"]


def test_the_chat_template_is_that_of_llava_1_5() -> None:
    vlm = make_untrained(TEXTS * 10, SMALL)
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXTS[0]}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": TEXTS[1]}]}

    def render(*messages: dict[str, Any], generate: bool) -> str:
        return str(
            vlm.processor.apply_chat_template(
                list(messages), add_generation_prompt=generate, tokenize=False
            )
        )

    assert render(question, generate=True) == "USER: <image>\nWhat colour is the star? ASSISTANT:"
    assert (
        render(question, answer, generate=False)
        == "USER: <image>\nWhat colour is the star? ASSISTANT: The star is red.</s>"
    )
    tokenizer = vlm.processor.tokenizer
    whole = tokenizer(render(question, answer, generate=False).replace("<image>", "<image>" * 16))[
        "input_ids"
    ]
    assert encode_prompt(vlm, TEXTS[0], with_image=True) + encode_response(vlm, TEXTS[1]) == whole


def test_a_saved_model_answers_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vlm = make_untrained(TEXTS * 10, SMALL)
    vlm.model.eval()
    save_vlm(vlm, tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    table = []
    for one in (vlm, load_vlm(tmp_path)):
        prompts = [encode_prompt(one, TEXTS[0], with_image=seen) for seen in (True, False)]
        pairs = pack(
            [PairTokens(*prompts, encode_response(one, TEXTS[1]), encode_response(one, TEXTS[2]))],
            one.image_token_id,
        )
        pixels = pixel_values(one, [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
        with torch.no_grad():
            table.append(pair_logps(one.model, pairs, pixels[:1], pixels[1:]))
    assert torch.equal(table[0], table[1]) and table[0].isfinite().all()


def test_the_training_pixels_are_those_of_the_processor(
    make_mvc: Callable[..., Path], tmp_path: Path
) -> None:
    folder = scenes_folder(tmp_path / "scenes", 6, 1)
    vlm = make_untrained(TEXTS * 10, SMALL)
    for data in (folder, make_mvc(8, 0)):  # 64 px, and 32 px that are enlarged
        found = read_training_set(data, 64, 100)
        table = read_mvc(data, "train")
        decoded = [Image.open(io.BytesIO(data)) for data in image_bytes(table, "image_a")]
        expected = pixel_values(vlm, decoded)
        assert (normalized(found.pixels_I3SS[found.images_N2[:, 0]]) - expected).abs().max() < 0.05


def test_captions_say_which_words_hold_of_an_image_and_which_do_not() -> None:
    captions = [("A red star.", "A blue star.")] * 4 + [("A star.", "A cross.")] * 4
    words, known = contrast_words(captions, torch.tensor([[0, 1]] * 4 + [[2, 3]] * 4), 4)
    assert words == ["blue", "cross", "red", "star"]
    assert known.tolist() == [[-1, 0, 1, 0], [1, 0, -1, 0], [0, -1, 0, 1], [0, 1, 0, -1]]
    # An image of several pairs knows what each of them says; a word of fewer than four pairs is
    # left out.
    words, known = contrast_words(
        [("one", "two")] * 4 + [("one", "ten")] * 3, torch.tensor([[0, 1]] * 4 + [[0, 2]] * 3), 3
    )
    assert words == ["one", "two"] and known.tolist() == [[1, -1], [-1, 1], [-1, 0]]


def test_of_a_large_folder_evenly_spaced_pairs_are_read(make_mvc: Callable[..., Path]) -> None:
    folder = make_mvc(12, 0)
    everything, some = read_training_set(folder, 64, 12), read_training_set(folder, 64, 4)
    assert some.questions == everything.questions[::3] and some.answers == everything.answers[::3]


def test_a_truth_in_another_form_is_no_truth(make_mvc: Callable[..., Path]) -> None:
    def state(rows: list[dict[str, Any]]) -> None:
        rows[0]["meta"] = json.dumps(
            {"truth": {"a": {"objects": [{"object": "star", "box": [1, 2, 3]}]}, "b": "a star"}}
        )
        rows[1]["meta"] = "[]"

    assert read_training_set(make_mvc(4, 0, state), 64, 100).things == [None] * 8


def test_patch_labels_follow_an_image_that_is_moved(tmp_path: Path) -> None:
    found = read_training_set(scenes_folder(tmp_path / "scenes", 8, 1), 64, 100)
    truth = patch_truth(found.things)
    assert truth is not None
    images = torch.arange(len(found.pixels_I3SS))
    kind, colour, same, centre = truth.labels(
        images, torch.zeros(len(images), 2, dtype=torch.long), 8, 8
    )
    moved_kind, *_, moved_centre = truth.labels(
        images, torch.tensor([[8, 0]]).expand(len(images), 2), 8, 8
    )
    left, right = kind.view(-1, 8, 8)[:, :, :-1], moved_kind.view(-1, 8, 8)[:, :, 1:]
    assert (
        torch.equal(left, right)
        and (kind > 0).any(1).all()
        and ((kind > 0) == (colour > 0)).all()
        and (same[kind > 0] > 0).all()
    )
    seen = left > 0
    step = (
        moved_centre.view(-1, 8, 8, 2)[:, :, 1:][seen] - centre.view(-1, 8, 8, 2)[:, :, :-1][seen]
    )
    assert torch.allclose(step, torch.tensor([0.125, 0.0]).expand_as(step), atol=1e-6)
    pixels, shift = shifted(found.pixels_I3SS, 4)
    for image, (dx, dy) in enumerate(shift.tolist()):
        inner = found.pixels_I3SS[image, :, 10 - dy : 50 - dy, 10 - dx : 50 - dx]
        assert torch.equal(pixels[image, :, 10:50, 10:50], inner)


@pytest.mark.parametrize(
    ("response", "other", "own", "weights"),
    [
        ([5, 7, 2], [5, 9, 2], [5, 7, 2], [0.2, 1, 0.2]),
        # a favoured answer in the place of its own
        ([5, 8, 2], [5, 9, 2], [5, 7, 2], [0.2, 1, 0.2]),
        ([5, 7, 8, 2], [5, 9, 2], [5, 7, 8, 2], [0.2, 1, 1, 0.2]),
        ([5, 2], [5, 2], [5, 2], [0.2, 0.2]),
    ],
)
def test_contrast_tokens_count_more(
    response: list[int], other: list[int], own: list[int], weights: list[float]
) -> None:
    assert contrast_weights(response, other, own) == weights


def test_patch_filters_answer_to_faint_differences_as_to_strong_ones() -> None:
    # Grey patches, of which some are brighter in the left half and some in the right: by little,
    # compared with the light.
    rng = np.random.default_rng(0)
    light, side = rng.integers(-60, 61, 500), rng.choice([-1, 1], 500)
    halves = np.where(np.arange(16) < 8, 1, -1)
    patches = np.broadcast_to(
        (128 + light[:, None] + side[:, None] * halves)[:, None, None], (500, 3, 16, 16)
    )
    vlm = make_untrained(TEXTS * 10, SMALL)
    pixels = torch.from_numpy(patches.astype(np.uint8))
    start_with_contrasts(vlm.model, pixels)
    filters = vlm.model.model.vision_tower.embeddings.patch_embedding.weight
    answers = torch.nn.functional.conv2d(normalized(pixels), filters)[:, :2, 0, 0].detach().numpy()
    for place, difference in enumerate((light, side)):
        assert abs(np.corrcoef(answers[:, place], difference)[0, 1]) > 0.99
    # Of 768 directions two have any variance, 1,210 and 1 per pixel; the floor is a tenth of the
    # mean, 121.1 of 768 + 121.1.
    assert answers.std(axis=0) == pytest.approx([1.0, (768 / (768 + 121.1)) ** 0.5], rel=0.05)


def test_orthogonal_keeps_directions_and_evens_out_lengths() -> None:
    left, right = (torch.linalg.qr(torch.randn(size, size))[0] for size in (6, 9))
    lengths = torch.tensor([9.0, 4.0, 1.0, 0.5, 0.3, 0.2])
    wide = left @ torch.diag(lengths) @ right[:6]
    for matrix, rows, columns in ((wide, left, right[:6].T), (wide.T, right[:6].T, left)):
        # in the matrix's own singular vectors: diagonal
        found = rows.T @ orthogonal(matrix) @ columns
        assert ((found.diagonal() > 0.6) & (found.diagonal() < 1.3)).all()
        assert torch.allclose(found, torch.diag(found.diagonal()), atol=1e-4)


def test_a_step_moves_entries_by_the_rate_and_leaves_what_had_no_gradient() -> None:
    torch.manual_seed(0)
    used, unused, head = torch.nn.Linear(32, 64), torch.nn.Linear(32, 64), torch.nn.Linear(64, 64)
    before = [
        parameter.clone() for module in (used, unused, head) for parameter in module.parameters()
    ]
    loss = torch.nn.functional.mse_loss(head(used(torch.randn(500, 32))), torch.randn(500, 64))
    assert Learner([used, unused], [head], lr=1e-3, weight_decay=0.0).step(loss, 0.5) == loss.item()
    after = [parameter for module in (used, unused, head) for parameter in module.parameters()]
    moved = [
        (new - old).square().mean().sqrt().item() for new, old in zip(after, before, strict=True)
    ]
    # Half of the stage is done, so the rate is half of lr; the first step of AdamW moves every
    # entry by it.
    assert moved[0] == pytest.approx(5e-4, rel=0.3)
    assert moved[1] == pytest.approx(5e-4, rel=0.01)
    assert moved[2:4] == [0, 0]
    assert moved[4:] == pytest.approx([5e-4, 5e-4], rel=0.01)


@pytest.mark.slow
def test_a_tiny_model_is_made_once_and_the_same_again(
    make_mvc: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_mvc(12, 4)
    folders = []
    for cache in ("one", "two"):
        monkeypatch.setenv("SVCO_CACHE", str(tmp_path / cache))
        folders.append(make_tiny(data, SMALL, progress=False))
    assert folders[0].name == folders[1].name
    for name in (
        "model.safetensors",
        PRIOR_FILE,
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    before = (folders[1] / PRIOR_FILE).stat().st_mtime_ns
    assert make_tiny(data, SMALL, progress=False) == folders[1]
    assert (folders[1] / PRIOR_FILE).stat().st_mtime_ns == before
    assert make_tiny(data, SMALL.model_copy(update={"seed": 1}), progress=False) != folders[1]
    assert [
        path.name for path in (tmp_path / "two" / "tiny").iterdir() if path.name.startswith(".")
    ] == []


@pytest.mark.slow
def test_it_sees_but_leans_on_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVCO_CACHE", str(tmp_path / "cache"))
    data = scenes_folder(tmp_path / "scenes", 2700, 300)
    folder = make_tiny(data, TinySection(), progress=False)
    vlm, table = load_vlm(folder), read_mvc(data, "validation")
    neutral, misled = misled_sides(table, json.loads((folder / PRIOR_FILE).read_text()))
    right, grounded = [], []
    images = [
        [Image.open(io.BytesIO(data)) for data in image_bytes(table, name)]
        for name in ("image_a", "image_b")
    ]
    with torch.no_grad():
        for index, row in enumerate(table.select(["question", "answer_a", "answer_b"]).to_pylist()):
            prompts = [
                encode_prompt(vlm, row["question"], with_image=seen) for seen in (True, False)
            ]
            pair = PairTokens(
                *prompts,
                encode_response(vlm, row["answer_a"]),
                encode_response(vlm, row["answer_b"]),
            )
            pixels = [pixel_values(vlm, [side[index]]) for side in images]
            a, b, _ = pair_logps(vlm.model, pack([pair], vlm.image_token_id), *pixels)[0].tolist()
            right.append([a[0] > a[1], b[1] > b[0]])
            grounded.append([a[0] > b[0], b[1] > a[1]])
    assert 0.15 < misled.mean() < 0.3
    assert np.mean(grounded) > 0.9
    assert np.array(right)[neutral].mean() >= 0.8
    assert np.array(right)[misled].mean() <= 0.5
