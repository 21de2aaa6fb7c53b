#!/usr/bin/env python3
"""The job behind `svco eval`: does a model look at the image, before and after finetuning?"""

import time
from collections.abc import Sequence
from functools import partial

from eval.config import EvalSection
from eval.generation.endpoint import ask_server
from eval.generation.generator import Generator, Request, batches_of
from eval.inputs import EvaluatedModel, Role, data_sha256, stated_prior
from eval.outputs import (
    BENCHMARK_FOLDER,
    DONE,
    PAGE,
    RESULT,
    SCORES,
    Result,
    RunFacts,
    begin,
    identity,
    is_finished,
)
from eval.pairs.results import PairResults, write_pairs
from eval.pairs.run import score_models, without_left_out
from eval.plan import Plan, evaluated_models, plan_evaluation, print_plan
from eval.suite.run import BenchmarkResults, GenerateFn, Keep, run_benchmarks, summary_of
from pipeline.core.cli import recipe_command, run_command
from pipeline.core.progress import say
from pipeline.core.ray_pool import Pool
from pipeline.core.storage import only_one, read_json, write_json


def evaluate(plan: Plan) -> Result:
    """Runs the plan unless it is done already; returns what result.json says.

    Raises:
        UserError: Something that the user can mend.
    """
    section, out, started_s = plan.section, plan.out, time.monotonic()
    models = evaluated_models(plan)
    hashes = {role: model.weights for role, model in models.items()}
    data = data_sha256(section) if section.data else ""
    prior = stated_prior(plan.models) if plan.models else None
    questions = {run.entry.display_name: run.sha256() for run in plan.runs}
    wanted = identity(section, hashes, data, questions, prior)
    if is_finished(section, wanted):
        say(f"{out}: already evaluated with this recipe and these weights; nothing to do")
        return read_json(out / RESULT)
    with only_one(out, "out"):
        begin(out)
        say(f"evaluating {models['after'].name} -> {out}")
        pairs = None
        if plan.items is not None:
            results = score_models(plan.items, models, section, data, pool_of(section).map)
            items, results, left_out = without_left_out(plan.items, results)
            pairs = write_pairs(items, results, prior, section, left_out.counts)
        benchmarks = (
            run_benchmarks(plan.runs, models, section, answering(section)) if plan.runs else None
        )
        result = write_results(plan, models, pairs, benchmarks, started_s)
        if not result["num_without_answer"]:
            write_json(out / DONE, {"identity": wanted})
    return result


def answering(section: EvalSection) -> GenerateFn:
    """How requests are answered: by a server, by this process, or by a pool of Ray actors."""
    if section.endpoint is not None:
        return partial(ask_server, section.endpoint)

    def generate(requests: Sequence[Request], keep: Keep) -> None:
        batches = batches_of(requests, section.answers.batch)
        for batch, answers in pool_of(section).map(Generator, batches, (section,)):
            keep([(request.key, answer) for request, answer in zip(batch, answers, strict=True)])

    return generate


def pool_of(section: EvalSection) -> Pool:
    """Where a model is loaded and asked."""
    workers = section.workers
    return Pool(workers.num_workers, workers.cpus_per_worker, workers.use_gpu)


def write_results(
    plan: Plan,
    models: dict[Role, EvaluatedModel],
    pairs: PairResults | None,
    benchmarks: BenchmarkResults | None,
    started_s: float,
) -> Result:
    """Writes report.html and result.json; prints the summary."""
    from eval.report.page import headline_scores, print_summary, write_page

    section, out = plan.section, plan.out
    write_page(section, models, pairs, benchmarks, out / PAGE)
    facts: RunFacts = benchmarks.facts if benchmarks else {"num_without_answer": 0}
    result: Result = {
        "out": str(out),
        "page": str(out / PAGE),
        "models": {role: model.name for role, model in models.items()},
        "data": section.data or None,
        "num_pairs": pairs.items.num_rows if pairs else 0,
        "num_pairs_left_out": dict(pairs.left_out) if pairs else {},
        "headline": headline_scores(pairs.scores) if pairs else {},
        "benchmarks": (
            {scores["label"]: summary_of(scores) for scores in benchmarks.results}
            if benchmarks
            else {}
        ),
        **facts,
        "seconds": round(time.monotonic() - started_s, 1),
    }
    write_json(out / RESULT, result)
    print_summary(section, pairs, benchmarks)
    return result


def _evaluate(section: EvalSection) -> None:
    result = evaluate(plan_evaluation(section))
    kinds = ((SCORES, section.data), (f"{BENCHMARK_FOLDER}/", section.benchmarks))
    scores = [f"{result['out']}/{name}" for name, is_asked in kinds if is_asked]
    say(f"page    {result['page']}\nscores  {'  '.join(scores)}")


run = recipe_command(
    EvalSection,
    "eval_contrast",
    "Measure whether a vision-language model looks at the image, before and after finetuning.",
    work=_evaluate,
    show_plan=lambda section: print_plan(plan_evaluation(section, images=False)),
)

if __name__ == "__main__":
    run_command(run)
