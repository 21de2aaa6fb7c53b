from pathlib import Path

import pytest

from pipeline.core.storage import (
    StoreError,
    only_one,
    open_stage,
    read_json,
    write_atomically,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_atomically(path, fail)
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_stage_is_done_only_when_its_marker_is_there(tmp_path: Path) -> None:
    stage = open_stage(tmp_path, "score", "0123")
    stage.part("rows", 0).write_bytes(b"abc")
    assert stage.done() is None
    record = stage.finish({"num_rows": 1})
    assert stage.done() == record
    assert record["files"]["rows-00000.parquet"].startswith("ba7816bf")  # sha256 of "abc"


def test_two_writers_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    first, second = only_one(tmp_path / "out", "out"), only_one(tmp_path / "out", "out")
    with first, pytest.raises(StoreError, match="another job is writing there"), second:
        pass
    with only_one(tmp_path / "out", "out"):
        pass


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(StoreError, match="cannot be written"),
        only_one(tmp_path / "out" / "x", "out"),
    ):
        pass
