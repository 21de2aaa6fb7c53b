"""What finished evaluations left in their folders, as answers that can be scored again.

Reads files; knows no model.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.registry import benchmark as benchmark_named
from eval.benchmarks.table import ANSWER_SCHEMA, read_back
from eval.pairs.paired_scores import FloatArray, paired_scores, tie_nats_of
from eval.question import Metric, Question, Unit, Verdict
from pipeline.core.recipe import UserError
from pipeline.core.storage import read_json, read_table

FOLDER = "benchmarks"
CONTRAST = "contrast"
LOGPS = tuple(
    f"logp_{condition}_{response}" for condition in ("a", "b", "none") for response in ("a", "b")
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One benchmark as one model answered it under one image condition.

    facts: what makes two answers to a question comparable, by item_id: its prompt, its truth, the
    hash of its image.
    """

    benchmark: "Benchmark | ContrastSet"
    questions: list[Question]
    verdicts: list[Verdict]
    facts: dict[str, tuple[str, Any, str | None]]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One model in one folder: its answers by benchmark, with the images and without."""

    label: str
    model: str
    answered: dict[str, Answered]
    unseeing: dict[str, Answered]


class ContrastSet:
    """The pairs of an MVC folder, scored by log-likelihood.

    An item is a pair, its verdict the scores that it earns, as text.
    """

    name, headline = CONTRAST, "group_score"

    def metrics(self, questions: list[Question], verdicts: list[Verdict]) -> dict[str, Metric]:
        """text_score, image_score, group_score (Winoground's)."""
        chances = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}
        metrics = {}
        for place, (name, chance) in enumerate(chances.items()):
            parts = zip(questions, verdicts, strict=True)
            units = tuple(
                Unit(question.item_id, question.cluster, float((verdict.value or "000")[place]))
                for question, verdict in parts
            )
            metrics[name] = Metric(units=units, chance=chance)
        return metrics


def read_runs(folder: Path, label: str) -> list[Run]:
    """The models of one folder: the evaluated one, and after it its base if that was evaluated too.

    Raises:
        UserError: No finished evaluation in it, or files that are damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of an evaluation, found none there")
    if not (folder / "DONE.json").is_file():
        raise UserError(
            f"{folder}: expected a finished evaluation (DONE.json), found none; run svco eval ..."
            f" out={folder}"
        )
    models = dict(read_json(folder / "result.json").get("models") or {})
    runs = []
    for role in ("after", "before"):
        answered = _contrast(folder, role) | _benchmarks(folder, role, "image")
        if answered:
            name = label if role == "after" else f"{label} (base)"
            runs.append(
                Run(name, str(models.get(role, "")), answered, _benchmarks(folder, role, "none"))
            )
    if not runs or runs[0].label != label:
        raise UserError(
            f"{folder}: expected items.parquet or {FOLDER}/*.parquet with the answers of a model,"
            " found none"
        )
    return runs


def _benchmarks(folder: Path, role: str, condition: str) -> dict[str, Answered]:
    answered, recipe = {}, _recipe(folder)
    for path in sorted((folder / FOLDER).glob("*.parquet")):
        if path.name.endswith(".judge.parquet"):
            continue
        facts = path.with_suffix(".json")
        if not facts.is_file():
            raise UserError(
                f"{path}: expected {facts.name} beside it, found none; run the evaluation again"
            )
        table, stated = _table(path, ANSWER_SCHEMA.names), read_json(facts)
        roles = (
            table["model_role"].to_pylist()
            if "model_role" in table.column_names
            else ["after"] * table.num_rows
        )
        chosen = [
            of_role == role and under == condition
            for of_role, under in zip(roles, table["condition"].to_pylist(), strict=True)
        ]
        rows = table.filter(pa.array(chosen, pa.bool_())).select(ANSWER_SCHEMA.names)
        if rows.num_rows:
            questions, verdicts = read_back(rows)
            sha256 = rows["image_sha256"].to_pylist()
            shown = {
                question.item_id: (question.prompt, question.truth, name)
                for question, name in zip(questions, sha256, strict=True)
            }
            answered[path.stem] = Answered(
                benchmark_named(stated["benchmark"]),
                questions,
                verdicts,
                shown,
                _settings(recipe, path.stem),
            )
    return answered


def _recipe(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "DONE.json").get("identity", {}).get("recipe", {}))


def _settings(recipe: dict[str, Any], label: str) -> dict[str, Any]:
    """What the run's recipe says about how this benchmark was asked and scored."""
    entries = [
        entry
        for entry in recipe.get("benchmarks") or ()
        if (entry.get("label") or entry.get("name")) == label
    ]
    settings = (
        {name: entries[0].get(name) for name in ("parser", "options", "limit")} if entries else {}
    )
    judge = recipe.get("judge")
    answers = {
        "max_new_tokens": (recipe.get("answers") or {}).get("max_new_tokens"),
        "dtype": recipe.get("dtype"),
    }
    return settings | answers | ({"judge": judge.get("model")} if isinstance(judge, dict) else {})


