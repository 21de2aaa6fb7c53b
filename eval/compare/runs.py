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
from eval.outputs import BENCHMARK_FOLDER, DONE, ITEMS, RESULT
from eval.pairs.arrays import ModelScores
from eval.pairs.measures import MEASURES, among, terms_of
from eval.pairs.paired_scores import tie_nats_of
from eval.pairs.scorer import LOGP_COLUMNS
from eval.question import Metric, Question, Unit, Verdict
from pipeline.core.intervals import FloatArray
from pipeline.core.recipe import UserError, first_line
from pipeline.core.storage import read_json, read_table

CONTRAST = "contrast"
ENTRY_SETTINGS = ("parser", "options", "limit")


@dataclass(frozen=True, slots=True)
class Answered:
    """One benchmark as one model answered it under one image condition.

    images: the hash of the image that was shown, by item_id.
    """

    benchmark: "Benchmark | ContrastSet"
    questions: list[Question]
    verdicts: list[Verdict]
    images: dict[str, str | None]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One model in one folder: its answers by benchmark, with the images and without."""

    label: str
    model: str
    answered: dict[str, Answered]
    unseeing: dict[str, Answered]


class ContrastSet:
    """The pairs of an MVC folder, scored by log-likelihood, and by claims where answers were made.

    An item is a pair, its verdict what it adds to each score: numerators and denominators.
    """

    name, headline = CONTRAST, "group_score"
    headlines = ("text_score", "image_score", "group_score", "flip_rate", "hallucinated_answers")

    def metrics(self, questions: list[Question], verdicts: list[Verdict]) -> dict[str, Metric]:
        """Those of `headlines` that every pair has, as the evaluation defines them."""
        parts = [json.loads(verdict.value or "{}") for verdict in verdicts]
        return {
            name: Metric(
                units=tuple(
                    Unit(question.item_id, question.cluster, *part[name])
                    for question, part in zip(questions, parts, strict=True)
                    if part[name][1]
                ),
                chance=MEASURES[name].chance,
                higher_is_better=MEASURES[name].better == "higher",
            )
            for name in self.headlines
            if all(name in part for part in parts)
        }


def read_runs(folder: Path, label: str) -> list[Run]:
    """The models of one folder: the evaluated one, and after it its base if that was evaluated too.

    Raises:
        UserError: No finished evaluation in it, or files that are damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of an evaluation, found none there")
    if not (folder / DONE).is_file():
        raise UserError(
            f"{folder}: expected a finished evaluation ({DONE}), found none; run svco eval ..."
            f" out={folder}"
        )
    models = dict(read_json(folder / RESULT).get("models") or {})
    identity = dict(read_json(folder / DONE).get("identity", {}))
    recipe = dict(identity.get("recipe", {}))
    if identity.get("data"):
        recipe["data"] = str(identity["data"])[:12]  # of the split's digest, for a note
    runs = []
    for role, name in (("after", label), ("before", f"{label} (base)")):
        seeing, unseeing = (
            _benchmarks(folder, recipe, role, condition) for condition in ("image", "none")
        )
        answered = _contrast(folder / ITEMS, recipe, role) | seeing
        if answered:
            runs.append(Run(name, str(models.get(role, "")), answered, unseeing))
    if not runs or runs[0].label != label:
        raise UserError(
            f"{folder}: expected {ITEMS} or {BENCHMARK_FOLDER}/*.parquet with the answers of a"
            " model, found none"
        )
    return runs


def _benchmarks(
    folder: Path, recipe: dict[str, Any], role: str, condition: str
) -> dict[str, Answered]:
    import pyarrow.compute as pc  # a third of the time that the command takes to start

    answered = {}
    for path in sorted((folder / BENCHMARK_FOLDER).glob("*.parquet")):
        if path.name.endswith(".judge.parquet"):
            continue
        facts = path.with_suffix(".json")
        if not facts.is_file():
            raise UserError(
                f"{path}: expected {facts.name} beside it, found none; run the evaluation again"
            )
        rows = _table(path, [*ANSWER_SCHEMA.names, "model_role"]).filter(
            (pc.field("model_role") == role) & (pc.field("condition") == condition)
        )
        if rows.num_rows:
            answered[path.stem] = Answered(
                benchmark_named(read_json(facts)["benchmark"]),
                *read_back(rows),
                dict(
                    zip(*rows.select(["item_id", "image_sha256"]).to_pydict().values(), strict=True)
                ),
                _settings(recipe, path.stem),
            )
    return answered


