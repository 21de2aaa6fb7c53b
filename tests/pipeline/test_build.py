"""Whole builds on Ray, on real files: counts, bytes, faults, restarts, and the job as a cluster
runs it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.schema import COLUMNS, read_manifest, read_mvc

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


Build = Callable[..., str]


@pytest.fixture
def build_here(one_ray: None, command_here: Callable[..., tuple[int, str]]) -> Build:
    """`build_here(*arguments)`: the job's command line in this process, on the Ray that runs in it;
    returns what it printed.
    """
    from pipeline import build_mvc

    def run(*arguments: str, recipe: str = "mvc_pairs", expect: int = 0) -> str:
        code, printed = command_here(
            build_mvc.run, "--recipe", ROOT / f"recipes/{recipe}.yaml", *arguments
        )
        assert code == expect, printed
        return printed

    return run


def _hashes(out: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*.parquet")
        if ".work" not in path.parts
    }


def test_every_candidate_ends_in_one_place_and_a_second_build_has_the_same_bytes(
    build_here: Build, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    bad = {
        "image_a": "images/0-0.jpg",
        "image_b": "images/text.jpg",
        "caption_a": "a",
        "caption_b": "b",
        "category": "other",
        "id": "bad",
    }
    good = {**bad, "image_b": "images/0-1.jpg", "id": "same"}
    lines = [
        "{broken",
        json.dumps(bad),
        json.dumps({**good, "caption_b": "A"}),
        json.dumps({**good, "image_b": "images/0-0.jpg"}),
    ]
    repeated = {**good, "caption_a": "x one", "caption_b": "x two"}
    path = manifest(
        6, [*lines, json.dumps({**repeated, "id": "r2"}), json.dumps({**repeated, "id": "r1"})]
    )
    (path.parent / "images/text.jpg").write_text("no picture")
    options = [f"sources.0.path={path}", "workers.chunk_pairs=7", "validation.fraction=0.2"]
    out = tmp_path / "one"
    build_here(*options, f"out={out}")

    manifest_ = read_manifest(out)
    counts = manifest_["rows"]
    assert counts["in"] == 30 == counts["kept"] + counts["dropped"]
    assert counts["dropped_by_reason"] == {
        "captions_equal": 1,
        "duplicate_pair": 1,
        "image_b_not_an_image": 1,
        "images_equal": 1,
        "line_not_json": 1,
    }
    train, validation = read_mvc(out, "train"), read_mvc(out, "validation")
    assert train.num_rows + validation.num_rows == counts["kept"] == 25
    assert not set(train["group"].to_pylist()) & set(validation["group"].to_pylist())
    assert {name for name, _ in manifest_["files"].items()} == {
        p.relative_to(out).as_posix() for p in out.glob("*/*.parquet")
    }
    _datasets_reads_it(out)

    assert "nothing to do" in build_here(*options, f"out={out}")
    build_here(*options, f"out={tmp_path / 'two'}")
    assert _hashes(tmp_path / "two") == _hashes(out)


def _datasets_reads_it(out: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(str(out), split="train", cache_dir=str(out / ".work" / "datasets"))
    assert tuple(data.column_names) == COLUMNS
    assert data[0]["image_a"].size == (48, 48)
    rejects = datasets.load_dataset(
        str(out), "rejects", split="train", cache_dir=str(out / ".work" / "datasets")
    )
    assert rejects.column_names[-1] == "drop_reason"
    by_reason = {row["drop_reason"]: row for row in rejects}
    assert by_reason["image_b_not_an_image"]["image_b"] is None
    assert by_reason["image_b_not_an_image"]["image_a"] is not None


def test_a_gpu_that_is_not_there_is_not_waited_for(
    build_here: Build,
    manifest: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("pipeline.build_mvc", "pipeline.core.ray_pool"):
        monkeypatch.setattr(f"{module}.cluster_resources", lambda: {"CPU": 2.0})
    clip = "encoders.clip={model: 'builtin:scenes-clip', device: cuda}"
    assert "but Ray sees none here" in build_here(
        f"sources.0.path={manifest(1)}", f"out={tmp_path / 'out'}", clip, expect=2
    )


def test_a_new_threshold_embeds_nothing_again(
    build_here: Build, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    options = [f"sources.0.path={manifest(4)}", f"out={tmp_path / 'out'}"]
    build_here(*options)
    embedded = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/.work/embed").rglob("*.parquet")
    }
    build_here(*options, "selection.pixels_image_cos.min=0.999")
    stages = {
        stage["name"]: stage["reused"]
        for stage in json.loads((tmp_path / "out/result.json").read_text())["stages"]
    }
    assert [name for name, reused in stages.items() if reused] == [
        "ingest",
        "link",
        "embed",
        "score",
    ]
    assert [name for name, reused in stages.items() if not reused] == [
        "select",
        "rewrite",
        "audit",
        "finalise",
    ]
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/.work/embed").rglob("*.parquet")
    } == embedded
    assert read_manifest(tmp_path / "out")["rows"]["dropped_by_reason"] == {
        "pixels_image_cos_below_min": 16
    }
    build_here(*options, "selection.max_caption_chars=10")
    assert read_manifest(tmp_path / "out")["rows"]["dropped_by_reason"] == {
        "caption_a_too_long": 16
    }
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/.work/embed").rglob("*.parquet")
    } == embedded


def test_people_of_hands_are_never_split_and_all_candidates_are_accounted_for(
    build_here: Build, test_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "hands"
    build_here(f"sources.0.path={test_data / 'hands' / 'pairs.jsonl'}", f"out={out}")
    counts = read_manifest(out)["rows"]
    assert counts["in"] == 6750 == counts["kept"] + counts["dropped"]
    people = {
        split: Counter(read_mvc(out, split, ["group"])["group"].to_pylist())
        for split in ("train", "validation")
    }
    assert not set(people["train"]) & set(people["validation"])
    assert len(people["train"]) + len(people["validation"]) == 150
