#!/usr/bin/env python3
"""Measures whether a vision-language model looks at the image, before and after finetuning: the job behind `svco eval`."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from eval.conditions import MODEL_COLUMN, NEEDED_COLUMNS, PairScorer, ScoringPlan
from eval.config import EvalSection
from eval.items import (
    Models,
    Role,
    begin,
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
from pipeline.job import ray_session, run_command
from pipeline.progress import Progress, say, summary_table
from pipeline.recipe import load_recipe, resolved_yaml
from pipeline.schema import MvcError
from pipeline.store import Stage, only_one, open_stage, read_json, read_table, write_json, write_table

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

    Args:
        images: Read the images and fetch the weights of a model on the Hub; a plan that is only shown needs neither.

    Raises:
        UserError: Paths, models or data that cannot be used.
    """
    section = with_absolute_paths(section)
    return Plan(section, find_models(section, weights=images), read_items(section, images=images))


def evaluate(plan: Plan) -> dict[str, Any]:
    """Runs the plan unless it is done already; returns what result.json says.

    Raises:
        UserError: Something that the user can mend.
    """
    section, out, started_s = plan.section, plan.out, time.monotonic()
    hashes = {role: weights_sha256(folder) for role, folder in plan.models.by_role().items()}
    data = data_sha256(section)
    wanted = identity(section, plan.models, hashes, data)
    if is_finished(out, wanted, overwrite=section.overwrite):
        say(f"{out}: already evaluated with this recipe and these weights; nothing to do")
        return dict(read_json(out / "result.json"))
    with only_one(out, "out"):
        begin(out)
        say(f"evaluating {plan.models.after} on {plan.items.num_rows:,} pairs of {section.data} -> {out}")
        results = score_models(plan, {role: scoring_fingerprint(section, sha, data) for role, sha in hashes.items()})
        result = write_results(plan, results, started_s)
        write_json(out / "DONE.json", {"identity": wanted})
    return result


def score_models(plan: Plan, fingerprints: dict[Role, str]) -> dict[Role, pa.Table]:
    """The result row of every pair under every model; chunks that an earlier run finished are read, not made again.

    Raises:
        MvcError: A pair that cannot be scored, or a model that is not supported.
    """
    folders, size, num_pairs = plan.models.by_role(), plan.section.pairs_per_chunk, plan.items.num_rows
    stages = {role: open_stage(plan.out / ".work", "scores", name) for role, name in fingerprints.items()}
    chunks = [plan.items.slice(start, size) for start in range(0, num_pairs, size)]
    missing = missing_parts(stages, len(chunks))
    if missing:
        role_of = {str(folder): role for role, folder in folders.items()}
        wanted = [
            chunks[index].append_column(MODEL_COLUMN, pa.array([str(folders[role])] * chunks[index].num_rows)) for role, index in missing
        ]
        with Progress("score", num_pairs * len(folders), "pairs") as progress:
            progress.advance(num_pairs * len(folders) - sum(chunk.num_rows for chunk in wanted))
            for result in score_chunks(wanted, plan.section):
                if result["error"][0].is_valid:
                    raise MvcError(result["error"][0].as_py())
                role = role_of[result[MODEL_COLUMN][0].as_py()]
                write_table(stages[role].part("chunk", result["chunk"][0].as_py()), result)
                progress.advance(result.num_rows, model=role)
    parts = {role: [read_table(stage.part("chunk", index)) for index in range(len(chunks))] for role, stage in stages.items()}
    return {role: pa.concat_tables(tables) for role, tables in parts.items()}


def missing_parts(stages: dict[Role, Stage], num_chunks: int) -> list[tuple[Role, int]]:
    """The (role, chunk) that are still to be scored; one of them where both models are the same and share a file."""
    parts = {stage.part("chunk", index): (role, index) for role, stage in stages.items() for index in range(num_chunks)}
    return [key for path, key in parts.items() if not path.is_file()]


def score_chunks(chunks: list[pa.Table], section: EvalSection) -> Iterator[pa.Table]:
    """The result table of each chunk, in any order: from this process, or from a pool of Ray actors."""
    workers = section.workers
    # Ray limits an actor with part of a CPU to one thread; the pool may use the machine as far as it holds workers.
    num_threads = max(1, (os.cpu_count() or 1) // workers.num_workers) if workers.num_workers else None
    scoring = ScoringPlan(
        dtype=section.dtype,
        device="cuda" if workers.use_gpu else "cpu",
        batch_pairs=section.batch_pairs,
        batch_images=section.generate.batch_images,
        max_new_tokens=section.generate.max_new_tokens if section.generate.enabled else 0,
        num_threads=num_threads,
    )
    slim = [chunk.select([*NEEDED_COLUMNS, MODEL_COLUMN]) for chunk in chunks]
    if not workers.num_workers:
        yield from map(PairScorer(scoring), slim)
        return
    with ray_session():
        import ray.data

        dataset = ray.data.from_arrow(slim).map_batches(
            PairScorer,
            fn_constructor_args=(scoring,),
            batch_size=None,  # one block, which is one chunk
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers.num_workers, len(slim))),
            num_cpus=workers.cpus_per_worker,
            num_gpus=1 if workers.use_gpu else 0,
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from chunks_in(batch)


def chunks_in(batch: pa.Table) -> Iterator[pa.Table]:
    """The chunks of a table that Ray may have joined from several."""
    keys = list(zip(batch[MODEL_COLUMN].to_pylist(), batch["chunk"].to_pylist(), strict=True))
    for key in dict.fromkeys(keys):
        yield batch.filter(pa.array([other == key for other in keys]))


def write_results(plan: Plan, results: dict[Role, pa.Table], started_s: float) -> dict[str, Any]:
    """Writes scores.json, items.parquet, report.html and result.json; prints the summary."""
    from eval.grounding import tie_nats_of
    from eval.report import HEADLINE, TERMINAL, role_names, table, write_page
    from eval.scores import score_table, verdict_of_pairs
    from eval.views import favoured_of, view_of

    section, out, items = plan.section, plan.out, plan.items
    views = {role: view_of(items, rows, tie_nats_of(section.dtype)) for role, rows in results.items()}
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
    title = (
        f"{items.num_rows:,} pairs of split {section.split}, {section.intervals.confidence:.0%} intervals; differences of shares in points"
    )
    summary_table(title, *table(scores["overall"], TERMINAL, role_names(list(views))))
    return result


def items_table(items: pa.Table, results: dict[Role, pa.Table], views: dict[Role, Any], verdicts: list[str]) -> pa.Table:
    """One row per pair: its texts, what happened to it, and under each model the six log-probabilities and answers."""
    shown = items.select(["pair_id", "source", "category", "group", "question", "answer_a", "answer_b"])
    shown = shown.append_column("text_verdict", pa.array(verdicts))
    for role, rows in results.items():
        for name in rows.column_names:
            if name not in (MODEL_COLUMN, "chunk", "pair_id", "error") and not name.endswith("_px"):
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
    where = f"Ray, {section.workers.num_workers} workers" if section.workers.num_workers else "this process"
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
    """The entry point."""
    run_command(run)


if __name__ == "__main__":
    main()
