#!/usr/bin/env python3
"""Measures whether a vision-language model looks at the image, before and after finetuning: the job behind `svco eval`."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from eval.config import EvalSection
from eval.items import (
    Models,
    Role,
    data_sha256,
    favoured_answers,
    find_models,
    identity,
    is_finished,
    read_items,
    scoring_fingerprint,
    weights_sha256,
    with_absolute_paths,
)
from pipeline.progress import Progress, say, summary_table
from pipeline.recipe import RecipeError, load_recipe, resolved_yaml
from pipeline.schema import MvcError
from pipeline.store import StoreError, only_one, open_stage, read_json, read_table, write_json, write_table

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "eval_contrast.yaml"


@dataclass(frozen=True)
class Plan:
    """A checked evaluation: absolute paths, models that are there, a split with pairs."""

    section: EvalSection
    models: Models
    items: pa.Table

    @property
    def out(self) -> Path:
        """Where everything is written."""
        return Path(self.section.out)


def plan_evaluation(section: EvalSection, *, images: bool = True) -> Plan:
    """What an evaluation would do, checked as far as that goes without torch or Ray.

    Raises:
        RecipeError, MvcError: Paths, models or data that cannot be used.
    """
    section = with_absolute_paths(section)
    return Plan(section, find_models(section), read_items(section, images=images))


def evaluate(plan: Plan) -> dict[str, Any]:
    """Runs the plan unless it is done already; returns what result.json says.

    Raises:
        RecipeError, MvcError, StoreError: Something that the user can mend.
    """
    section, out, started_s = plan.section, plan.out, time.monotonic()
    hashes = {role: weights_sha256(folder) for role, folder in plan.models.by_role().items()}
    data = data_sha256(section)
    wanted = identity(section, hashes, data)
    if is_finished(out, wanted, overwrite=section.overwrite):
        say(f"{out}: already evaluated with this recipe and these weights; nothing to do")
        return dict(read_json(out / "result.json"))
    with only_one(out, "out"):
        (out / "DONE.json").unlink(missing_ok=True)
        say(f"evaluating {plan.models.after} on {plan.items.num_rows:,} pairs of {section.data} -> {out}")
        with contextlib.ExitStack() as ray_session:
            results = {
                role: score_model(plan, role, folder, scoring_fingerprint(section, hashes[role], data), ray_session)
                for role, folder in plan.models.by_role().items()
            }
        result = write_results(plan, results, started_s)
        write_json(out / "DONE.json", {"identity": wanted})
    return result


def score_model(plan: Plan, role: Role, folder: Path, fingerprint: str, ray_session: contextlib.ExitStack) -> pa.Table:
    """The result row of every pair under one model; chunks that an earlier run finished are read, not made again."""
    stage = open_stage(plan.out / ".work", "scores", fingerprint)
    size, num_pairs = plan.section.pairs_per_chunk, plan.items.num_rows
    chunks = {index: plan.items.slice(start, size) for index, start in enumerate(range(0, num_pairs, size))}
    missing = {index: chunk for index, chunk in chunks.items() if not stage.part("chunk", index).is_file()}
    if missing:
        with Progress(f"score {role}" if plan.models.before else "score", num_pairs, "pairs") as progress:
            progress.advance(num_pairs - sum(chunk.num_rows for chunk in missing.values()))
            for result in score_chunks(list(missing.values()), plan.section, folder, ray_session):
                write_table(stage.part("chunk", result["chunk"][0].as_py()), result)
                progress.advance(result.num_rows)
    return pa.concat_tables(read_table(stage.part("chunk", index)) for index in chunks)


def score_chunks(
    chunks: list[pa.Table], section: EvalSection, folder: Path, ray_session: contextlib.ExitStack
) -> Iterator[pa.Table]:
    """The result table of each chunk, in any order: from this process, or from a pool of Ray actors."""
    from eval.conditions import NEEDED_COLUMNS, PairScorer, ScoringPlan

    workers = section.workers
    # Ray limits an actor with part of a CPU to one thread; the pool may use the machine as far as it holds workers.
    num_threads = None if not workers.num_workers else max(1, (os.cpu_count() or 1) // workers.num_workers)
    scoring = ScoringPlan(
        model=str(folder),
        dtype=section.dtype,
        device="cuda" if workers.use_gpu else "cpu",
        batch_pairs=section.batch_pairs,
        batch_images=section.generate.batch_images,
        max_new_tokens=section.generate.max_new_tokens if section.generate.enabled else 0,
        num_threads=num_threads,
    )
    slim = [chunk.select(NEEDED_COLUMNS) for chunk in chunks]
    if not workers.num_workers:
        yield from map(PairScorer(scoring), slim)
        return
    start_ray(ray_session)
    import ray
    from ray.data import ActorPoolStrategy

    dataset = ray.data.from_arrow(slim).map_batches(
        PairScorer,
        fn_constructor_args=(scoring,),
        batch_size=None,  # one block, which is one chunk
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(workers.num_workers, len(slim))),
        num_cpus=workers.cpus_per_worker,
        num_gpus=1 if workers.use_gpu else 0,
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from chunks_in(batch)
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


def chunks_in(batch: pa.Table) -> Iterator[pa.Table]:
    """The chunks of a table that Ray may have joined from several."""
    for index in sorted(set(batch["chunk"].to_pylist())):
        yield batch.filter(pa.compute.equal(batch["chunk"], index))


def start_ray(ray_session: contextlib.ExitStack) -> None:
    """Connects to Ray, starting it here if there is none; what was started ends with `ray_session`."""
    import logging

    import ray

    if not ray.is_initialized():
        say("starting Ray (about 10 s)")
        dashboard = None if os.environ.get("RAY_ADDRESS") else False
        ray.init(include_dashboard=dashboard, logging_level="ERROR", log_to_driver=False)
        ray_session.callback(ray.shutdown)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, without Ray's wrapping; the wrapping itself where there is nothing else inside."""
    inner: BaseException | None = error
    while inner is not None:
        if type(inner).__name__ in ("MvcError", "ModelError"):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def write_results(plan: Plan, results: dict[Role, pa.Table], started_s: float) -> dict[str, Any]:
    """Writes scores.json, items.parquet, report.html and result.json; prints the summary."""
    from eval.report import HEADLINE, role_names, table, write_page
    from eval.scores import score_table, verdict_of_pairs
    from eval.views import favoured_of, view_of

    section, out, items = plan.section, plan.out, plan.items
    views = {role: view_of(items, rows) for role, rows in results.items()}
    scores = score_table(items, views, favoured_of(items, favoured_answers(plan.models)), section)
    write_json(out / "scores.json", scores)
    write_table(out / "items.parquet", items_table(items, results, views, verdict_of_pairs(views)))
    names = {role: str(folder) for role, folder in plan.models.by_role().items()}
    lead = "; ".join([*(f"{role}: {name}" for role, name in names.items()), f"data: {section.data}, split {section.split}"])
    write_page(items, views, scores, section, out / "report.html", lead)
    result = {
        "out": str(out),
        "page": str(out / "report.html"),
        "models": names,
        "data": section.data,
        "num_pairs": items.num_rows,
        "headline": {key: scores["overall"][key] for key in HEADLINE if key in scores["overall"]},
        "seconds": round(time.monotonic() - started_s, 1),
    }
    write_json(out / "result.json", result)
    summary_table(f"Held-out pairs: {items.num_rows:,}", *table(scores["overall"], HEADLINE, role_names(list(views))))
    return result