def _contrast(folder: Path, role: str) -> dict[str, Answered]:
    path = folder / "items.parquet"
    if not path.is_file():
        return {}
    table = _table(path, ["pair_id", "group", "question", "answer_a", "answer_b"])
    columns = [f"{role}_{name}" for name in LOGPS]
    if any(name not in table.column_names for name in columns):
        return {}
    recipe = _recipe(folder)
    logps_P32: FloatArray = np.stack([table[name].to_numpy() for name in columns], axis=1).reshape(
        -1, 3, 2
    )
    scores = np.stack(
        paired_scores(logps_P32, tie_nats_of(str(recipe.get("dtype", "float32")))), axis=1
    )
    questions: list[Question] = []
    facts: dict[str, tuple[str, Any, str | None]] = {}
    for row in table.select(["pair_id", "group", "question", "answer_a", "answer_b"]).to_pylist():
        truth = (row["answer_a"], row["answer_b"])
        question = Question(
            item_id=row["pair_id"],
            prompt=row["question"],
            image=None,
            kind="short",
            truth=truth,
            cluster=row["group"],
            max_new_tokens=1,
        )
        questions.append(question)
        facts[question.item_id] = (question.prompt, truth, None)
    verdicts = [
        Verdict("".join(str(int(score)) for score in scores_3), "exact") for scores_3 in scores
    ]
    settings: dict[str, Any] = {
        name: recipe[name] for name in ("dtype", "split", "max_pairs") if name in recipe
    }
    return {CONTRAST: Answered(ContrastSet(), questions, verdicts, facts, settings)}


def _table(path: Path, needed: list[str]) -> pa.Table:
    try:
        table = read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole Parquet file ({str(error).splitlines()[0]}); run the evaluation"
            " again"
        ) from error
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise UserError(
            f"{path}: expected the columns of an evaluation, {', '.join(missing)} among them, found"
            " none; run it again"
        )
    return table


def shared_items(runs: list[Answered]) -> set[str]:
    """The questions that all runs answered, in whole clusters: half a pair would count as one."""
    members: list[dict[str, set[str]]] = []
    for run in runs:
        by_cluster: dict[str, set[str]] = {}
        for question in run.questions:
            by_cluster.setdefault(question.cluster, set()).add(question.item_id)
        members.append(by_cluster)
    first = members[0]
    whole = [
        cluster
        for cluster in first
        if all(other.get(cluster) == first[cluster] for other in members)
    ]
    return {item for cluster in whole for item in first[cluster]}


def restricted(run: Answered, items: set[str], unjudged: set[str]) -> Answered:
    """A run over `items` alone; what is in `unjudged` counts as not judged."""
    pairs = [(q, v) for q, v in zip(run.questions, run.verdicts, strict=True) if q.item_id in items]
    verdicts = [
        Verdict(None, "missing") if question.item_id in unjudged else verdict
        for question, verdict in pairs
    ]
    return replace(run, questions=[question for question, _ in pairs], verdicts=verdicts)


def said_differently(runs: list[Answered], items: set[str]) -> dict[str, int]:
    """On how many of `items` the prompts of the runs differ, or the truths, or the images."""
    names = ("prompt", "truth", "image")
    counts = dict.fromkeys(names, 0)
    for item in items:
        for place, name in enumerate(names):
            values = {
                json.dumps(run.facts[item][place])
                for run in runs
                if run.facts[item][place] is not None
            }
            counts[name] += len(values) > 1
    return counts
