"""An evaluation before it runs: all that it needs, checked without torch or Ray."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from eval.benchmarks.registry import benchmark
from eval.config import BenchmarkSection, EvalSection
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
from training.models.model_check import check_models


@dataclass(frozen=True)
class Plan:
    """A checked evaluation: absolute paths, and models, pairs and questions that are there.

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
    models, whole = None, list[Path]()
    if section.endpoint is None:
        models = find_models(section, weights=images, whole=whole.append)
        check_models(whole, trained=False, here=images)
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
    section, models, endpoint = plan.section, plan.models, plan.section.endpoint
    finished = " (finished)" if (plan.out / DONE).is_file() else ""
    num_models = len(models.by_role()) if models else 1
    rows = []
    if models is not None:
        rows += [
            ["model (after)", str(models.after)],
            ["base (before)", str(models.before or "none: no comparison")],
        ]
    if endpoint is not None:
        rows.append(["model", f"{endpoint.model} at {endpoint.base_url}"])
    if plan.items is not None:
        rows += _pair_rows(section, plan.items, num_models)
    rows += [[entry.display_name, _size(entry)] for entry in section.benchmarks]
    if section.benchmarks:
        conditions = ", ".join(["image", *section.answers.ablations])
        count = f"{num_models} model{'s' if num_models > 1 else ''}"
        rows.append(["image conditions", f"{conditions}, by {count}"])
    rows += [["runs on", _place(section)], ["out", section.out + finished]]
    summary_table("Plan", ["what", "value"], rows)


def _pair_rows(section: EvalSection, items: pa.Table, num_models: int) -> list[list[str]]:
    num_pairs, generate = items.num_rows, section.generate
    num_answers = 2 * num_pairs * num_models if generate.enabled else 0
    num_chunks = -(-num_pairs // section.pairs_per_chunk)
    factors = f"3 image conditions x 2 answers x {num_models} models"
    return [
        ["data", f"{section.data}, split {section.split}"],
        ["pairs", f"{num_pairs:,} in {len(set(items['group'].to_pylist())):,} groups"],
        ["log-likelihoods", f"{6 * num_pairs * num_models:,} ({factors})"],
        ["generated answers", f"{num_answers:,} of at most {generate.max_new_tokens} tokens"],
        ["chunks", f"{num_chunks:,} of {section.pairs_per_chunk} pairs, per model"],
    ]


def _size(entry: BenchmarkSection) -> str:
    whole = entry.expected_size or benchmark(entry.name).expected_size
    size = f"first {entry.limit:,}" if entry.limit else f"{whole:,}"
    return f"{size} questions of {entry.source}"


def _place(section: EvalSection) -> str:
    if section.endpoint:
        return "a server"
    workers = section.workers
    place = f"Ray, {workers.num_workers} workers" if workers.num_workers else "this process"
    return place + (" with a GPU each" if workers.use_gpu else "")
