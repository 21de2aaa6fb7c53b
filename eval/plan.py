"""An evaluation before it runs: everything that it needs, checked as far as that goes without torch
or Ray.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from eval.benchmarks.registry import benchmark
from eval.config import EvalSection
from eval.inputs import (
    EvaluatedModel,
    Models,
    Role,
    find_models,
    read_items,
    weights_sha256,
    with_absolute_paths,
)
from eval.outputs import DONE
from eval.suite.requests import BenchmarkRun, load_benchmarks
from pipeline.core.progress import summary_table
from pipeline.core.recipe import fingerprint


@dataclass(frozen=True)
class Plan:
    """A checked evaluation: absolute paths, models that are there, a split with pairs, benchmarks
    with questions.

    `models` is None behind an endpoint, `items` without `data`.
    """

    section: EvalSection
    models: Models | None
    items: pa.Table | None
    runs: list[BenchmarkRun]

    @property
    def out(self) -> Path:
        """Where everything is written."""
        return Path(self.section.out)


def plan_evaluation(section: EvalSection, *, images: bool = True) -> Plan:
    """What an evaluation would do, checked as far as that goes without torch or Ray.

    Args:
        images: Read the images, the questions of benchmarks, and fetch the weights of a model on
            the Hub; a plan that is only shown needs none of them.

    Raises:
        UserError: Paths, models or data that cannot be used.
    """
    section.check()
    section = with_absolute_paths(section)
    models = find_models(section, weights=images) if section.endpoint is None else None
    items = read_items(section, images=images) if section.data else None
    return Plan(section, models, items, load_benchmarks(section) if images else [])


def evaluated_models(plan: Plan) -> dict[Role, EvaluatedModel]:
    """What is evaluated, by role, the base first."""
    if plan.models is not None:
        return {
            role: EvaluatedModel(str(folder), str(folder), weights_sha256(folder))
            for role, folder in plan.models.by_role().items()
        }
    endpoint = plan.section.endpoint
    assert endpoint is not None, "check() wants a model or an endpoint"
    content = {key: value for key, value in endpoint.content().items() if key != "max_tokens"}
    return {
        "after": EvaluatedModel(
            f"{endpoint.model} at {endpoint.identity or endpoint.base_url}",
            "",
            fingerprint(content),
        )
    }


def print_plan(plan: Plan) -> None:
    """What an evaluation would do, without doing it."""
    section, items, models = plan.section, plan.items, plan.models
    rows = []
    if models is not None:
        rows += [
            ["model (after)", str(models.after)],
            ["base (before)", str(models.before or "none: no comparison")],
        ]
    if section.endpoint is not None:
        rows.append(["model", f"{section.endpoint.model} at {section.endpoint.base_url}"])
    num_models = len(models.by_role()) if models else 1
    if items is not None:
        answers = 2 * items.num_rows * num_models if section.generate.enabled else 0
        rows += [
            ["data", f"{section.data}, split {section.split}"],
            ["pairs", f"{items.num_rows:,} in {len(set(items['group'].to_pylist())):,} groups"],
            [
                "log-likelihoods",
                (
                    f"{6 * items.num_rows * num_models:,} (3 image conditions x 2 answers x"
                    f" {num_models} models)"
                ),
            ],
            [
                "generated answers",
                f"{answers:,} of at most {section.generate.max_new_tokens} tokens",
            ],
            [
                "chunks",
                (
                    f"{-(-items.num_rows // section.pairs_per_chunk):,} of"
                    f" {section.pairs_per_chunk} pairs, per model"
                ),
            ],
        ]
    for entry in section.benchmarks:
        size = (
            f"first {entry.limit:,} questions"
            if entry.limit
            else f"{entry.expected_size or benchmark(entry.name).expected_size:,} questions"
        )
        rows.append([entry.display_name, f"{size} of {entry.source}"])
    if section.benchmarks:
        rows.append(
            [
                "image conditions",
                ", ".join(["image", *section.answers.ablations])
                + f", by {num_models} model{'s' if num_models > 1 else ''}",
            ]
        )
    where = (
        f"Ray, {section.workers.num_workers} workers"
        if section.workers.num_workers
        else "this process"
    )
    rows.append(
        [
            "runs on",
            (
                "a server"
                if section.endpoint
                else where + (" with a GPU each" if section.workers.use_gpu else "")
            ),
        ]
    )
    rows.append(["out", section.out + (" (finished)" if (plan.out / DONE).is_file() else "")])
    summary_table("Plan", ["what", "value"], rows)
