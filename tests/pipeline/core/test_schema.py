from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.schema import (
    COLUMNS,
    MvcError,
    image_bytes,
    mvc_schema,
    pair_id,
    read_mvc,
    read_shard,
    row_counts,
    rows_at,
)
from pipeline.core.storage import write_json


def test_the_arrow_schema_is_the_one_that_datasets_would_write() -> None:
    datasets = pytest.importorskip("datasets")
    value = {"string": datasets.Value("string"), "double": datasets.Value("float64")}
    features = datasets.Features(
        {
            field.name: value.get(str(field.type)) or datasets.Image()
            for field in mvc_schema(rejects=True)
        }
    )
    assert features.arrow_schema.equals(mvc_schema(rejects=True), check_metadata=True)


def test_a_pair_and_its_mirror_image_have_one_id() -> None:
    assert pair_id("1" * 64, "x", "2" * 64, "y") == pair_id("2" * 64, "y", "1" * 64, "x")
    assert pair_id("1" * 64, "x", "2" * 64, "y") != pair_id("1" * 64, "y", "2" * 64, "x")
    assert len(pair_id("", "", "", "")) == 32


def _folder(path: Path, version: int = 1, drop: str | None = None, num_rows: int = 2) -> Path:
    rows = {
        name: (
            [{"bytes": b"x", "path": None}] * num_rows
            if name in ("image_a", "image_b")
            else [None] * num_rows
        )
        for name in COLUMNS
    }
    table = pa.table(rows, schema=mvc_schema())
    (path / "data").mkdir(parents=True)
    pq.write_table(
        table.drop_columns([drop]) if drop else table, path / "data/train-00000-of-00001.parquet"
    )
    write_json(path / "manifest.json", {"schema_version": version})
    return path


def test_a_split_is_read_with_its_images(tmp_path: Path) -> None:
    table = read_mvc(_folder(tmp_path / "mvc"), "train")
    assert tuple(table.column_names) == COLUMNS
    assert image_bytes(table, "image_a") == [b"x", b"x"]


@pytest.mark.parametrize(
    ("options", "split", "message"),
    [
        ({"version": 0}, "train", "expected schema version 1, got 0"),
        ({"drop": "question"}, "train", "column 'question' is missing"),
        ({}, "validation", "split 'validation' has no rows"),
        ({"num_rows": 0}, "train", "split 'train' has no rows"),
    ],
)
def test_what_is_no_mvc_says_what_is_wrong(
    tmp_path: Path, options: dict, split: str, message: str
) -> None:
    with pytest.raises(MvcError, match=message):
        read_mvc(_folder(tmp_path / "mvc", **options), split)


def test_a_folder_without_manifest_and_a_torn_shard_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MvcError, match=r"manifest\.json, found none"):
        read_mvc(tmp_path, "train")
    folder = _folder(tmp_path / "mvc")
    (folder / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(MvcError, match="cannot be read as Parquet"):
        read_mvc(folder, "train")


def test_rows_are_read_by_number_from_the_row_groups_that_hold_them(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"n": range(10), "other": range(10)}), path, row_group_size=3)
    assert list(rows_at(path, [0, 4, 5, 9], ["n"])) == [(n, {"n": n}) for n in (0, 4, 5, 9)]
    assert [row for row, _ in rows_at(path, [8, 1, 0], ["n"])] == [1, 0, 8]  # group by group
    assert list(rows_at(path, [], ["n"])) == []


def test_columns_of_a_shard_come_in_the_order_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1], "b": [2]}), path)
    assert read_shard(path, ["b", "a"]).column_names == ["b", "a"]
    with pytest.raises(MvcError, match=r"x\.parquet: column 'c' is missing"):
        read_shard(path, ["a", "c"])


def test_rows_are_counted_by_split_reason_category_and_source() -> None:
    counts = row_counts(
        {
            ("train", "", "object", "b"): 3,
            ("train", "", "count", "a"): 1,
            ("rejects", "captions_equal", "object", "a"): 2,
        }
    )
    assert counts == {
        "in": 6,
        "kept": 4,
        "dropped": 2,
        "by_split": {"train": 4, "validation": 0},
        "dropped_by_reason": {"captions_equal": 2},
        "kept_by_category": {"count": 1, "object": 3},
        "dropped_by_category": {"object": 2},
        "kept_by_source": {"a": 1, "b": 3},
        "dropped_by_source": {"a": 2},
    }
    assert list(counts["kept_by_category"]) == ["count", "object"]  # the manifest is sorted
