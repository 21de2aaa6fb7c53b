#!/usr/bin/env python3
"""Builds an MVC folder from a recipe: the job behind `svco build` and `ray job submit --
pipeline/build_mvc.py`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import BuildSection
from pipeline.core.cli import DryRun, Overrides, PrintRecipe, Recipe, run_command
from pipeline.core.manifest import Manifest
from pipeline.core.progress import say, summary_table
from pipeline.core.ray_pool import Pool, check_resources, cluster_resources, num_cpus, ray_session
from pipeline.core.recipe import UserError, in_ray_job, load_recipe, resolved_yaml
from pipeline.core.storage import LOCK, Owner, cache_dir, only_one, read_json, write_json
from pipeline.stages.plan import Plan, plan_build
from pipeline.stages.remote import push, remote_manifest

DEFAULT_RECIPE = "mvc_demo"
# A build removes stale shards and writes its card.
OWNER = Owner("build", (LOCK,), takes=("data", "rejects", "README.md", "manifest.json"))


def build(plan: Plan) -> Manifest:
    """Runs every stage of the plan that is not done yet; returns the manifest.

    Raises:
        UserError: Something that the user can mend, in one line.
    """
    done = finished_manifest(plan)
    if done is not None:
        say(f"{plan.section.out}: already built from this recipe and these sources; nothing to do")
        return done
    from pipeline.embedding.preflight import check_encoders
    from pipeline.llm.client import api_key

    rewrite, verify = plan.section.rewrite, plan.section.verify
    endpoints = [
        rewrite.endpoint if rewrite.backend == "openai" else None,
        verify.judge.endpoint if verify and verify.judge else None,
    ]
    for endpoint in filter(None, endpoints):
        api_key(endpoint)  # if it is not there, that is told before anything has run for hours
    manifest = plan.out / "manifest.json"
    # a finished MVC, which need not have been made here
    if not manifest.is_file() or "schema_version" not in read_json(manifest):
        OWNER.check(plan.out)
    embedded = plan.work / "embed" / plan.fingerprints["embed"] / "DONE.json"
    check_encoders(plan.section.encoders, load=not embedded.is_file())
    with only_one(plan.out, "out"), _failure_noted(plan.out):
        with ray_session():
            from pipeline.stages.finalize import publish
            from pipeline.stages.runner import Build

            num_embedders = embedders(plan.section, cluster_resources())
            if _uses_gpu(plan.section):
                check_resources(gpus=num_embedders)  # now, not when the stages before are done
            pool = Pool(num_embedders, plan.section.workers.cpus_per_task, _uses_gpu(plan.section))
            job = Build(plan, pool.map, pool.num_threads())
            job.run()
        published = publish(job)
        if plan.is_remote:
            say(f"copying to {plan.section.out}")
            push(plan.out, plan.section.out)
    return published


def finished_manifest(plan: Plan) -> Manifest | None:
    """The manifest in `out` if it is of exactly this plan, else None."""
    path = plan.out / "manifest.json"
    if plan.is_remote:
        manifest = remote_manifest(plan.section.out)
    else:
        manifest = read_json(path) if path.is_file() else {}
    if manifest.get("fingerprints") != plan.fingerprints:
        return None
    # The page is made from the finished folder, so it comes after the manifest.
    files = () if plan.is_remote else (*manifest["files"], "report.html")
    return manifest if all((plan.out / name).is_file() for name in files) else None


@contextlib.contextmanager
def _failure_noted(out: Path) -> Iterator[None]:
    """result.json says how the job ended, also when it failed: a stopped Ray job exits with 0."""
    try:
        write_json(out / "result.json", {"status": "running", "out": str(out)})
        yield
    except UserError as error:
        with contextlib.suppress(OSError, UserError):  # a full disk has no room for this either
            write_json(
                out / "result.json", {"status": "failed", "out": str(out), "error": str(error)}
            )
        raise


def _uses_gpu(section: BuildSection) -> bool:
    models = (section.encoders.clip, section.encoders.dinov2)
    return any(model is not None and model.device.startswith("cuda") for model in models)


def embedders(section: BuildSection, resources: Mapping[str, float]) -> int:
    """How many workers hold the models: one per GPU that Ray sees, or per two CPUs.

    The recipe may say another number.
    """
    if section.workers.num_embedders:
        return section.workers.num_embedders
    if _uses_gpu(section):
        return max(1, int(resources.get("GPU", 0)))
    return max(1, num_cpus(resources) // 2)


def print_plan(plan: Plan) -> None:
    """What a build would do, without doing it."""
    is_built = finished_manifest(plan) is not None
    is_done = {
        name: is_built or (plan.work / name / fingerprint / "DONE.json").is_file()
        for name, fingerprint in plan.fingerprints.items()
    }
    rows = [
        [name, fingerprint, "done" if is_done[name] else "to do"]
        for name, fingerprint in plan.fingerprints.items()
    ]
    title = (
        f"Plan: {plan.num_candidates:,} candidates in {len(plan.chunks)} chunks ->"
        f" {plan.section.out}"
    )
    summary_table(title, ["stage", "fingerprint", "state"], rows)


def print_result(plan: Plan, manifest: Manifest) -> None:
    """The summary at the end, with where to look."""
    counts = manifest["rows"]
    rows = [
        ["candidates", f"{counts['in']:,}"],
        *[[split, f"{n:,}"] for split, n in counts["by_split"].items()],
        *[[f"dropped: {reason}", f"{n:,}"] for reason, n in counts["dropped_by_reason"].items()],
    ]
    summary_table(manifest["name"], ["rows", "number"], rows)
    if not counts["kept"]:
        reason, number = max(counts["dropped_by_reason"].items(), key=lambda item: item[1])
        say(f"warning: not one pair was kept; {number:,} of {counts['in']:,} left with {reason}")
    elif not counts["by_split"]["validation"] and plan.section.validation.wants_rows:
        say(
            "warning: validation is empty, because all kept pairs belong to one group; give pairs a"
            " group of their own"
        )
    for line in manifest.get("warnings", []):
        say(f"warning: {line}")
    say(f"data    {plan.section.out}/data\nreport  {plan.section.out}/report.html")


def run(
    overrides: Overrides = None,
    recipe: Recipe = "",
    print_recipe: PrintRecipe = False,
    dry_run: DryRun = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Show what rewriting by a model would cost, and stop."),
    ] = False,
) -> None:
    """Build an MVC folder from a recipe."""
    given = list(overrides or [])
    if not recipe:
        recipe = DEFAULT_RECIPE
        say(f"no --recipe given: using {recipe}")
        if not any(override.startswith("out=") for override in given):
            out = (cache_dir() if in_ray_job() else Path("build").resolve()) / "mvc_demo"
            given.append(f"out={out}")
            say(f"writing to {out}")
    section = load_recipe(recipe, given, BuildSection)
    if print_recipe:
        print(resolved_yaml(section), end="")
        return
    plan = plan_build(section)
    if dry_run:
        print_plan(plan)
    elif estimate:
        from pipeline.stages.estimate import print_estimate

        print_estimate(plan)
    else:
        print_result(plan, build(plan))


if __name__ == "__main__":
    run_command(run)
