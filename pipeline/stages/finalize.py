"""What a build publishes: shards, manifest, dataset card, report and result.json, made from the
finished stages.
"""

import time
from collections import Counter
from typing import Any

import numpy as np

from pipeline.cards.dataset_card import render_card
from pipeline.core.progress import Progress
from pipeline.core.schema import SCHEMA_VERSION, SPLITS
from pipeline.core.storage import write_json, write_text
from pipeline.report.page import write_report
from pipeline.stages.ingest import read_facts
from pipeline.stages.plan import published_recipe
from pipeline.stages.runner import Build
from pipeline.stages.shard_writer import write_mvc
from pipeline.storage.decided_rows import DecidedRows
from pipeline.storage.image_store import ImageLibrary


def publish(job: Build) -> dict[str, Any]:
    """Writes everything that `out` shows; the manifest comes last. Returns the manifest."""
    plan, out, started_s = job.plan, job.plan.out, time.monotonic()
    num_chunks = len(plan.chunks)
    rows = job.decided_rows()
    sizes = read_facts(job.stages["ingest"], num_chunks, ("num_bytes_a", "num_bytes_b"))
    num_bytes = sizes["num_bytes_a"].clip(0) + sizes["num_bytes_b"].clip(0)
    # while shards change, the folder is no finished MVC
    (out / "manifest.json").unlink(missing_ok=True)
    with Progress("write shards", rows.num_rows, "rows") as progress:
        files = write_mvc(
            rows, num_bytes, ImageLibrary(job.stages["ingest"]), out, progress.advance
        )
    write_seconds = max(time.monotonic() - started_s, 1e-6)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.section.name,
        "recipe": published_recipe(plan.section),
        "fingerprints": plan.fingerprints,
        "rows": counts(rows),
        "licenses": _licenses(rows),
        "links": {
            key: value
            for key, value in job.facts["link"].items()
            if key not in ("stage", "fingerprint")
        },
        "audit": job.facts["audit"]["results"],
        **(
            {"rewrite": job.facts["rewrite"]["rewrite"]}
            if "rewrite" in job.facts["rewrite"]
            else {}
        ),
        **(
            {"verify": job.facts["verify"]["verify"] | job.facts["accept"]["accept"]}
            if "verify" in job.facts
            else {}
        ),
        "files": files,
    }
    manifest["warnings"] = _warnings(manifest)
    finalise = {
        "name": "finalise",
        "reused": False,
        "seconds": round(write_seconds, 2),
        "fingerprint": plan.fingerprints["finalise"],
    }
    throughput = {
        "unique images": job.facts["embed"]["num_images"],
        "images embedded per second": job.facts["embed"]["images_per_s"],
        "images per pair side": round(
            job.facts["embed"]["num_images"] / max(2 * rows.num_rows, 1), 4
        ),
        "MB of images written per second": round(float(num_bytes.sum()) / 1e6 / write_seconds, 1),
    }
    result = {
        "status": "done",
        "out": plan.section.out,
        "rows": manifest["rows"],
        "stages": [*job.timings, finalise],
        "throughput": throughput,
        "warnings": manifest["warnings"],
    }
    write_text(out / "README.md", render_card(manifest))
    write_json(out / "result.json", result)
    write_json(out / "manifest.json", manifest)
    write_report(out, result)
    return manifest


def counts(rows: DecidedRows) -> dict[str, Any]:
    """How many rows came in, stayed and left, by split, category, source and reason."""
    reasons, splits = rows.column("drop_reason"), rows.column("split")
    kept = reasons == ""
    numbers = {
        "in": len(reasons),
        "kept": int(kept.sum()),
        "dropped": int((~kept).sum()),
        "by_split": {split: int((kept & (splits == split)).sum()) for split in SPLITS},
        "dropped_by_reason": _counted(reasons[~kept]),
    }
    for name in ("category", "source"):
        values = rows.column(name)
        numbers |= {
            f"kept_by_{name}": _counted(values[kept]),
            f"dropped_by_{name}": _counted(values[~kept]),
        }
    return numbers


def _counted(values: "np.ndarray[Any, np.dtype[np.object_]]") -> dict[str, int]:
    return dict(sorted(Counter(values.tolist()).items()))


def _licenses(rows: DecidedRows) -> dict[str, int]:
    """How many kept rows state which licence; "" where none is stated."""
    licenses, kept = rows.column("license"), rows.column("drop_reason") == ""
    return _counted(np.array([name or "" for name in licenses[kept].tolist()], dtype=object))


def _warnings(manifest: dict[str, Any]) -> list[str]:
    """What the person who built this should know."""
    found = [
        f"shortcut audit: the original can be told from the edited side of {one['source']} without"
        f" looking at content (AUC {one['separability']['auc']:.2f}); see the report, and"
        " normalize.mode=reencode"
        for one in manifest["audit"]
        if one["verdict"] == "warning"
    ]
    links, limit = manifest["links"], manifest["recipe"]["links"]["max_group_frac"]
    if links["frac_largest"] > limit:
        found.append(
            f"one group holds {links['frac_largest']:.0%} of the pairs; a split by group cannot"
            " divide it"
        )
    return found
