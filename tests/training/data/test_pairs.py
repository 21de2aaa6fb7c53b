"""The reader gives each pair its own tokens and pixels, in an order that workers and restarts do
not change.
"""

import io
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from pipeline.core import images
from pipeline.core.images import decode_rgb
from pipeline.core.schema import MvcError, read_mvc
from training.data.pairs import DataState, PairReader, batches, epoch_order
from training.data.vision_features import VisionFeatures
from training.estimate.data_size import size_of_data
from training.estimate.known_models import find_shape
from training.models.unusable import REASONS
from training.models.vlm import Vlm, encode_prompt, encode_response, load_vlm, pixel_values
from training.runtime.environment import LocalEnv
from training.tiny.config import TinySection

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def vlm(vicuna_llava: Path) -> Vlm:
    return load_vlm(vicuna_llava)


def test_a_pair_has_the_tokens_of_its_row(vlm: Vlm, make_mvc: Make) -> None:
    folder = make_mvc(6)
    reader, row = PairReader(folder, "train", vlm), read_mvc(folder, "train").to_pylist()[4]
    packed = reader.packed([4])
    expected = [
        *encode_prompt(vlm, row["question"], with_image=True),
        *encode_response(vlm, row["answer_a"]),
        *encode_response(vlm, row["answer_b"]),
    ]
    assert packed.ids_L[: len(expected)].tolist() == expected
    assert reader.pair_ids[4] == row["pair_id"]
    assert reader.num_tokens_N2[4].tolist() == [
        len(encode_response(vlm, row[f"answer_{s}"])) for s in "ab"
    ]


def test_each_distinct_image_is_kept_once(vlm: Vlm, make_mvc: Make) -> None:
    folder = make_mvc(48)
    reader, rows = PairReader(folder, "train", vlm), read_mvc(folder, "train").to_pylist()
    assert reader.num_images == len({row[f"image_{s}_sha256"] for row in rows for s in "ab"}) < 96
    expected = pixel_values(vlm, [decode_rgb(rows[30][f"image_{s}"]["bytes"]) for s in "ab"])
    assert torch.equal(reader.pixels(reader.images_P2[30]), expected)
    assert torch.equal(reader.pixels(reader.images_P2[30]), expected)  # from the cache


def test_an_image_cut_off_names_its_pair_when_it_is_decoded(vlm: Vlm, make_mvc: Make) -> None:
    def cut(rows: list[dict]) -> None:
        rows[2]["image_b"] = {"bytes": rows[2]["image_b"]["bytes"][:60], "path": None}
        rows[2]["image_b_sha256"] = "0" * 64

    folder = make_mvc(4, change=cut)
    reader, pair_id = (
        PairReader(folder, "train", vlm),
        read_mvc(folder, "train").to_pylist()[2]["pair_id"],
    )
    with pytest.raises(MvcError, match=f"pair {pair_id}: image_b cannot be decoded"):
        reader.pixels(reader.images_P2[2])


