#!/usr/bin/env python3
"""Measures whether a vision-language model looks at the image, before and after finetuning: the job
behind `svco eval`.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from eval.config import EvalSection
from eval.generation.cache import Answer
from eval.generation.endpoint import ask_server
from eval.generation.generator import (
    Answerer,
    AnsweringPlan,
    Request,
    batches_of,
    request_table,
)
from eval.inputs import EvaluatedModel, Models, Role, data_sha256, stated_prior
from eval.outputs import (
    BENCHMARK_FOLDER,
    DONE,
    PAGE,
    RESULT,
    SCORES,
    begin,
    identity,
    is_finished,
    scoring_fingerprint,
)
from eval.pairs.results import PairResults, write_pairs
from eval.pairs.scorer import MODEL_COLUMN, NEEDED_COLUMNS, PairScorer, ScoringPlan
from eval.plan import Plan, evaluated_models, plan_evaluation, print_plan
from eval.suite.run import BenchmarkResults, GenerateFn, Keep, run_benchmarks, summary_of
from pipeline.core.cli import DryRun, PrintRecipe, run_command
from pipeline.core.progress import Progress, say
from pipeline.core.ray_pool import Pool
from pipeline.core.recipe import load_recipe, resolved_yaml
from pipeline.core.storage import (
    Stage,
    only_one,
    open_stage,
    read_json,
    read_table,
    write_json,
    write_table,
)

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "eval_contrast.yaml"


def evaluate(plan: Plan) -> dict[str, Any]:
    """Runs the plan unless it is done already; returns what result.json says.

    Raises:
        UserError: Something that the user can mend.
    """
    section, out, started_s = plan.section, plan.out, time.monotonic()
    models = evaluated_models(plan)
    hashes = {role: model.weights for role, model in models.items()}
    data = data_sha256(section) if section.data else ""
    prior = stated_prior(plan.models) if plan.models else None
    wanted = identity(
        section, hashes, data, {one.entry.display_name: one.sha256() for one in plan.runs}, prior
    )
    if is_finished(section, wanted):
        say(f"{out}: already evaluated with this recipe and these weights; nothing to do")
        return dict(read_json(out / RESULT))
    with only_one(out, "out"):
        begin(out)
        say(f"evaluating {models['after'].name} -> {out}")
        pairs = pair_results(
            plan,
            {role: scoring_fingerprint(section, sha, data) for role, sha in hashes.items()},
            prior,
        )
        benchmarks = (
            run_benchmarks(plan.runs, models, section, answering(section)) if plan.runs else None
        )
        result = write_results(plan, models, pairs, benchmarks, started_s)
        if not result["num_without_answer"]:
            write_json(out / DONE, {"identity": wanted})
    return result


def pair_results(
    plan: Plan, fingerprints: dict[Role, str], prior: dict[str, list[str]] | None
) -> PairResults | None:
    """Scores the pairs and writes scores.json and items.parquet; None without pairs."""
    if plan.items is None or plan.models is None:
        return None
    results = score_models(plan.items, plan.models, plan.section, fingerprints)
    return write_pairs(plan.items, results, prior, plan.section)


def score_models(
    items: pa.Table, models: Models, section: EvalSection, fingerprints: dict[Role, str]
) -> dict[Role, pa.Table]:
    """The result row of every pair under every model; chunks that an earlier run finished are read,
    not made again.

    Raises:
        MvcError: A pair that cannot be scored, or a model that is not supported.
    """
    folders, size, num_pairs = models.by_role(), section.pairs_per_chunk, items.num_rows
    stages = {
        role: open_stage(Path(section.out) / ".work", "scores", name)
        for role, name in fingerprints.items()
    }
    chunks = [items.slice(start, size) for start in range(0, num_pairs, size)]
    missing = missing_parts(stages, len(chunks))
    if missing:
        role_of = {str(folder): role for role, folder in folders.items()}
        wanted = [
            chunks[index].append_column(
                MODEL_COLUMN, pa.array([str(folders[role])] * chunks[index].num_rows)
            )
            for role, index in missing
        ]
        with Progress("score", num_pairs * len(folders), "pairs") as progress:
            progress.advance(num_pairs * len(folders) - sum(chunk.num_rows for chunk in wanted))
            slim = [chunk.select([*NEEDED_COLUMNS, MODEL_COLUMN]) for chunk in wanted]
            for _, result in pool_of(section).map(PairScorer, slim, (scoring_plan(section),)):
                role = role_of[result[MODEL_COLUMN][0].as_py()]
                write_table(stages[role].part("chunk", result["chunk"][0].as_py()), result)
                progress.advance(result.num_rows, model=role)
    parts = {
        role: [read_table(stage.part("chunk", index)) for index in range(len(chunks))]
        for role, stage in stages.items()
    }
    return {role: pa.concat_tables(tables) for role, tables in parts.items()}


def missing_parts(stages: dict[Role, Stage], num_chunks: int) -> list[tuple[Role, int]]:
    """The (role, chunk) that are still to be scored; one of them where both models are the same and
    share a file.
    """
    parts = {
        stage.part("chunk", index): (role, index)
        for role, stage in stages.items()
        for index in range(num_chunks)
    }
    return [key for path, key in parts.items() if not path.is_file()]


def scoring_plan(section: EvalSection) -> ScoringPlan:
    """What a worker that scores pairs must know."""
    return ScoringPlan(
        dtype=section.dtype,
        device=device_of(section),
        batch_pairs=section.batch_pairs,
        batch_images=section.generate.batch_images,
        max_new_tokens=section.generate.max_new_tokens if section.generate.enabled else 0,
    )


def answering(section: EvalSection) -> GenerateFn:
    """How requests are answered: by a server, by this process, or by a pool of Ray actors."""
    if section.endpoint is not None:
        return partial(ask_server, section.endpoint)
    plan = AnsweringPlan(dtype=section.dtype, device=device_of(section))

    def generate(requests: Sequence[Request], keep: Keep) -> None:
        batches = [request_table(batch) for batch in batches_of(requests, section.answers.batch)]
        for _, table in pool_of(section).map(Answerer, batches, (plan,)):
            keep(
                [
                    (row["key"], Answer(row["text"], row["num_tokens"], row["ended"]))
                    for row in table.to_pylist()
                ]
            )

    return generate


def pool_of(section: EvalSection) -> Pool:
    """Where a model is loaded and asked."""
    workers = section.workers
    return Pool(workers.num_workers, workers.cpus_per_worker, workers.use_gpu)


def device_of(section: EvalSection) -> str:
    """The torch device of a worker."""
    return "cuda" if section.workers.use_gpu else "cpu"


def write_results(
    plan: Plan,
    models: dict[Role, EvaluatedModel],
    pairs: PairResults | None,
    benchmarks: BenchmarkResults | None,
    started_s: float,
) -> dict[str, Any]:
    """Writes report.html and result.json; prints the summary."""
    from eval.report.page import headline_scores, print_summary, write_page

    section, out = plan.section, plan.out
    write_page(section, models, pairs, benchmarks, out / PAGE)
    result = {
        "out": str(out),
        "page": str(out / PAGE),
        "models": {role: model.name for role, model in models.items()},
        "data": section.data or None,
        "num_pairs": pairs.items.num_rows if pairs else 0,
        "headline": headline_scores(pairs.scores) if pairs else {},
        "benchmarks": (
            {one["label"]: summary_of(one) for one in benchmarks.results} if benchmarks else {}
        ),
        **(benchmarks.facts if benchmarks else {"num_without_answer": 0}),
        "seconds": round(time.monotonic() - started_s, 1),
    }
    write_json(out / RESULT, result)
    print_summary(section, pairs, benchmarks)
    return result


def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Overrides, for example out=build/eval."),
    ] = None,
    recipe: Annotated[Path, typer.Option(help="The recipe.")] = DEFAULT_RECIPE,
    print_recipe: PrintRecipe = False,
    dry_run: DryRun = False,
) -> None:
    """Measure whether a vision-language model looks at the image, before and after finetuning."""
    section = load_recipe(recipe, list(overrides or []), EvalSection)
    if print_recipe:
        print(resolved_yaml(section), end="")
    elif dry_run:
        print_plan(plan_evaluation(section, images=False))
    else:
        result = evaluate(plan_evaluation(section))
        scores = [
            f"{result['out']}/{name}"
            for name, held in ((SCORES, section.data), (f"{BENCHMARK_FOLDER}/", section.benchmarks))
            if held
        ]
        say(f"page    {result['page']}\nscores  {'  '.join(scores)}")


def main() -> None:
    """The entry point."""
    run_command(run)


if __name__ == "__main__":
    main()