def items_table(items: pa.Table, results: dict[Role, pa.Table], views: dict[Role, Any], verdicts: list[str]) -> pa.Table:
    """One row per pair: its texts, what happened to it, and under each model the six log-probabilities and answers."""
    shown = items.select(["pair_id", "source", "category", "group", "question", "answer_a", "answer_b"])
    shown = shown.append_column("text_verdict", pa.array(verdicts))
    for role, rows in results.items():
        for name in rows.column_names:
            if name not in ("chunk", "pair_id") and not name.endswith("_px"):
                shown = shown.append_column(f"{role}_{name}", rows[name])
        answers = views[role].answers
        for side in range(2) if answers is not None else ():
            shown = shown.append_column(f"{role}_verdict_{'ab'[side]}", pa.array([pair[side] for pair in answers.verdicts]))
            shown = shown.append_column(f"{role}_num_claims_{'ab'[side]}", pa.array(answers.num_claims_P2[:, side]))
            shown = shown.append_column(f"{role}_num_false_{'ab'[side]}", pa.array(answers.num_false_P2[:, side]))
    return shown


def print_plan(plan: Plan) -> None:
    """What an evaluation would do, without doing it."""
    section, items = plan.section, plan.items
    num_models = len(plan.models.by_role())
    answers = 2 * items.num_rows * num_models if section.generate.enabled else 0
    where = f"{section.workers.num_workers} Ray workers" if section.workers.num_workers else "this process"
    rows = [
        ["model (after)", str(plan.models.after)],
        ["base (before)", str(plan.models.before or "none: no comparison")],
        ["data", f"{section.data}, split {section.split}"],
        ["pairs", f"{items.num_rows:,} in {len(set(items['group'].to_pylist())):,} groups"],
        ["log-likelihoods", f"{6 * items.num_rows * num_models:,} (3 image conditions x 2 answers x {num_models} models)"],
        ["generated answers", f"{answers:,} of at most {section.generate.max_new_tokens} tokens"],
        ["chunks", f"{-(-items.num_rows // section.pairs_per_chunk):,} of {section.pairs_per_chunk} pairs, per model"],
        ["runs on", where + (" with a GPU each" if section.workers.use_gpu else "")],
        ["out", section.out + (" (finished)" if (plan.out / "DONE.json").is_file() else "")],
    ]
    summary_table("Plan", ["what", "value"], rows)


def run(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Overrides, for example out=build/eval.")] = None,
    recipe: Annotated[Path, typer.Option(help="The recipe.")] = DEFAULT_RECIPE,
    print_recipe: Annotated[bool, typer.Option("--print-recipe", help="Show the resolved recipe and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
) -> None:
    """Measure whether a vision-language model looks at the image, before and after finetuning."""
    section = load_recipe(recipe, list(overrides or []), EvalSection)
    if print_recipe:
        print(resolved_yaml(section), end="")
    elif dry_run:
        print_plan(plan_evaluation(section, images=False))
    else:
        result = evaluate(plan_evaluation(section))
        say(f"page    {result['page']}\nscores  {result['out']}/scores.json")


def main() -> None:
    """The entry point: what a user can mend is one line on standard error and exit code 2."""
    try:
        typer.run(run)
    except (RecipeError, StoreError, MvcError) as error:
        _fail(error)
    except Exception as error:
        if type(error).__name__ != "ModelError":  # of a module that imports torch, which help and dry runs do without
            raise
        _fail(error)


def _fail(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from error


if __name__ == "__main__":
    main()
