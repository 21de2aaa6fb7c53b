from pathlib import Path

import pytest

from pipeline.core.recipe import UserError
from pipeline.core.storage import (
    LOCK,
    Owner,
    only_one,
    open_stage,
    read_json,
    remove_stale,
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
    with first, pytest.raises(UserError, match="another job is writing there"), second:
        pass
    with only_one(tmp_path / "out", "out"):
        pass


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written"),
        only_one(tmp_path / "out" / "x", "out"),
    ):
        pass


@pytest.mark.parametrize(
    ("owner", "names", "refused"),
    [
        (Owner("job", (".mine",)), [], None),
        (Owner("job", (".mine",)), [LOCK], None),
        (Owner("job", (".mine",)), ["b.txt", "a.txt"], "a.txt"),
        (Owner("job", (".mine",)), ["a.txt", ".mine"], None),
        (Owner("job", ("done", ".parts")), ["a.txt", ".parts"], None),
        (Owner("job", (".mine",), takes=("data",)), ["a.txt"], None),
        (Owner("job", (".mine",), takes=("data",)), ["a.txt", "data"], "data"),
        (Owner("job", (LOCK,), takes=("data",)), [LOCK, "data"], None),
        (
            Owner("job", (".mine",), never=("manifest.json",)),
            [".mine", "manifest.json"],
            "manifest",
        ),
    ],
)
def test_a_folder_of_somebody_else_is_refused(
    owner: Owner, names: list[str], refused: str | None, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    if refused is None:
        owner.check(tmp_path)
    else:
        with pytest.raises(
            UserError, match=f"^out=.*an earlier job, found '{refused}.*another out"
        ):
            owner.check(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_file_is_no_folder_of_a_job_and_a_new_folder_is_free(tmp_path: Path) -> None:
    owner = Owner("job", (".mine",))
    owner.check(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^to=.*found 'a file of this name'; choose another to$"):
        owner.check(tmp_path / "file", "to")


def test_a_claimed_folder_may_be_filled_and_emptied_again(tmp_path: Path) -> None:
    owner, out = Owner("job", (".mine",)), tmp_path / "out"
    owner.check(out)
    owner.claim(out, "of a job\n")
    for name in ("data/a.parquet", "data/b.parquet", "data/notes.txt", "images/c.png"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("")
    (out / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    owner.check(out)
    remove_stale(out, "data/*.parquet", "images", "linked", keep={"data/b.parquet": "sha256"})
    left = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert sorted(left) == [".mine", "data/b.parquet", "data/notes.txt"]
    assert (tmp_path / "elsewhere").is_dir() and not (out / "linked").exists()
