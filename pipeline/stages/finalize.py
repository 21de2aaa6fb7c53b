"""What a build publishes of its finished stages: shards, manifest, card, report, result.json."""

import time
from collections import Counter

import numpy as np

from pipeline.cards.dataset_card import render_card
from pipeline.core.manifest import BuildResult, Manifest, RowCounts
from pipeline.core.progress import Progress
from pipeline.core.schema import SCHEMA_VERSION, row_counts
from pipeline.core.storage import write_json, write_text
from pipeline.report.margins import MARGINS, margin_shares
from pipeline.report.page import write_report
from pipeline.stages.ingest import read_facts
from pipeline.stages.plan import published_recipe
from pipeline.stages.runner import Build
from pipeline.stages.shard_writer import write_mvc
from pipeline.storage.decided_rows import DecidedRows
from pipeline.storage.image_store import ImageLibrary

MIN_FRAC_KEPT = 0.05  # below, a selection is said to be almost empty


def publish(job: Build) -> Manifest:
    """Writes everything that `out` shows; the manifest comes last. Returns the manifest."""
    out, started_s = job.plan.out, time.monotonic()
    rows = job.decided_rows()
    sizes = read_facts(job.stages["ingest"], len(job.plan.chunks), ("num_bytes_a", "num_bytes_b"))
    num_bytes = sizes["num_bytes_a"].clip(0) + sizes["num_bytes_b"].clip(0)
    # while shards change, the folder is no finished MVC
    (out / "manifest.json").unlink(missing_ok=True)
    with Progress("write shards", rows.num_rows, "rows") as progress:
        files = write_mvc(
            rows, num_bytes, ImageLibrary(job.stages["ingest"]), out, progress.advance
        )
    seconds = max(time.monotonic() - started_s, 1e-6)
    manifest = _manifest(job, rows, files)
    result = _result(job, manifest, seconds, float(num_bytes.sum()) / 1e6)
    write_text(out / "README.md", render_card(manifest))
    write_json(out / "result.json", result)
    write_json(out / "manifest.json", manifest)
    write_report(out, result)
    return manifest


def _manifest(job: Build, rows: DecidedRows, files: dict[str, str]) -> Manifest:
    facts, reasons = job.facts, rows.column("drop_reason")
    splits = np.where(reasons == "", rows.column("split"), "rejects")
    columns = splits, reasons, rows.column("category"), rows.column("source")
    licenses = Counter(name or "" for name in rows.column("license")[reasons == ""].tolist())
    manifest: Manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": job.plan.section.name,
        "recipe": published_recipe(job.plan.section),
        "fingerprints": job.plan.fingerprints,
        "rows": row_counts(Counter(zip(*(column.tolist() for column in columns), strict=True))),
        "licenses": dict(sorted(licenses.items())),  # "" where none is stated
        "links": facts["link"],
        "audit": facts["audit"]["results"],
    }
    if "rewrite" in facts["rewrite"]:
        manifest["rewrite"] = facts["rewrite"]["rewrite"]
    if "verify" in facts:
        manifest["verify"] = facts["verify"]["verify"] | facts["accept"]["accept"]
    manifest["files"] = files
    scores = {name: rows.column(name, "float64") for name in MARGINS}
    shares = margin_shares(scores, rows.column("group").tolist())
    manifest["warnings"] = [
        *_warnings(manifest),
        *(share.warning for share in shares if share.warning),
    ]
    return manifest


def _result(job: Build, manifest: Manifest, seconds: float, written_mb: float) -> BuildResult:
    embed, num_rows = job.facts["embed"], manifest["rows"]["in"]
    return {
        "status": "done",
        "out": job.plan.section.out,
        "rows": manifest["rows"],
        "stages": [*job.timings, job.timing("finalise", seconds, reused=False)],
        "throughput": {
            "unique images": embed["num_images"],
            "images embedded per second": embed["images_per_s"],
            "images per pair side": round(embed["num_images"] / max(2 * num_rows, 1), 4),
            "MB of images written per second": round(written_mb / seconds, 1),
        },
        "warnings": manifest["warnings"],
    }


def _warnings(manifest: Manifest) -> list[str]:
    """What the person who built this should know."""
    warnings = [
        f"shortcut audit: the original can be told from the edited side of {result['source']}"
        f" without looking at content (AUC {result['separability']['auc']:.2f}); see the report,"
        " and normalize.mode=reencode"
        for result in manifest["audit"]
        if result["verdict"] == "warning"
    ]
    largest, limit = (
        manifest["links"]["frac_largest"],
        manifest["recipe"]["links"]["max_group_frac"],
    )
    if largest > limit:
        warnings.append(
            f"one group holds {100 * largest:.0f} % of the pairs; a split by group cannot divide it"
        )
    return [*warnings, *_almost_empty(manifest["rows"])]


def _almost_empty(rows: RowCounts) -> list[str]:
    """A word on a selection that keeps next to nothing, caps and repeats aside."""
    reasons = rows["dropped_by_reason"]
    asked_for = ("over_cap_", "not_sampled", "duplicate_", "image_a_in_", "image_b_in_")
    judged = rows["kept"] + sum(n for name, n in reasons.items() if not name.startswith(asked_for))
    if not rows["kept"] or rows["kept"] >= MIN_FRAC_KEPT * judged:
        return []
    reason, number = max(reasons.items(), key=lambda item: item[1])
    return [
        f"almost nothing was kept: {rows['kept']:,} of {judged:,} candidates"
        f" ({100 * rows['kept'] / judged:.1f} %); {number:,} left with {reason}. See the scores in"
        " the report, and svco sweep for other bounds"
    ]
