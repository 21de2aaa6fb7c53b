"""Images by content id, over several chunks' files."""

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.core.storage import Stage, open_stage
from pipeline.storage import image_store as module
from pipeline.storage.image_store import ImageLibrary, write_images, write_index


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stage_of(folder: Path, chunks: list[list[bytes]]) -> Stage:
    stage = open_stage(folder, "ingest", "fingerprint")
    for index, images in enumerate(chunks):
        write_images(stage, index, {sha(data): data for data in images})
    write_index(stage, len(chunks))
    return stage


def test_many_are_read_as_one_by_one_in_the_given_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_OPEN", 2)  # fewer than there are files
    images = [f"image {number}".encode() * (number + 1) for number in range(12)]
    stored = ImageLibrary(
        stage_of(tmp_path, [images[start : start + 3] for start in range(0, 12, 3)])
    )
    keys = [sha(images[number]) for number in (7, 0, 11, 7, 3)]
    assert (
        stored.read(keys)
        == [stored[key] for key in keys]
        == [images[number] for number in (7, 0, 11, 7, 3)]
    )


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    stored = ImageLibrary(stage_of(tmp_path, [[b"one"], []]))
    assert stored.read([None, sha(b"one"), sha(b"two"), "f" * 64]) == [None, b"one", None, None]
    assert stored.read([]) == []


def test_a_build_without_any_image_reads_none(tmp_path: Path) -> None:
    assert ImageLibrary(stage_of(tmp_path, [[]])).read([sha(b"one"), None]) == [None, None]


def test_an_image_of_two_chunks_is_one(tmp_path: Path) -> None:
    stored = ImageLibrary(stage_of(tmp_path, [[b"same", b"a"], [b"same", b"b"]]))
    assert stored.chunk_of(sha(b"same")) == 0
    assert stored.read([sha(b"same"), sha(b"b")]) == [b"same", b"b"]


def test_any_number_of_chunks_fits_the_limit_on_open_files(tmp_path: Path) -> None:
    images = [f"image {number}".encode() for number in range(40)]
    stage = stage_of(tmp_path, [[data] for data in images])
    before = len(os.listdir("/proc/self/fd"))
    stored = ImageLibrary(stage)
    assert stored.read([sha(data) for data in images]) == images
    assert len(os.listdir("/proc/self/fd")) == before
