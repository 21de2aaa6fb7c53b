"""Files of remote roots: many are looked at by listing their folder once, and what is seen stays
the same.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.sources.io import NUM_LOOKS_BEFORE_LISTING, SourceFolder


class CountingFileSystem(MemoryFileSystem):
    """Files in memory, which say how often they were asked for."""

    protocol: ClassVar[tuple[str, ...]] = ("counting",)
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("counting:/"))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        self.asked.append(f"info {path}")
        return super().info(path, **kwargs)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        self.asked.append(f"ls {path}")
        return super().ls(path, detail=detail, **kwargs)


@pytest.fixture
def storage() -> Iterator[CountingFileSystem]:
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    found = fsspec.filesystem("counting")
    for number in range(30):
        found.pipe(f"/photos/{number}.jpg", b"x" * number)
    found.asked.clear()
    yield found
    found.store.clear()


def looks(names: list[str], root: SourceFolder | None = None) -> list[list[object]]:
    root = root or SourceFolder("counting:///photos")
    return [root.look(name) for name in names]


def test_a_folder_of_many_is_listed_once_and_tells_what_each_file_told(
    storage: CountingFileSystem,
) -> None:
    names = [f"{number}.jpg" for number in range(30)]
    one_by_one = [SourceFolder("counting:///photos").look(name) for name in names]
    assert [look[:2] for look in one_by_one] == [[f"{number}.jpg", number] for number in range(30)]
    storage.asked.clear()
    assert looks(names) == one_by_one
    assert [one.split()[0] for one in storage.asked].count("ls") == 1
    assert len(storage.asked) == NUM_LOOKS_BEFORE_LISTING + 1


def test_what_is_not_there_is_a_bare_name_and_a_change_is_seen_by_the_next_root(
    storage: CountingFileSystem,
) -> None:
    names = [f"{number}.jpg" for number in range(0, 40, 2)]
    before = looks(names)
    assert before[-5:] == [[f"{number}.jpg"] for number in range(30, 40, 2)]
    assert looks([f"nowhere/{number}.jpg" for number in range(20)]) == [
        [f"nowhere/{number}.jpg"] for number in range(20)
    ]
    storage.pipe("/photos/28.jpg", b"another")
    assert [a != b for a, b in zip(before, looks(names), strict=True)] == [
        number == 28 for number in range(0, 40, 2)
    ]


def test_a_listing_without_sizes_is_not_believed(
    storage: CountingFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.jpg" for number in range(30)]
    expected = looks(names)
    bare = [{"name": "/photos/1.jpg", "size": None, "type": "file"}]
    monkeypatch.setattr(CountingFileSystem, "ls", lambda *_, **__: bare)  # as http pages list links
    assert looks(names) == expected
