"""What the demonstration runs on which folder; the jobs themselves are tested where they live."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.demo import build_from, commands, run
from pipeline.core.recipe import UserError


def test_built_in_scenes_are_the_default(tmp_path: Path) -> None:
    assert build_from(None, tmp_path) == ["--recipe", "mvc_demo"]


@pytest.mark.parametrize(
    ("name", "recipe"), [("pairs.jsonl", "mvc_pairs"), ("labels.jsonl", "mvc_edits")]
)
def test_a_manifest_says_what_a_folder_holds(name: str, recipe: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}\n")
    assert build_from(tmp_path, tmp_path / "out") == [
        "--recipe",
        recipe,
        f"sources.0.path={tmp_path / name}",
    ]


def test_one_folder_per_label_becomes_a_manifest(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/notes.txt", "dog/2.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    out = tmp_path / "out"
    build = build_from(tmp_path, out)
    assert build[2:4] == [f"sources.0.path={out / 'labels.jsonl'}", f"sources.0.root={tmp_path}"]
    lines = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    assert lines == [{"image": "cat/1.jpg", "label": "cat"}, {"image": "dog/2.PNG", "label": "dog"}]


def test_a_folder_that_says_nothing_is_one_line(
    command_here: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match="expected pairs.jsonl, labels.jsonl, or one folder per label"
    ):
        build_from(tmp_path, tmp_path / "out")
    code, printed = command_here(run, "--photos", tmp_path)
    assert code == 2 and printed.count("\n") == 1 and printed.startswith("error: photos=")


def test_each_job_reads_what_the_one_before_wrote(tmp_path: Path) -> None:
    (_, build), (_, train), (_, evaluate) = commands(tmp_path, ["--recipe", "mvc_demo"])
    assert build[-1] == f"out={tmp_path / 'mvc'}"
    assert f"data={tmp_path / 'mvc'}" in train and f"out={tmp_path / 'model'}" in train
    assert f"data={tmp_path / 'mvc'}" in evaluate and f"model={tmp_path / 'model'}" in evaluate
