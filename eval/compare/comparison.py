"""Several models over the same questions: their scores, and what differs by more than luck.

The first model is the one that the others are compared with. Values in, plain values out.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from eval.compare.runs import Answered, Run, restricted, said_differently, shared_items
from eval.parsing.parse import status_rates
from eval.question import Metric
from eval.stats.dependency import Draws, Number, ScoredNumber, drop, relative_change, scored
from eval.stats.significance import (
    TestedDifference,
    adjust,
    average_relative_improvement,
    difference,
)
from pipeline.core.recipe import UserError
from pipeline.pages.numbers import MISSING, show_chance, show_number

# The columns of the paper's table: benchmark, metric, heading. MM-Vet and LLaVA-Bench, which it
# also has, are not among ours.
PAPER_COLUMNS = (
    ("mmhal", "score", "MMHal"),
    ("mmhal", "hallucination_rate", "MMHal hal."),
    ("cvbench", "combined", "CV-Bench"),
    ("mmvp", "pair_accuracy", "MMVP pairs"),
    ("realworldqa", "accuracy", "RealWorldQA"),
    ("textvqa", "accuracy", "TextVQA"),
    ("scienceqa", "accuracy", "ScienceQA"),
)
NOT_OURS = ("MM-Vet", "LLaVA-Bench")
ASKED_OTHERWISE = {
    "prompt": "asked in other words",
    "truth": "graded by other truths",
    "image": "shown other images",
}


Metrics = Mapping[str, Sequence[Mapping[str, Metric]]]  # of each model, by label


class ModelName(TypedDict):
    """A compared model: its short label, and where it lies."""

    label: str
    model: str


class Column(TypedDict):
    """One score that every model has: `key` is label/metric.

    in_average: Whether the paper's average counts it.
    """

    key: str
    heading: str
    in_average: bool
    chance: float | None
    unit: str
    higher_is_better: bool | None


class Comparison(TypedDict):
    """The whole comparison as it is written: models by label, scores by the key of their column.

    unreadable: The share of answers that could not be read, by model and benchmark.
    average: The paper's average relative improvement.
    dependency: The share of the first model's score that it loses without images.
    improvement: By what share another model scores better. Both are positive where the image is
        needed and the model is better; the paper's figure 6 shows one against the other.
    """

    models: list[ModelName]
    columns: list[Column]
    scores: dict[str, dict[str, ScoredNumber | None]]
    unreadable: dict[str, dict[str, float]]
    average: dict[str, float | None]
    differences: dict[str, dict[str, TestedDifference | None]]
    dependency: dict[str, Number | None]
    improvement: dict[str, dict[str, Number | None]]
    notes: list[str]


def compare_runs(
    runs: Sequence[Run], *, num_draws: int, confidence: float, seed: int
) -> Comparison:
    """The whole comparison.

    Raises:
        UserError: Fewer than two models, or no benchmark that all of them answered.
    """
    if len(runs) < 2:
        raise UserError(
            "expected at least two models to compare, got one; give another folder, or one"
            " evaluated with its base"
        )
    notes: list[str] = []
    aligned = {
        label: answers
        for label in _labels(runs, notes)
        if (answers := _aligned(label, runs, notes)) is not None
    }
    if not aligned:
        raise UserError(
            "no benchmark was answered by all of these models; evaluate them on the same benchmarks"
        )
    metrics = {label: [_metrics(answered) for answered in of] for label, of in aligned.items()}
    columns = _columns(aligned, metrics, notes)
    of_models = {column["key"]: _of_models(column["key"], metrics) for column in columns}
    names, others = [run.label for run in runs], [run.label for run in runs[1:]]
    comparison: Comparison = {
        "models": [{"label": run.label, "model": run.model} for run in runs],
        "columns": columns,
        "scores": {name: {} for name in names},
        "unreadable": {
            name: {label: _unreadable(of[place]) for label, of in aligned.items()}
            for place, name in enumerate(names)
        },
        "average": {
            name: _average(columns, of_models, place, name, notes)
            for place, name in enumerate(names)
        },
        "differences": {name: {} for name in others},
        "dependency": {},
        "improvement": {name: {} for name in others},
        "notes": notes,
    }
    for label, answers in aligned.items():
        # The draws of one benchmark at a time: thousands of draws over thousands of images are
        # hundreds of megabytes.
        clusters = [question.cluster for question in answers[0].questions]
        draws = Draws.of(clusters, num_draws, confidence, seed)
        unseeing = runs[0].unseeing.get(label)
        for key in (key for key in of_models if key.startswith(f"{label}/")):
            dependency = _dependency(key, answers[0], unseeing, draws)
            comparison["dependency"][key] = dependency
            _compare_column(comparison, key, of_models[key], draws)
    for of_model in comparison["differences"].values():
        adjust(of_model, 1.0 - confidence)
    return comparison


def _compare_column(
    comparison: Comparison, key: str, of_models: Sequence[Metric], draws: Draws
) -> None:
    """Enters every model's score, and of all but the first how it differs from the first's."""
    base = of_models[0]
    sign = -1.0 if base.higher_is_better is False else 1.0
    for scores, metric in zip(comparison["scores"].values(), of_models, strict=True):
        scores[key] = scored(metric, draws)
    for name, metric in zip(comparison["differences"], of_models[1:], strict=True):
        comparison["differences"][name][key] = difference(metric, base, draws)
        comparison["improvement"][name][key] = relative_change(base, metric, draws, sign=sign)


def _labels(runs: Sequence[Run], notes: list[str]) -> list[str]:
    everywhere = [label for label in runs[0].answered if all(label in run.answered for run in runs)]
    for label in dict.fromkeys(label for run in runs for label in run.answered):
        if label not in everywhere:
            lacking = ", ".join(run.label for run in runs if label not in run.answered)
            notes.append(f"{label}: not answered by {lacking}; left out")
    return everywhere


def _aligned(label: str, runs: Sequence[Run], notes: list[str]) -> list[Answered] | None:
    """Each run's answers over the questions that all have; notes what is not comparable."""
    answers = [run.answered[label] for run in runs]
    items = shared_items(answers)
    sizes = [len(answered.questions) for answered in answers]
    if any(size != len(items) for size in sizes):
        counts = ", ".join(f"{run.label} {size:,}" for run, size in zip(runs, sizes, strict=True))
        notes.append(
            f"{label}: the models answered different questions ({counts}); compared over the"
            f" {len(items):,} that all answered"
        )
    if not items:
        notes.append(f"{label}: no question in common; left out")
        return None
    for name, count in said_differently(answers, items).items():
        if count:
            notes.append(
                f"{label}: {count:,} of {len(items):,} questions were {ASKED_OTHERWISE[name]}; the"
                " scores are not strictly comparable"
            )
    for name in dict.fromkeys(name for answered in answers for name in answered.settings):
        values = [answered.settings.get(name) for answered in answers]
        if any(value != values[0] for value in values):
            shown = ", ".join(
                f"{run.label} {value!r}" for run, value in zip(runs, values, strict=True)
            )
            notes.append(f"{label}: scored under different settings, {name}: {shown}")
    unjudged = {
        question.item_id
        for answered in answers
        for question, verdict in zip(answered.questions, answered.verdicts, strict=True)
        if verdict.status == "missing" and question.item_id in items
    }
    if unjudged:
        notes.append(
            f"{label}: {len(unjudged):,} of {len(items):,} answers have no judgement in at least"
            " one model; left out of all"
        )
    return [restricted(answered, items, unjudged) for answered in answers]