def _broken(column: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    """Puts a value into the second of the rows."""

    def change(rows: list[dict[str, Any]]) -> None:
        rows[1][column] = value
        if column.startswith("image"):
            rows[1][f"{column}_sha256"] = "0" * 64

    return change


def _image(*size: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


BROKEN = [
    ("answer_b", " ", "text_is_empty"),
    ("answer_a", "", "text_is_empty"),
    ("question", None, "text_is_empty"),
    ("answer_a", "A <image>", "text_has_control_token"),
    ("question", "What</s>?", "text_has_control_token"),
    ("answer_b", "<s>A red bar.", "text_has_control_token"),
    ("image_b", {"bytes": b"no image", "path": None}, "image_broken"),
    ("image_a", {"bytes": b"", "path": None}, "image_broken"),
    ("image_a", _image(2, 500), "image_shape"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BROKEN)
def test_one_pair_that_cannot_be_used_is_left_out_and_counted(
    vlm: Vlm, make_mvc: Make, column: str, value: Any, reason: str
) -> None:
    folder = make_mvc(100, change=_broken(column, value))
    reader, rows = PairReader(folder, "train", vlm), read_mvc(folder, "train").to_pylist()
    assert reader.left_out.pair_ids == {reason: [rows[1]["pair_id"]]}
    assert reader.pair_ids == [row["pair_id"] for number, row in enumerate(rows) if number != 1]
    shape = find_shape("llava-hf/llava-1.5-7b-hf", TinySection())[0]
    planned = size_of_data(folder, vlm.model.name_or_path, shape)
    assert planned.left_out["train"].counts == reader.left_out.counts
    assert planned.num_pairs["train"] == len(reader)


@pytest.mark.parametrize(("column", "value", "reason"), BROKEN[2:6:2])
def test_more_than_a_hundredth_is_an_error_with_counts_and_names(
    vlm: Vlm, make_mvc: Make, column: str, value: Any, reason: str
) -> None:
    folder = make_mvc(99, change=_broken(column, value))
    pair_id = read_mvc(folder, "train").to_pylist()[1]["pair_id"]
    with pytest.raises(
        MvcError,
        match=(
            rf"split .train.: 1 of 99 pairs cannot be used \(1 {REASONS[reason]}\), where at most"
            rf" 1% may be left out; first pair {pair_id}: .+; mend these pairs"
        ),
    ):
        PairReader(folder, "train", vlm)


def test_long_pairs_are_left_out_whole_and_counted(vlm: Vlm, make_mvc: Make) -> None:
    def lengthen(rows: list[dict]) -> None:
        rows[1]["answer_a"] = "A red circle on grey. " * 20

    folder = make_mvc(4, change=lengthen)
    everything = PairReader(folder, "train", vlm)
    limit = len(encode_prompt(vlm, "Which shape do you see in the picture?", with_image=True)) + 12
    reader = PairReader(folder, "train", vlm, max_length_tokens=limit)
    assert (reader.left_out.counts, len(reader)) == ({"too_long": 1}, 3)
    assert reader.pair_ids == [everything.pair_ids[i] for i in (0, 2, 3)]
    assert torch.equal(reader.packed([1]).ids_L, everything.packed([2]).ids_L)
    assert torch.equal(
        reader.pixels(reader.images_P2[1]), everything.pixels(everything.images_P2[2])
    )
    nothing = PairReader(folder, "train", vlm, max_length_tokens=5)
    assert (len(nothing.left_out), len(nothing), nothing.num_images) == (4, 0, 0)


def test_an_epoch_has_every_pair_once_and_the_next_another_order() -> None:
    found = list(islice(batches(10, 4, DataState(seed=3)), 6))
    assert [len(batch) for batch, _ in found] == [4, 4, 2, 4, 4, 2]
    first, second = (
        np.concatenate([batch for batch, _ in part]) for part in (found[:3], found[3:])
    )
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert (
        first.tolist()
        == np.random.default_rng((3, 0)).permutation(10).tolist()
        == epoch_order(10, 3, 0).tolist()
    )


@pytest.mark.parametrize("num_done", [0, 1, 3, 4, 7])
def test_the_order_continues_from_any_state(num_done: int) -> None:
    whole = list(islice(batches(10, 4, DataState(seed=3)), 9))
    state = whole[num_done - 1][1] if num_done else DataState(seed=3)
    again = list(islice(batches(10, 4, state), 9 - num_done))
    assert [b.tolist() for b, _ in again] == [b.tolist() for b, _ in whole[num_done:]]
    assert [s for _, s in again] == [s for _, s in whole[num_done:]]


def test_pixels_of_images_of_many_sizes_stack(vlm: Vlm, make_mvc: Make) -> None:
    from pipeline.core.images import encode_png

    def resize(rows: list[dict]) -> None:
        rows[0]["image_a"] = {"bytes": encode_png(Image.new("RGB", (90, 40), "red")), "path": None}
        rows[0]["image_a_sha256"] = "1" * 64

    reader = PairReader(make_mvc(2, change=resize), "train", vlm)
    assert reader.pixels(reader.images_P2[0]).shape == (2, 3, 28, 28)


@pytest.fixture(scope="module")
def qwen(tiny_qwen3_vl: Path) -> Vlm:
    return load_vlm(tiny_qwen3_vl)


def _resized(size: tuple[int, int], orientation: int | None = None) -> dict[str, Any]:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size, "red").save(buffer, "PNG", exif=exif)
    return {"bytes": buffer.getvalue(), "path": None}


def _of_unlike_sizes(rows: list[dict]) -> None:
    rows[0]["image_a"], rows[0]["image_a_sha256"] = _resized((160, 64)), "1" * 64
    # lies on its side
    rows[1]["image_b"], rows[1]["image_b_sha256"] = _resized((160, 64), orientation=6), "2" * 64


def test_each_image_has_as_many_placeholders_as_its_upright_size_makes(
    qwen: Vlm, make_mvc: Make
) -> None:
    reader = PairReader(make_mvc(3, change=_of_unlike_sizes), "train", qwen)
    packed = reader.packed([0, 1])
    assert [image.num_tokens for image in packed.images] == [10, 4, 4, 10]
    assert [tuple(image.shape[:2]) for image in reader.pixels(reader.images_P2[1])] == [
        (4, 4),
        (10, 4),
    ]
    assert len(packed.ids_L) == reader.lengths[:2].sum()
    assert packed.position_ids.shape == (3, 1, len(packed.ids_L))


def test_an_image_that_the_processor_refuses_is_left_out_where_sizes_matter(
    qwen: Vlm, make_mvc: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_ASPECT", 1000)  # so that the processor's bound is met
    reader = PairReader(make_mvc(100, change=_broken("image_b", _image(2, 500))), "train", qwen)
    assert reader.left_out.counts == {"image_shape": 1}
    assert "must be smaller than 200" in reader.left_out.first()[0]


def test_features_of_some_pairs_are_those_of_all_in_every_bit(
    qwen: Vlm, make_mvc: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.data.vision_features.CHUNK_IMAGES", 3)
    reader = PairReader(make_mvc(8, change=_of_unlike_sizes), "train", qwen)
    asked = np.array([5, 6])
    every, some = (
        VisionFeatures(reader, qwen, LocalEnv(), frozen=True, max_cache_bytes=1e9, pairs=pairs).get
        for pairs in (None, asked)
    )
    for pairs in (asked, np.array([0])):  # pair 0 stands in for none
        for ours, expected in zip(some(pairs), every(pairs), strict=True):
            assert ours and expected
            assert all(map(torch.equal, ours, expected))
    with pytest.raises(AssertionError, match="not announced"):
        some(np.array([3]))


def test_kept_features_are_those_made_when_needed(qwen: Vlm, make_mvc: Make) -> None:
    reader = PairReader(make_mvc(4, change=_of_unlike_sizes), "train", qwen)
    pairs = np.array([1, 0, 3])
    with torch.no_grad():
        kept, made = (
            VisionFeatures(reader, qwen, LocalEnv(), frozen=True, max_cache_bytes=room)
            for room in (1e9, 0)
        )
        assert (kept.kept, made.kept) == (True, False)
        for ours, expected in zip(kept.get(pairs), made.get(pairs), strict=True):
            assert ours is not None
            assert expected is not None
            assert [len(features_NV) for features_NV in ours] == [
                len(features_NV) for features_NV in expected
            ]
            for ours_NV, expected_NV in zip(ours, expected, strict=True):
                torch.testing.assert_close(ours_NV, expected_NV, rtol=1e-5, atol=1e-6)
        assert kept.get(pairs, sides=[0])[1] is None
    assert [len(features_NV) for features_NV in kept.get(np.array([0]))[0] or []] == [10]


def test_only_the_cells_that_are_asked_for_are_packed(vlm: Vlm, make_mvc: Make) -> None:
    reader = PairReader(make_mvc(2), "train", vlm)
    assert [image.side for image in reader.packed([0, 1], cells={(0, 0), (0, 1)}).images] == [0, 0]
