"""Linked groups and repeated pairs: small cases by hand, and random ones against a slow oracle."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.hashing import NULL_KEY, hash_key, signed
from pipeline.core.recipe import RecipeError
from pipeline.dedup.decontaminate import benchmark_keys, in_benchmark
from pipeline.dedup.groups import LinkSection, find_links, link_groups, repeated_rows

N = NULL_KEY
NONE = np.full((3, 2), N)


def test_keys_are_the_first_bits_with_a_sign() -> None:
    assert [hash_key(f"{1:016x}" + "f" * 48), hash_key("f" * 64), signed(1 << 63)] == [
        1,
        -1,
        -(1 << 63),
    ]


@pytest.mark.parametrize(
    ("pixels", "phash", "max_bits", "linked"),
    [
        ([[5, 6], [6, 7], [8, 9]], NONE.tolist(), None, [1, 1, 3]),  # an image in two groups
        ([[5, 6], [7, 8], [9, 10]], NONE.tolist(), 2, [1, 2, 3]),
        ([[5, 6], [6, 8], [8, 9]], NONE.tolist(), None, [1, 1, 1]),  # a chain
        # 2 bits, then 2 bits
        ([[5, 6], [7, 8], [9, 10]], [[0b0000, N], [N, 0b0011], [0b1111, N]], 2, [1, 1, 1]),
        ([[5, 6], [7, 8], [9, 10]], [[0b0000, N], [N, 0b0111], [N, N]], 2, [1, 2, 3]),  # 3 bits
        ([[5, 6], [7, 8], [9, 10]], [[0, N], [0, N], [1, N]], 0, [1, 1, 3]),
        ([[N, N], [N, N], [N, N]], NONE.tolist(), 2, [1, 2, 3]),  # what is not there links nothing
    ],
)
def test_groups_that_share_a_picture_are_one(
    pixels: list[Any], phash: list[Any], max_bits: int | None, linked: list[int]
) -> None:
    given = np.array([1, 2, 3])
    assert link_groups(given, np.array(pixels), np.array(phash), max_bits).tolist() == linked
    back = link_groups(given[::-1], np.array(pixels)[::-1], np.array(phash)[::-1], max_bits)
    assert back[::-1].tolist() == linked


@pytest.mark.parametrize("seed", range(4))
def test_linking_is_what_merging_until_nothing_changes_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, pixels = rng.integers(0, 25, 40), rng.integers(100, 150, (40, 2))
    names = groups.tolist()
    changed = True
    while changed:
        changed = False
        for i in range(40):
            for j in range(40):
                if names[i] != names[j] and (
                    set(pixels[i]) & set(pixels[j]) or groups[i] == groups[j]
                ):
                    names[i] = names[j] = min(names[i], names[j])
                    changed = True
    assert link_groups(groups, pixels, np.full((40, 2), N), None).tolist() == names


def test_of_repeated_pairs_the_smallest_source_and_id_stays() -> None:
    order = [("b", "1"), ("a", "2"), ("a", "1"), ("a", "0"), ("a", "9")]
    content = np.array([7, 7, 7, N, N])
    assert repeated_rows(content, lambda rows: [order[row] for row in rows]).tolist() == [0, 1]
    assert (
        repeated_rows(np.array([1, 2, N]), lambda rows: [order[row] for row in rows]).tolist() == []
    )


def _columns(num: int, **changed: Any) -> dict[str, np.ndarray]:
    numbers = np.arange(num)
    columns: dict[str, Any] = {
        "drop_reason": np.full(num, "", object),
        "content_key": numbers,
        "group_key": numbers,
    }
    columns |= {f"pixels_key_{side}": numbers * 2 + place for place, side in enumerate("ab")}
    columns |= {f"phash_{side}": np.full(num, N) for side in "ab"}
    return columns | changed


def _order(rows: np.ndarray) -> list[tuple[str, str]]:
    return [("s", f"{row:04d}") for row in rows]


def test_a_group_that_linking_made_too_large_is_an_error_with_a_remedy() -> None:
    shared = np.arange(20) * 2
    shared[:5] = 0  # five rows of five groups show one picture
    with pytest.raises(
        RecipeError,
        match=r"join 5 groups into one of 5 rows, 25 % of the data .* links.max_bits=null",
    ):
        find_links(_columns(20, pixels_key_a=shared), _order, LinkSection())
    links = find_links(_columns(20, pixels_key_a=shared), _order, LinkSection(max_group_frac=0.3))
    assert links.facts == {
        "num_groups": 20,
        "num_linked_groups": 16,
        "largest_rows": 5,
        "largest_groups": 5,
        "frac_largest": 0.25,
    }


def test_a_group_that_its_source_states_may_be_large_and_dropped_rows_link_nothing() -> None:
    assert (
        find_links(_columns(4, group_key=np.zeros(4, np.int64)), _order, LinkSection()).facts[
            "largest_groups"
        ]
        == 1
    )
    same = np.zeros(20, np.int64)
    dropped = np.array([""] + ["line_not_json"] * 19, object)
    links = find_links(
        _columns(20, pixels_key_a=same, drop_reason=dropped, content_key=np.full(20, N)),
        _order,
        LinkSection(),
    )
    assert links.group_N.tolist() == list(range(20))
    assert links.reason_N.tolist() == dropped.tolist()


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    ).resize((96, 96), Image.Resampling.BICUBIC)


def _bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_images_of_a_benchmark_are_found_in_folders_and_parquet_also_when_recompressed(
    tmp_path: Path,
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/one.PNG").write_bytes(_bytes(_noise(1), "PNG"))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    image = pa.array(
        [{"bytes": _bytes(_noise(2), "PNG"), "path": None}],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({"text": ["x"], "image": image}), tmp_path / "test.parquet")
    known = benchmark_keys(str(tmp_path))

    def keys(*images: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        from pipeline.core.images import pixels_sha256
        from pipeline.dedup.phash import perceptual_hash

        return np.array([hash_key(pixels_sha256(one)) for one in images]), np.array(
            [signed(perceptual_hash(one) or 0) for one in images]
        )

    recompressed = Image.open(
        io.BytesIO(_bytes(_noise(1).resize((80, 80)), "JPEG", quality=70))
    ).convert("RGB")
    images = keys(_noise(1), _noise(2), recompressed, _noise(3))
    assert in_benchmark(*images, known, 2).tolist() == [True, True, True, False]
    assert in_benchmark(*images, known, None).tolist() == [True, True, False, False]
    columns = _columns(4, pixels_key_b=images[0], phash_b=images[1])
    found = find_links(columns, _order, LinkSection(benchmarks=(str(tmp_path),)))
    assert found.reason_N.tolist() == ["image_b_in_benchmark"] * 3 + [""]


def test_a_benchmark_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds no image"):
        benchmark_keys(str(tmp_path))