def _metrics(answered: Answered) -> dict[str, Metric]:
    return answered.benchmark.metrics(answered.questions, answered.verdicts)


def _columns(
    aligned: dict[str, list[Answered]], metrics: Metrics, notes: list[str]
) -> list[Column]:
    """The paper's columns first, in its order, then the headline of every other benchmark."""
    labels_of = {
        name: [label for label, of in aligned.items() if of[0].benchmark.name == name]
        for name, _, _ in PAPER_COLUMNS
    }
    # Of a benchmark run in several ways the one under its own name counts, or the first.
    columns = [
        _column(
            f"{label}/{metric}",
            heading if label == name else f"{label} {metric}",
            metrics,
            in_average=label == (name if name in labels_of[name] else labels_of[name][0]),
        )
        for name, metric, heading in PAPER_COLUMNS
        for label in labels_of[name]
    ]
    absent = [*NOT_OURS, *(heading for name, _, heading in PAPER_COLUMNS if not labels_of[name])]
    if columns:
        num_held = sum(column["in_average"] for column in columns)
        notes.append(
            f"the paper's average has nine columns; of these there are {num_held}, without"
            f" {', '.join(absent)}"
        )
    covered = {name for name, _, _ in PAPER_COLUMNS}
    others = {
        label: of[0].benchmark.headline
        for label, of in aligned.items()
        if of[0].benchmark.name not in covered
    }
    return columns + [
        _column(
            f"{label}/{headline}",
            f"{label} {headline.replace('_', ' ')}",
            metrics,
            in_average=False,
        )
        for label, headline in others.items()
    ]


