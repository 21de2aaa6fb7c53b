#!/usr/bin/env python3
"""Builds an MVC folder from a recipe: the job behind `svco build` and `ray job submit -- pipeline/build_mvc.py`."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config import BuildSection
from pipeline.job import ray_session, run_command
from pipeline.progress import Progress, say, summary_table
from pipeline.recipe import RecipeError, in_ray_job, load_recipe, resolved_yaml
from pipeline.schema import SCHEMA_VERSION, SPLITS
from pipeline.stages import STAGES, Plan, plan_build, published_recipe
from pipeline.store import Stage, StoreError, cache_dir, only_one, open_stage, read_json, read_table, write_json, write_table, write_text

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "mvc_demo.yaml"


def build(plan: Plan) -> dict[str, Any]:
    """Runs every stage of the plan that is not done yet; returns the manifest.

    Raises:
        RecipeError, StoreError: Something that the user can mend, in one line.
    """
    done = finished_manifest(plan)
    if done is not None:
        say(f"{plan.out}: already built from this recipe and these sources; nothing to do")
        return done
    _refuse_foreign_folder(plan.out)
    with only_one(plan.out, "out"), ray_session():
        return _Build(plan).run()


def finished_manifest(plan: Plan) -> dict[str, Any] | None:
    """The manifest in `out` if it is of exactly this plan, else None."""
    path = plan.out / "manifest.json"
    manifest = read_json(path) if path.is_file() else {}
    whole = manifest.get("fingerprints") == plan.fingerprints and all((plan.out / name).is_file() for name in manifest["files"])
    return manifest if whole else None


def _refuse_foreign_folder(out: Path) -> None:
    """A build removes stale shards and writes README.md: never in a folder that holds something else."""
    manifest = out / "manifest.json"
    ours = (out / ".lock").is_file() or (manifest.is_file() and "schema_version" in read_json(manifest))
    theirs = [name for name in ("data", "rejects", "README.md", "manifest.json") if (out / name).exists()]
    if theirs and not ours:
        raise StoreError(f"out={out}: holds {theirs[0]!r}, which no build made; choose another folder")


class _Build:
    """The stages in order; each is skipped where its DONE.json says so."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._section = plan, plan.section
        self._stages = {name: open_stage(plan.work, name, plan.fingerprints[name]) for name in STAGES}
        self._timings: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """All stages; the manifest comes last."""
        self._stage("ingest", self._ingest)
        self._stage("embed", self._embed)
        self._stage("score", self._score)
        self._stage("select", self._select)
        self._stage("rewrite", self._rewrite)
        return self._finalise()

    def _stage(self, name: str, work: Callable[[Stage], dict[str, Any]]) -> None:
        stage = self._stages[name]
        started_s = time.monotonic()
        reused = stage.done() is not None
        if not reused:
            stage.finish({"fingerprint": self._plan.fingerprints[name], **work(stage)})
        seconds = round(time.monotonic() - started_s, 2)
        self._timings.append({"name": name, "reused": reused, "seconds": seconds, "fingerprint": self._plan.fingerprints[name]})

    def _ingest(self, stage: Stage) -> dict[str, Any]:
        from pipeline.ingest import finish_ingest, ingest_chunk

        sources = self._section.sources
        missing = [chunk for chunk in self._plan.chunks if not stage.part("rows", chunk.index).is_file()]
        by_index = {chunk.index: chunk for chunk in missing}

        def work(batch: dict[str, Any]) -> dict[str, Any]:
            chunk = by_index[int(batch["index"][0])]
            try:
                ingest_chunk(stage, sources[chunk.source], chunk)
            except (RecipeError, StoreError) as error:
                return {**batch, "error": [str(error)]}
            return {**batch, "error": [""]}

        with Progress("ingest", self._plan.num_candidates, "pairs") as progress:
            progress.advance(self._plan.num_candidates - sum(chunk.stop - chunk.start for chunk in missing))
            for index in _ray_map(work, sorted(by_index), num_cpus=self._section.workers.cpus_per_task):
                progress.advance(by_index[index].stop - by_index[index].start)
        return finish_ingest(stage, len(self._plan.chunks))

    def _embed(self, stage: Stage) -> dict[str, Any]:
        from pipeline.embed import EmbedChunks

        ingest, encoders = self._stages["ingest"], self._section.encoders
        num_images = (ingest.done() or {})["num_images"]
        missing = [c.index for c in self._plan.chunks if not stage.part("images", c.index).is_file()]
        num_threads = max(1, (os.cpu_count() or 1) // self._num_embedders())
        arguments = (ingest, stage, encoders, num_threads)

        def work(batch: dict[str, Any]) -> dict[str, Any]:
            return EmbedChunks(*arguments)(batch)

        with Progress("embed", len(self._plan.chunks), f"chunks ({num_images:,} images)") as progress:
            progress.advance(len(self._plan.chunks) - len(missing))
            if encoders.clip is None and encoders.dinov2 is None:  # nothing to load: tasks start faster than actors
                results = _ray_map(work, missing, num_cpus=self._section.workers.cpus_per_task)
            else:
                results = _ray_map(EmbedChunks, missing, fn_constructor_args=arguments, **self._actor_options(len(missing)))
            for _ in results:
                progress.advance()
        return {"num_images": num_images}

    def _num_embedders(self) -> int:
        """Workers that hold the models: one per GPU that Ray sees, or one per two cores.

        Raises:
            RecipeError: A GPU is asked for where Ray sees none; Ray would wait for one for ever.
        """
        import ray

        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        if self._uses_gpu() and not num_gpus:
            raise RecipeError("encoders: device is cuda, but Ray sees no GPU here; set device=cpu, or start Ray where one is")
        automatic = num_gpus if self._uses_gpu() else max(1, (os.cpu_count() or 1) // 2)
        return self._section.workers.num_embedders or automatic

    def _uses_gpu(self) -> bool:
        models = (self._section.encoders.clip, self._section.encoders.dinov2)
        return any(model is not None and model.device.startswith("cuda") for model in models)

    def _actor_options(self, num_chunks: int) -> dict[str, Any]:
        import ray.data

        size = max(1, min(self._num_embedders(), num_chunks))
        compute = ray.data.ActorPoolStrategy(size=size)
        return {"compute": compute, "num_cpus": self._section.workers.cpus_per_task, "num_gpus": 1 if self._uses_gpu() else None}

    def _score(self, stage: Stage) -> dict[str, Any]:
        from pipeline.decide import score
        from pipeline.ingest import read_rows

        rows = read_rows(self._stages["ingest"], len(self._plan.chunks))
        write_table(stage.part("rows", 0), score(rows, self._stages["embed"], len(self._plan.chunks)))
        return {"num_rows": rows.num_rows}

    def _select(self, stage: Stage) -> dict[str, Any]:
        from pipeline.decide import select

        rows = select(read_table(self._stages["score"].part("rows", 0)), self._section)
        write_table(stage.part("rows", 0), rows)
        return {"num_rows": rows.num_rows, "num_kept": rows["drop_reason"].to_pylist().count("")}

    def _rewrite(self, stage: Stage) -> dict[str, Any]:
        from pipeline.decide import rewrite

        rows = rewrite(read_table(self._stages["select"].part("rows", 0)))
        write_table(stage.part("rows", 0), rows)
        return {"num_rows": rows.num_rows}

    def _finalise(self) -> dict[str, Any]:
        from pipeline.card import render_card
        from pipeline.ingest import ImageLibrary
        from pipeline.report import write_report
        from pipeline.shards import write_mvc

        started_s, out = time.monotonic(), self._plan.out
        rows, library = read_table(self._stages["rewrite"].part("rows", 0)), ImageLibrary(self._stages["ingest"], len(self._plan.chunks))
        (out / "manifest.json").unlink(missing_ok=True)  # while shards change, the folder is no finished MVC
        with Progress("write shards", rows.num_rows, "rows") as progress:
            files = write_mvc(rows, library, out, lambda n: progress.advance(n))
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": self._section.name,
            "recipe": published_recipe(self._section),
            "fingerprints": self._plan.fingerprints,
            "rows": _counts(rows),
            "files": files,
        }
        seconds = round(time.monotonic() - started_s, 2)
        timings = [
            *self._timings,
            {"name": "finalise", "reused": False, "seconds": seconds, "fingerprint": self._plan.fingerprints["finalise"]},
        ]
        kept_licenses = sorted(
            {row["license"] or "" for row in rows.select(["license", "drop_reason"]).to_pylist() if not row["drop_reason"]}
        )
        write_text(out / "README.md", render_card(manifest, kept_licenses))
        write_report(rows, library, {**manifest, "stages": timings}, self._section, out / "report.html")
        write_json(out / "result.json", {"status": "done", "out": str(out), "rows": manifest["rows"], "stages": timings})
        write_json(out / "manifest.json", manifest)
        return manifest


def _ray_map(work: Any, indices: list[int], **options: Any) -> Any:
    """Runs `work` over single indices with Ray Data; yields each index when its work is done.

    Raises:
        RecipeError: What `work` put into "error" instead of raising: an exception loses its kind on its way through Ray.
    """
    if not indices:
        return
    import ray.data

    dataset = ray.data.from_items([{"index": index} for index in indices], override_num_blocks=len(indices))
    for batch in dataset.map_batches(work, batch_size=1, **options).iter_batches(batch_size=1, prefetch_batches=0):
        if batch["error"][0]:
            raise RecipeError(str(batch["error"][0]))
        yield int(batch["index"][0])


def _counts(rows: Any) -> dict[str, Any]:
    reasons, splits, categories = (rows[name].to_pylist() for name in ("drop_reason", "split", "category"))
    kept = [i for i, reason in enumerate(reasons) if not reason]
    return {
        "in": len(reasons),
        "kept": len(kept),
        "dropped": len(reasons) - len(kept),
        "by_split": {split: sum(splits[i] == split for i in kept) for split in SPLITS},
        "kept_by_category": dict(sorted(Counter(categories[i] for i in kept).items())),
        "dropped_by_reason": dict(sorted(Counter(reason for reason in reasons if reason).items())),
        "dropped_by_category": dict(sorted(Counter(categories[i] for i, reason in enumerate(reasons) if reason).items())),
    }


def print_plan(plan: Plan) -> None:
    """What a build would do, without doing it."""
    rows = []
    is_built = finished_manifest(plan) is not None
    for name in STAGES:
        folder = plan.work / name / plan.fingerprints[name]
        rows.append([name, plan.fingerprints[name], "done" if is_built or (folder / "DONE.json").is_file() else "to do"])
    summary_table(
        f"Plan: {plan.num_candidates:,} candidates in {len(plan.chunks)} chunks -> {plan.out}", ["stage", "fingerprint", "state"], rows
    )


def print_result(plan: Plan, manifest: dict[str, Any]) -> None:
    """The summary at the end, with where to look."""
    counts = manifest["rows"]
    rows = [["candidates", f"{counts['in']:,}"], *[[split, f"{n:,}"] for split, n in counts["by_split"].items()]]
    rows += [[f"dropped: {reason}", f"{n:,}"] for reason, n in counts["dropped_by_reason"].items()]
    summary_table(manifest["name"], ["rows", "number"], rows)
    if not counts["kept"]:
        reason, number = max(counts["dropped_by_reason"].items(), key=lambda item: item[1])
        say(f"warning: not one pair was kept; {number:,} of {counts['in']:,} left with {reason}")
    elif not counts["by_split"]["validation"] and plan.section.validation.fraction > 0:
        say("warning: validation is empty, because all kept pairs belong to one group; give pairs a group of their own")
    say(f"data    {plan.out}/data\nreport  {plan.out}/report.html")


def run(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Overrides, for example out=build/mvc.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="The recipe; without one, recipes/mvc_demo.yaml.")] = None,
    print_recipe: Annotated[bool, typer.Option("--print-recipe", help="Show the resolved recipe and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
) -> None:
    """Build an MVC folder from a recipe."""
    given = list(overrides or [])
    if recipe is None:
        recipe = DEFAULT_RECIPE
        say(f"no --recipe given: using {recipe}")
        if not any(override.startswith("out=") for override in given):
            given.append(f"out={cache_dir() / 'mvc_demo' if in_ray_job() else Path('build/mvc_demo').resolve()}")
            say(f"writing to {given[-1].removeprefix('out=')}")
    section = load_recipe(recipe, given, BuildSection)
    if print_recipe:
        print(resolved_yaml(section), end="")
        return
    plan = plan_build(section)
    if dry_run:
        print_plan(plan)
        return
    print_result(plan, build(plan))


def main() -> None:
    """The entry point."""
    run_command(run)


if __name__ == "__main__":
    main()