def _settings(recipe: dict[str, Any], label: str) -> dict[str, Any]:
    """What the run's recipe says about how this benchmark was asked and scored."""
    entries = [
        entry
        for entry in recipe.get("benchmarks") or ()
        if (entry.get("label") or entry.get("name")) == label
    ]
    judge = recipe.get("judge")
    return {
        **{name: entry.get(name) for entry in entries[:1] for name in ENTRY_SETTINGS},
        "max_new_tokens": (recipe.get("answers") or {}).get("max_new_tokens"),
        "dtype": recipe.get("dtype"),
        **({"judge": judge.get("model")} if isinstance(judge, dict) else {}),
    }


def _contrast(path: Path, recipe: dict[str, Any], role: str) -> dict[str, Answered]:
    if not path.is_file():
        return {}
    texts = ["pair_id", "group", "question", "answer_a", "answer_b"]
    table = _table(path, texts)
    columns = [f"{role}_{name}" for name in LOGP_COLUMNS]
    if not set(columns) <= set(table.column_names):
        return {}
    terms = contrast_terms(table, role, tie_nats_of(str(recipe.get("dtype", "float32"))))
    questions = [
        Question(
            item_id=row["pair_id"],
            prompt=row["question"],
            image=None,
            kind="short",
            truth=(row["answer_a"], row["answer_b"]),
            cluster=row["group"],
            max_new_tokens=1,
        )
        for row in table.select(texts).to_pylist()
    ]
    verdicts = [
        Verdict(
            json.dumps({name: [top[row], bottom[row]] for name, (top, bottom) in terms.items()}),
            "exact",
        )
        for row in range(table.num_rows)
    ]
    settings: dict[str, Any] = {
        name: recipe[name] for name in ("data", "dtype", "split", "max_pairs") if name in recipe
    }
    return {CONTRAST: Answered(ContrastSet(), questions, verdicts, {}, settings)}


def contrast_terms(
    table: pa.Table, role: str, tie_nats: float
) -> dict[str, tuple[list[float], list[float]]]:
    """Numerator and denominator of each headline by pair, from the columns of items.parquet."""

    def sides(name: str) -> FloatArray:
        columns = [table[f"{role}_{name}_{side}"].to_numpy() for side in "ab"]
        return np.stack(columns, axis=1).astype(float)

    logps = [table[f"{role}_{name}"].to_numpy() for name in LOGP_COLUMNS]
    scores = ModelScores(
        np.stack(logps, axis=1).reshape(-1, 3, 2), np.ones((table.num_rows, 2), int), None, tie_nats
    )
    terms = terms_of(scores, None)
    if f"{role}_num_claims_a" in table.column_names:
        terms["hallucinated_answers"] = among(sides("num_false") > 0, sides("num_claims") > 0)
    return {
        name: (terms[name][0].tolist(), terms[name][1].tolist())
        for name in ContrastSet.headlines
        if name in terms
    }


def _table(path: Path, needed: list[str]) -> pa.Table:
    try:
        table = read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole Parquet file ({first_line(error)}); run the evaluation again"
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
    asked = [{(question.cluster, question.item_id) for question in run.questions} for run in runs]
    shared = set.intersection(*asked)
    broken = {cluster for cluster, _ in set.union(*asked) - shared}
    return {item for cluster, item in shared if cluster not in broken}


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
    said = [
        {q.item_id: (q.prompt, q.truth, run.images.get(q.item_id)) for q in run.questions}
        for run in runs
    ]
    return {
        name: sum(len({facts[item][place] for facts in said} - {None}) > 1 for item in items)
        for place, name in enumerate(("prompt", "truth", "image"))
    }