def _of_models(key: str, metrics: Metrics) -> list[Metric]:
    label, _, name = key.partition("/")
    return [of_model[name] for of_model in metrics[label]]


def _dependency(
    key: str, seeing: Answered, unseeing: Answered | None, draws: Draws
) -> Number | None:
    """The share of a score that is lost without images, over the questions asked both ways."""
    items = shared_items([seeing, unseeing]) if unseeing else set()
    if not unseeing or not items:
        return None
    with_image, without = (
        _metrics(restricted(answered, items, set()))[key.partition("/")[2]]
        for answered in (seeing, unseeing)
    )
    return drop(with_image, without, draws)["relative"]


def _column(key: str, heading: str, metrics: Metrics, *, in_average: bool) -> Column:
    metric = _of_models(key, metrics)[0]
    return {
        "key": key,
        "heading": heading,
        "in_average": in_average,
        "chance": metric.chance,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
    }


def _unreadable(run: Answered) -> float:
    rates = status_rates(run.verdicts)
    return rates.get("failed", 0.0) + rates.get("ambiguous", 0.0)


def _average(
    columns: Sequence[Column],
    of_models: Mapping[str, Sequence[Metric]],
    place: int,
    model: str,
    notes: list[str],
) -> float | None:
    counted = {column["key"]: column for column in columns if column["in_average"]}
    base, other = (
        {key: value for key in counted if (value := of_models[key][which].value) is not None}
        for which in (0, place)
    )
    unusable = [
        column["heading"]
        for key, column in counted.items()
        if not base.get(key) or key not in other
    ]
    if unusable and place > 0:
        notes.append(
            f"{model}: {', '.join(unusable)} not in its average (no score, or nothing to divide by)"
        )
    lower = frozenset(key for key in counted if counted[key]["higher_is_better"] is False)
    return average_relative_improvement(base, other, lower)


def score_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of scores: the paper's turned, a row per score.

    Each has its chance level and one column per model.
    """
    labels = [model["label"] for model in comparison["models"]]
    rows = []
    for column in comparison["columns"]:
        key, unit = column["key"], column["unit"]
        lower = ", lower is better" if column["higher_is_better"] is False else ""
        scores = [show_number(comparison["scores"][label][key], unit) for label in labels]
        rows.append([column["heading"] + lower, show_chance(column["chance"], unit), *scores])
    averages = comparison["average"].values()
    shown = [MISSING if average is None else f"{average:+.2%}" for average in averages]
    rows.append(["average relative improvement", "", *shown])
    return ["score", "chance", *labels], rows


def difference_rows(comparison: Comparison, label: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of one model's differences from the first.

    The value, how many units got better and worse, the test, its p, and the verdict.
    """
    rows = []
    for column in comparison["columns"]:
        entry = comparison["differences"][label][column["key"]]
        if entry is None:
            continue
        p, better, worse = entry["p_holm"], entry["num_better"], entry["num_worse"]
        verdict = "not tested" if p is None else "yes" if entry["significant"] else "no"
        rows.append(
            [
                column["heading"],
                show_number(entry, column["unit"], is_difference=True),
                MISSING if better is None else f"{better:,} / {worse:,}",
                entry["test"],
                MISSING if p is None else f"{p:.3g}",
                verdict,
            ]
        )
    return ["score", "difference", "better / worse", "test", "p", "significant"], rows
