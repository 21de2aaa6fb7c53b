import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.core.recipe import RecipeError
from pipeline.core.schema import Candidate, Malformed
from pipeline.sources.countercurate import CountercurateSection, CountercurateSource, mirrored_pair
from tests.pipeline import native

ALL = ("left_right", "up_down", "counting", "noun", "adjective", "reverse")
DATA = "Flickr30k-Counterfactuals/train_data"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native.write_countercurate(tmp_path_factory.mktemp("countercurate"), 4)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "source"))


def _open(folder: Path | str, **options: object) -> CountercurateSource:
    return CountercurateSource(
        CountercurateSection(kind="countercurate", path=str(folder), **options)
    )


def _read(folder: Path | str, **options: object) -> list[Candidate | Malformed]:
    source = _open(folder, **options)
    rows = list(source.read(0, source.count()))
    assert len(rows) == source.count()
    return rows


def _edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Changes a JSON file by what `change` does to its content, or replaces it by what `change`
    returns.
    """
    path = folder / DATA / f"{name}.json"
    value = json.loads(path.read_text())
    result = change(value)
    path.write_text(json.dumps(value if result is None else result))


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_every_subset_has_its_category_operation_and_number_of_rows(folder: Path) -> None:
    rows = _read(folder, subsets=ALL)
    found = Counter((row.source_id.split("/")[0], row.category, row.operation) for row in rows)
    assert all(isinstance(row, Candidate) for row in rows)
    # Four photographs; every second has a "reverse" text.
    assert found == {
        ("left_right", "position", "flip"): 8,
        ("up_down", "position", "generate"): 4,
        ("counting", "count", "inpaint"): 4,
        ("noun", "object", "generate"): 4,
        ("adjective", "attribute", "generate"): 4,
        ("reverse", "relation", "generate"): 2,
    }


def test_reverse_is_off_unless_it_is_asked_for(folder: Path) -> None:
    assert {row.source_id.split("/")[0] for row in _read(folder)} == set(ALL) - {"reverse"}
    assert {row.category for row in _read(folder, subsets=("counting", "adjective"))} == {
        "count",
        "attribute",
    }


def test_captions_groups_and_ids_are_the_native_ones(folder: Path) -> None:
    rows = {
        row.source_id: row for row in _read(folder, subsets=ALL, license="research only", name="cc")
    }
    texts = {
        "left_right/1000/0": ("a man is to the left of a dog", "a man is to the right of a dog"),
        "left_right/1000/1": (
            "a dog is to the right of the tree",
            "a dog is to the left of the tree",
        ),
        "up_down/1000/0": ("a man is above a dog", "a man is below a dog"),
        "counting/1000/0": ("there are 2 mans and 4 dogs.", "there are 4 mans and 2 dogs."),
        "noun/1000": ("A tall man stands next to a dog.", "A tall man stands next to a kite."),
        "adjective/1000": ("A tall man stands next to a dog.", "A short man stands next to a dog."),
        "reverse/1000": ("A tall man stands next to a dog.", "A dog stands next to a tall man."),
    }
    for source_id, captions in texts.items():
        row = rows[source_id]
        assert (row.caption_a, row.caption_b) == captions
        assert (row.source, row.group, row.license) == ("cc", "flickr30k/1000", "research only")
    assert {row.group for row in rows.values()} == {
        f"flickr30k/{index}" for index in (1000, 1037, 1074, 1111)
    }
    assert json.loads(rows["left_right/1000/1"].meta) == {
        "subset": "left_right",
        "index": "1000",
        "image_id": 1,
        "phrases": ["a dog", "the tree"],
        "coords": [[5, 10, 50, 60], [70, 12, 120, 80]],
    }


def test_outside_of_flips_a_is_the_photograph_and_b_the_negative_byte_for_byte(
    folder: Path,
) -> None:
    rows = {row.source_id: row for row in _read(folder)}
    original = (folder / "flickr30k/flickr30k-images/1037.jpg").read_bytes()
    files = {
        "up_down/1037/0": "up_down/neg/1037_0.png",
        "counting/1037/0": "counting/neg/1037_0.png",
        "noun/1037": "dalle_gen_counterfactuals/1037_noun.jpg",
    }
    for source_id, file in files.items():
        assert rows[source_id].image_a == original
        assert rows[source_id].image_b == (folder / DATA / file).read_bytes()


def test_a_flip_is_the_photograph_and_its_mirror_image_and_both_are_encoded_alike(
    folder: Path,
) -> None:
    for row in _read(folder, subsets=("left_right",)):
        original = _pixels(
            (folder / f"flickr30k/flickr30k-images/{row.group.split('/')[1]}.jpg").read_bytes()
        )
        # 150 px wide: 144 are nine blocks of 16.
        assert np.abs(_pixels(row.image_a) - original[:, :144]).mean() < 1
        assert np.abs(_pixels(row.image_b) - _pixels(row.image_a)[:, ::-1]).mean() < 0.1
        a, b = (Image.open(io.BytesIO(data)) for data in (row.image_a, row.image_b))
        assert (a.format, a.size, a.quantization, a.layer, sorted(a.info)) == (
            b.format,
            b.size,
            b.quantization,
            b.layer,
            sorted(b.info),
        )
        assert abs(len(row.image_a) - len(row.image_b)) < 0.01 * len(row.image_a)


def test_old_blocks_show_on_both_sides_alike() -> None:
    strongly_compressed = _encoded(native.photograph(1), quality=40)
    a, b = (_block_edges(_pixels(data)) for data in mirrored_pair(strongly_compressed))
    assert a > 1.2
    assert b == pytest.approx(a, rel=0.02)
    # Mirrored without the cut, the old blocks would lie off the grid: 150 px are no multiple of 8.
    assert _block_edges(_pixels(strongly_compressed)[:, ::-1]) < 1.1


def _encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _block_edges(pixels: np.ndarray) -> float:
    """How much more the brightness steps at multiples of 8 columns than elsewhere; about 1 without
    blocks there.
    """
    steps = np.abs(np.diff(pixels.mean(axis=2), axis=1))
    at_edges = np.arange(steps.shape[1]) % 8 == 7
    return float(steps[:, at_edges].mean() / steps[:, ~at_edges].mean())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_made_upright_and_its_old_blocks_stay_on_the_grid(
    orientation: int,
) -> None:
    # 16 px squares, as the blocks of the file lie.
    rows, columns = np.indices((116, 150)) // 16
    gray = np.where((rows * 7 + columns * 5) % 3, 60 + 20 * (rows % 4) + 10 * columns, 20).astype(
        np.uint8
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(gray).convert("RGB"), quality=95, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    a, b = map(_pixels, mirrored_pair(data))
    width = {150: 144, 116: 112}[upright.shape[1]]
    assert a.shape == b.shape == (upright.shape[0], width, 3)
    assert min(np.abs(a - upright[:, :width]).mean(), np.abs(a - upright[:, -width:]).mean()) < 1
    for side in (a, b):
        assert np.abs(side - np.repeat(side[:, 8::16], 16, axis=1)).mean() < 2
    assert "exif" not in Image.open(io.BytesIO(mirrored_pair(data)[0])).info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_photograph_with_broken_exif_is_taken_as_it_lies() -> None:
    data = _encoded(native.photograph(2), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert _pixels(mirrored_pair(data)[0]).shape == (116, 144, 3)


def test_a_photograph_narrower_than_a_block_is_not_cut() -> None:
    assert _pixels(mirrored_pair(_encoded(native.photograph(3).resize((13, 20))))[0]).shape == (
        20,
        13,
        3,
    )


def test_the_authors_own_flips_are_not_read(folder: Path) -> None:
    before = _read(folder, subsets=("left_right",))
    shutil.rmtree(folder / DATA / "left_right/neg")
    assert _read(folder, subsets=("left_right",)) == before


def test_any_range_gives_the_same_rows_in_any_order(folder: Path) -> None:
    source, again = _open(folder), _open(folder)
    whole = list(source.read(0, source.count()))
    parts = {
        start: list(again.read(start, start + 5)) for start in reversed(range(0, source.count(), 5))
    }
    assert whole == [row for start in sorted(parts) for row in parts[start]]
    assert list(source.read(source.count(), source.count() + 9)) == []


def test_a_negative_is_looked_for_as_png_then_as_jpg_then_by_the_photographs_index(
    folder: Path,
) -> None:
    negatives = folder / DATA / "up_down/neg"
    names = ("1000_0.png", "1000_0.jpg", "1000.jpg")
    for number, name in enumerate(names):
        native.save(negatives / name, native.photograph(90 + number))
    for name in names:
        row = _read(folder, subsets=("up_down",))[0]
        assert isinstance(row, Candidate)
        assert row.image_b == (negatives / name).read_bytes()
        (negatives / name).unlink()
    rows = _read(folder, subsets=("up_down",))
    assert [getattr(row, "reason", "") for row in rows] == ["image_b_file_missing", "", "", ""]
    assert rows[0].caption_b == "a man is below a dog"


def test_a_record_without_image_id_is_numbered_by_its_place(folder: Path) -> None:
    _edit(
        folder,
        "counting",
        lambda value: [value[index][0].pop("image_id") for index in value] and None,
    )
    assert all(isinstance(row, Candidate) for row in _read(folder, subsets=("counting",)))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"image_id": 0, "neg": "b"}, "record_without_pos"),
        ({"image_id": 0, "pos": "a", "neg": None}, "record_without_neg"),
        ({"image_id": 0, "pos": "a", "neg": ["b"]}, "record_neg_not_text"),
        ({"image_id": 0, "pos": "half \ud83d emoji", "neg": "b"}, "record_pos_not_unicode"),
        ("a text", "record_not_an_object"),
        (None, "record_not_an_object"),
        ({"image_id": "9", "pos": "a", "neg": "b"}, "image_b_file_missing"),
        ({"image_id": "/../../../../../secret", "pos": "a", "neg": "b"}, "image_b_outside_root"),
        ({"image_id": "\u0000", "pos": "a", "neg": "b"}, "image_b_file_unreadable"),
    ],
)
def test_a_bad_record_costs_its_own_row_and_says_why(
    folder: Path, record: object, reason: str
) -> None:
    # Where the name would lead: out of train_data, beside the source.
    (folder.parent / "secret.png").write_bytes(b"x")
    (folder / DATA / "up_down/neg/1000_").mkdir()
    negatives = folder / DATA / "up_down/neg"
    shutil.move(negatives / "1000_0.png", negatives / "1000_1.png")
    _edit(
        folder,
        "up_down",
        lambda value: value["1000"].insert(0, record) or value["1000"][1].update(image_id=1),
    )
    rows = _read(folder, subsets=("up_down",))
    assert [getattr(row, "reason", "") for row in rows] == [reason, "", "", "", ""]
    assert (rows[0].source_id, rows[0].category, rows[0].group) == (
        "up_down/1000/0",
        "position",
        "flickr30k/1000",
    )


def test_an_index_that_leaves_the_root_reads_nothing(folder: Path) -> None:
    native.save(folder.parent / "secret.jpg", native.photograph(7))
    escape = "../../../secret"
    _edit(folder, "left_right", lambda value: value.update({escape: value["1000"][:1]}))
    _edit(folder, "dalle_gen_counterfactuals", lambda value: value.update({escape: value["1000"]}))
    _edit(folder, "flickr30k_image_captions", lambda value: value.update({escape: ["a"]}))
    rows = _read(folder, subsets=("left_right", "noun"))
    assert Counter(getattr(row, "reason", "") for row in rows) == {
        "": 12,
        "image_a_outside_root": 2,
    }


def test_a_photograph_that_is_missing_or_broken_costs_its_own_rows(folder: Path) -> None:
    photographs = folder / "flickr30k/flickr30k-images"
    (photographs / "1000.jpg").write_bytes((photographs / "1000.jpg").read_bytes()[:900])
    (photographs / "1037.jpg").write_bytes(b"no picture")
    (photographs / "1074.jpg").unlink()
    (folder / DATA / "left_right/pos/1074.jpg").unlink()
    reasons = [getattr(row, "reason", "") for row in _read(folder, subsets=("left_right",))]
    assert (
        reasons
        == ["image_a_truncated"] * 2
        + ["image_a_not_an_image"] * 2
        + ["image_a_file_missing"] * 2
        + [""] * 2
    )


def test_the_copies_beside_the_negatives_serve_where_flickr30k_is_not(folder: Path) -> None:
    before = _read(folder)
    shutil.move(folder / "flickr30k", folder.parent / "elsewhere")
    assert _read(folder, images=str(folder.parent / "elsewhere/flickr30k-images")) == before
    positioned = ("left_right", "up_down", "counting")
    assert [row for row in _read(folder) if row.source_id.split("/")[0] in positioned] == before[
        :16
    ]
    assert [getattr(row, "reason", "") for row in _read(folder, subsets=("noun",))] == [
        "image_a_file_missing"
    ] * 4


def test_an_original_without_captions_and_an_entry_that_is_no_object_cost_their_rows(
    folder: Path,
) -> None:
    _edit(
        folder,
        "flickr30k_image_captions",
        lambda value: value.update({"1000": [], "1037": {"a": 1}, "1074": [5]}),
    )
    _edit(folder, "dalle_gen_counterfactuals", lambda value: value.update({"1111": "text"}))
    reasons = [
        row.reason for row in _read(folder, subsets=("adjective",)) if isinstance(row, Malformed)
    ]
    assert reasons == [
        "record_without_original_caption",
        "record_without_original_caption",
        "record_original_caption_not_text",
        "record_not_an_object",
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("up_down", "{broken", "expected JSON in '.*up_down.json'"),
        ("up_down", "[1, 2]", "up_down.json'.*Flickr30k indices as keys, got a list"),
        ("up_down", "{}", "up_down.json'.*expected records with 'pos', found none"),
        (
            "up_down",
            '{"5": [{"pos": "a", "ng": "b"}]}',
            "up_down.json'.*'neg', no record has it; the first, up_down/5/0, has the keys pos, ng",
        ),
        ("up_down", '{"5": ["text"]}', "'pos', no record has it; the first, up_down/5/0, is a str"),
        (
            "dalle_gen_counterfactuals",
            '{"5": {"adjective": "a"}}',
            "'noun', no record has it; the first, 5, has the keys adjective",
        ),
        (
            "flickr30k_image_captions",
            '{"5": ["a"]}',
            "flickr30k_image_captions.json'.*captions of '1000'",
        ),
        ("counting", None, "expected a file at '.*counting.json', found none"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_said_at_once(
    folder: Path, file: str, content: str | None, message: str
) -> None:
    path = folder / DATA / f"{file}.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        _open(folder)


def test_the_identity_follows_json_and_images_and_not_the_place(
    folder: Path, tmp_path: Path
) -> None:
    before = _open(folder).identity()
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert _open(moved).identity() == before
    flickr = moved / "flickr30k/flickr30k-images/1000.jpg"
    seen = [before]
    os.utime(flickr, ns=(1, 1))
    seen.append(_open(moved).identity())
    (moved / DATA / "counting/neg/1000_0.png").unlink()
    seen.append(_open(moved).identity())
    native.save(moved / DATA / "counting/neg/1000.jpg", native.photograph(5))
    seen.append(_open(moved).identity())
    _edit(moved, "counting", lambda value: value["1000"][0].update(pos="there are 7 dogs."))
    seen.append(_open(moved).identity())
    assert all(seen[i] != seen[j] for i in range(5) for j in range(i))
    assert str(moved) not in json.dumps(seen)


def test_a_folder_behind_a_uri_gives_the_same_rows(folder: Path) -> None:
    import fsspec

    remote = fsspec.filesystem("memory")
    remote.put(str(folder), "/countercurate", recursive=True)
    try:
        assert _read("memory://countercurate", subsets=ALL) == _read(folder, subsets=ALL)
        assert (
            _open("memory://countercurate").identity()["files"] == _open(folder).identity()["files"]
        )
    finally:
        remote.rm("/countercurate", recursive=True)
