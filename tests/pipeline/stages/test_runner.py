"""Whole builds on a handful of rows without Ray: every stage, interrupted and repeated, and what is
published.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from pipeline.config import BuildSection
from pipeline.core.ray_pool import Pool
from pipeline.core.schema import read_manifest, read_mvc
from pipeline.sources.pairs import PairsSection
from pipeline.sources.scenes.source import ScenesSection
from pipeline.stages.finalize import publish
from pipeline.stages.plan import Plan, plan_build
from pipeline.stages.runner import Build


class KilledError(Exception):
    """Stands for a kill: nothing in the build expects it."""


def one_by_one(stop_after: int | None = None) -> Callable[..., Iterator[int]]:
    """A map in this process; with `stop_after` it is interrupted after so many chunks, counted over
    all stages.
    """
    done = 0

    def run(
        work: Any, items: list[int], arguments: tuple[Any, ...] = ()
    ) -> Iterator[tuple[int, Any]]:
        nonlocal done
        results = Pool(0).map(work, items, arguments)
        for _ in items:
            if stop_after is not None and done >= stop_after:
                raise KilledError
            yield next(results)
            done += 1

    return run


def built(plan: Plan, stop_after: int | None = None) -> tuple[dict[str, Any], Build]:
    job = Build(plan, one_by_one(stop_after), 1)
    job.run()
    # Drawing is most of what the page of so few rows costs; test_report.py has pages with their
    # plots.
    with patch("pipeline.report.scores.figure_svg", return_value="<svg></svg>"):
        return publish(job), job


def hashes(out: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("*/*.parquet"))
    }


def picture(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def write_pairs(folder: Path, pairs: list[dict[str, Any]]) -> PairsSection:
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs) + "\n")
    return PairsSection(kind="pairs", path=str(folder / "pairs.jsonl"))


def pair(
    number: int,
    image_a: str,
    image_b: str,
    group: str,
    caption: str = "A thing, number",
    **more: Any,
) -> dict[str, Any]:
    texts = {
        "caption_a": f"{caption} {number}x",
        "caption_b": f"{caption} {number}y",
        "category": "other",
    }
    return {
        "id": str(number),
        "image_a": image_a,
        "image_b": image_b,
        "group": group,
        **texts,
        **more,
    }


@pytest.fixture
def photos(tmp_path: Path) -> list[dict[str, Any]]:
    """Thirty pairs of thirty groups."""
    for number in range(60):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    return [
        pair(number, f"{2 * number}.png", f"{2 * number + 1}.png", f"g{number}")
        for number in range(30)
    ]


@pytest.mark.slow
def test_an_interrupted_build_goes_on_where_it_was_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    source = ScenesSection(kind="scenes", num_pairs=40, seed=3)
    options: dict[str, Any] = {
        "sources": (source,),
        "workers": {"chunk_pairs": 6},
        "selection": {"caps": {"category": {"count": 2}}},
    }
    manifest, _ = built(plan_build(BuildSection(**options, out=str(tmp_path / "whole"))))
    assert manifest["rows"]["dropped_by_reason"]["over_cap_category"] > 0
    killed = plan_build(BuildSection(**options, out=str(tmp_path / "killed")))
    for stop_after in (3, 9, 2, 1):  # in ingest, in embed, in rewriting
        with pytest.raises(KilledError):
            built(killed, stop_after)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/.work").rglob("*-000*")}
    assert len(parts) > 20
    built(killed)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    assert read_manifest(tmp_path / "killed") == manifest


@pytest.mark.slow
def test_chunk_size_changes_no_published_byte(tmp_path: Path) -> None:
    for size in (5, 100):
        section = BuildSection(
            sources=(ScenesSection(kind="scenes", num_pairs=30),),
            out=str(tmp_path / str(size)),
            workers={"chunk_pairs": size},
        )
        built(plan_build(section))
    assert hashes(tmp_path / "5") == hashes(tmp_path / "100")


@pytest.mark.slow
def test_a_picture_in_other_containers_never_stands_on_both_sides(tmp_path: Path) -> None:
    pairs = []
    for number in range(20):
        for kind in ("PNG", "BMP", "TIFF"):
            for side in (0, 1):
                (tmp_path / f"{number}-{side}.{kind}").write_bytes(picture(2 * number + side, kind))
            pairs.append(
                pair(len(pairs), f"{number}-0.{kind}", f"{number}-1.{kind}", f"{kind}-{number}")
            )
    out = tmp_path / "out"
    section = BuildSection(
        sources=(write_pairs(tmp_path, pairs),), out=str(out), validation={"fraction": 0.3}
    )
    manifest, _ = built(plan_build(section))
    assert manifest["links"]["num_groups"] == 60 and manifest["links"]["num_linked_groups"] == 20
    pictures = {
        split: {name.split("-")[1] for name in read_mvc(out, split, ["group"])["group"].to_pylist()}
        for split in ("train", "validation")
    }
    assert len(pictures["train"]) + len(pictures["validation"]) == 20
    assert not pictures["train"] & pictures["validation"]


@pytest.mark.slow
def test_the_same_pair_in_another_container_is_a_duplicate(
    tmp_path: Path, photos: list[dict[str, Any]]
) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.bmp").write_bytes(picture(number, "BMP"))
    again = {**photos[0], "id": "again", "image_a": "0.bmp", "image_b": "1.bmp", "group": "other"}
    section = BuildSection(
        sources=(write_pairs(tmp_path, [again, *photos, photos[3]]),), out=str(tmp_path / "out")
    )
    manifest, _ = built(plan_build(section))
    assert manifest["rows"]["dropped_by_reason"] == {"duplicate_pair": 2}


def test_texts_of_the_data_are_never_markup_in_the_report(
    tmp_path: Path, photos: list[dict[str, Any]]
) -> None:
    odd = pair(99, "0.png", "1.png", "g", caption="<script>alert(1)</script> & more")
    section = BuildSection(
        name="<b>x</b>", sources=(write_pairs(tmp_path, [odd]),), out=str(tmp_path / "out")
    )
    built(plan_build(section))
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>" not in page and "<b>x</b>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
def test_scores_that_no_encoder_made_stay_null_and_every_row_is_somewhere(
    tmp_path: Path, photos: list[dict[str, Any]]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    photos[4]["image_b"] = "broken.png"
    section = BuildSection(
        sources=(write_pairs(tmp_path, photos),),
        out=str(tmp_path / "out"),
        validation={"num_pairs": 7},
    )
    manifest, job = built(plan_build(section))
    assert manifest["rows"]["by_split"] == {"train": 22, "validation": 7}
    assert manifest["rows"]["dropped_by_reason"] == {"image_b_not_an_image": 1}
    row = read_mvc(tmp_path / "out", "train").to_pylist()[0]
    assert row["clip_image_cos"] is row["dinov2_image_cos"] is row["caption_margin_a"] is None
    assert row["pixels_image_cos"] == round(row["pixels_image_cos"], 4)
    assert row["rewrite_status"] == "template"
    assert [one["verdict"] for one in manifest["audit"]] == ["not_applicable"]
    assert {one["name"]: one["reused"] for one in job.timings} == dict.fromkeys(
        (*job.stages,)[:-1], False
    )


@pytest.mark.slow
def test_originals_that_compression_gives_away_are_warned_of_and_reencoding_stores_both_alike(
    tmp_path: Path,
) -> None:
    pairs = []
    for number in range(30):
        rng = np.random.default_rng(number)
        for side, quality in (("a", 95), ("b", 75)):
            smooth = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize(
                (160, 160), Image.Resampling.BICUBIC
            )
            grain = rng.normal(0, 12, (160, 160, 1))
            view = Image.fromarray(
                (np.asarray(smooth) * 0.7 + 40 + grain).clip(0, 255).astype(np.uint8)
            )
            view.save(tmp_path / f"{number}{side}.jpg", quality=quality)
        pairs.append(
            pair(number, f"{number}a.jpg", f"{number}b.jpg", f"g{number}", operation="generate")
        )
    source = write_pairs(tmp_path, pairs)
    given, _ = built(plan_build(BuildSection(sources=(source,), out=str(tmp_path / "given"))))
    assert (
        given["audit"][0]["verdict"] == "warning" and given["audit"][0]["separability"]["auc"] > 0.9
    )
    assert "reencode" in given["warnings"][0]
    cured, _ = built(
        plan_build(
            BuildSection(
                sources=(source,), out=str(tmp_path / "cured"), normalize={"mode": "reencode"}
            )
        )
    )
    assert cured["rows"]["kept"] == 30
    shown = read_mvc(tmp_path / "cured", "train").to_pylist()[0]
    assert shown["image_a"]["bytes"][8:12] == shown["image_b"]["bytes"][8:12] == b"WEBP"
    assert shown["image_a_sha256"] == hashlib.sha256(shown["image_a"]["bytes"]).hexdigest()
