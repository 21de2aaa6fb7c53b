"""The paper's recipe, whole, on small folders laid out as its two sources are, with small encoders
on disk.
"""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.config import BuildSection
from pipeline.core.recipe import load_recipe
from pipeline.core.schema import read_manifest, read_mvc
from pipeline.stages.finalize import publish
from pipeline.stages.plan import plan_build
from pipeline.stages.runner import Build
from tests.pipeline import native
from tests.pipeline.stages import test_runner as steps

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def test_the_papers_recipe_keeps_what_its_rules_say(
    clip_folder: Path, dinov2_folder: Path, tmp_path: Path
) -> None:
    countercurate = native.write_countercurate(tmp_path / "countercurate", 30)
    finecops = native.write_finecops_ref(tmp_path / "finecops", 10)
    out = tmp_path / "out"
    section = load_recipe(
        ROOT / "recipes/mvc_paper.yaml",
        [
            f"sources.0.path={countercurate}",
            f"sources.1.path={finecops}",
            f"out={out}",
            "validation.num_pairs=6",
            f"encoders.clip={{model: {clip_folder}}}",
            f"encoders.dinov2={{model: {dinov2_folder}}}",
            # Random weights have cosines of their own: bounds that divide them, at the same places
            # of the recipe.
            "selection.clip_image_cos={min: null, min_quantile: 0.3}",
            "selection.dinov2_image_cos={max: null, max_quantile: 0.7}",
            "workers.chunk_pairs=50",
        ],
        BuildSection,
    )
    job = Build(plan_build(section), steps.one_by_one(), 2)
    job.run()
    publish(job)
    counts = read_manifest(out)["rows"]
    rows = [row for split in ("train", "validation") for row in read_mvc(out, split).to_pylist()]
    assert counts["in"] == 30 * 6 + 10 * 4 == counts["kept"] + counts["dropped"]
    assert counts["by_split"]["validation"] == 6
    assert counts["dropped_by_reason"]["negative_type_order_excluded"] == 10
    assert (
        counts["dropped_by_reason"]["clip_image_cos_below_min"] > 20
        and counts["dropped_by_reason"]["dinov2_image_cos_above_max"] > 20
    )
    # Flips are sampled at the rate at which the other position pairs stay, whatever their scores
    # are.
    flips = [row for row in rows if row["operation"] == "flip"]
    positions = [
        row for row in rows if row["category"] == "position" and row["operation"] != "flip"
    ]
    num_judged = 30 + 10  # up-down pairs, and FineCops-Ref's relations
    assert len(flips) == round(len(positions) / num_judged * 60) > 0
    assert counts["dropped_by_reason"]["not_sampled"] == 60 - len(flips)
    judged = [row for row in rows if row["operation"] != "flip"]
    lowest = min(row["clip_image_cos"] for row in judged)
    assert min(row["clip_image_cos"] for row in flips) < lowest or len(flips) < 10
    assert Counter(row["source"] for row in rows).keys() == {"countercurate", "finecops_ref"}
    assert all(row["caption_margin_a"] is not None for row in rows)
