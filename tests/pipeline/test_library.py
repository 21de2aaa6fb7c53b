"""Images by content id, over several chunks' files."""

import hashlib
from pathlib import Path

import pytest

from pipeline import library as module
from pipeline.library import ImageLibrary, write_images, write_index
from pipeline.store import Stage, open_stage


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stage_of(folder: Path, chunks: list[list[bytes]]) -> Stage:
    stage = open_stage(folder, "ingest", "fingerprint")
    for index, images in enumerate(chunks):
        write_images(stage, index, {sha(data): data for data in images})
    write_index(stage, len(chunks))
    return stage


def test_many_are_read_as_one_by_one_in_the_given_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_OPEN", 2)  # fewer than there are files
    images = [f"image {number}".encode() * (number + 1) for number in range(12)]
    stored = ImageLibrary(stage_of(tmp_path, [images[start : start + 3] for start in range(0, 12, 3)]))
    keys = [sha(images[number]) for number in (7, 0, 11, 7, 3)]
    assert stored.read(keys).to_pylist() == [stored[key] for key in keys] == [images[number] for number in (7, 0, 11, 7, 3)]


def test_what_is_not_there_is_null(tmp_path: Path) -> None:
    stored = ImageLibrary(stage_of(tmp_path, [[b"one"], []]))
    assert stored.read([None, sha(b"one"), sha(b"two"), "f" * 64]).to_pylist() == [None, b"one", None, None]
    assert stored.read([]).to_pylist() == []


def test_a_build_without_any_image_reads_nulls(tmp_path: Path) -> None:
    assert ImageLibrary(stage_of(tmp_path, [[]])).read([sha(b"one"), None]).to_pylist() == [None, None]


def test_an_image_of_two_chunks_is_one(tmp_path: Path) -> None:
    stored = ImageLibrary(stage_of(tmp_path, [[b"same", b"a"], [b"same", b"b"]]))
    assert stored.chunk_of(sha(b"same")) == 0
    assert stored.read([sha(b"same"), sha(b"b")]).to_pylist() == [b"same", b"b"]
