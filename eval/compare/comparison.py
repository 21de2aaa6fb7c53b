"""Several models over the same questions: the table of scores, what differs by more than luck, and
what was not comparable.

The first model is the one that the others are compared with. Values in, plain values out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.compare.runs import (
    Answered,
    ComparisonError,
    Run,
    restricted,
    said_differently,
    shared_items,
)
from eval.parsing.parse import status_rates
from eval.question import Metric
from eval.stats.dependency import Draws, Number, drop, relative_change, scored
from eval.stats.significance import Difference, average_relative_improvement, difference, holm

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


@dataclass(frozen=True, slots=True)
class Column:
    """One score that every model has: `key` is label/metric; `in_average` if the paper's average
    counts it.
    """

    key: str
    label: str
    metric: str
    heading: str
    in_average: bool


def compare_runs(
    runs: Sequence[Run], *, num_draws: int, confidence: float, seed: int
) -> dict[str, Any]:
    """The whole comparison.

        {"models": [{"label", "model"}], "columns": [{"key", "heading", "in_average", "chance",
        "unit", "higher_is_better"}],
         "scores": {model: {key: number | null}}, "unreadable": {model: {label: share}}, "average":
         {model: share | null}, "differences": {model: {key: {"value", "low", "high", "p", "p_holm",
         "test", "num_better", "num_worse", "significant"}}}, "dependency": {key: number | null},
         "improvement": {model: {key: number | null}}, "notes": [text]}

    dependency: the share of the first model's score that it loses without images; improvement: by
    what share another model scores better. Both positive where the image is needed and the model is
    better; the paper's figure 6 shows one against the other.

    Raises:
        ComparisonError: Fewer than two models, or no benchmark that all of them answered.
    """
    if len(runs) < 2:
        raise ComparisonError(
            "expected at least two models to compare, got one; give another folder, or one"
            " evaluated with its base"
        )
    notes: list[str] = []
    aligned = {
        label: found
        for label in _labels(runs, notes)
        if (found := _aligned(label, runs, notes)) is not None
    }
    if not aligned:
        raise ComparisonError(
            "no benchmark was answered by all of these models; evaluate them on the same benchmarks"
        )
    metrics = {
        label: [one.benchmark.metrics(one.questions, one.verdicts) for one in found]
        for label, found in aligned.items()
    }
    columns = _columns(aligned, notes)
    numbers: dict[str, dict[str, Any]] = {}
    found_differences: dict[str, dict[str, Difference | None]] = {}
    dependency: dict[str, Number | None] = {}
    improvement: dict[str, dict[str, Number | None]] = {}
    for label, found in aligned.items():
        # The draws of one benchmark at a time: thousands of draws over thousands of images are
        # hundreds of megabytes.
        draws = Draws.of(
            [question.cluster for question in found[0].questions], num_draws, confidence, seed
        )
        for column in (column for column in columns if column.label == label):
            of_models = [of_model[column.metric] for of_model in metrics[label]]
            dependency[column.key] = _dependency(
                column, found[0], runs[0].unseeing.get(label), draws
            )
            for run, metric in zip(runs, of_models, strict=True):
                numbers.setdefault(run.label, {})[column.key] = scored(metric, draws)
                if run is not runs[0]:
                    found_differences.setdefault(run.label, {})[column.key] = difference(
                        metric, of_models[0], draws
                    )
                    sign = -1.0 if metric.higher_is_better is False else 1.0
                    improvement.setdefault(run.label, {})[column.key] = relative_change(
                        of_models[0], metric, draws, sign=sign
                    )
    return {
        "models": [{"label": run.label, "model": run.model} for run in runs],
        "columns": [
            _column_facts(column, metrics[column.label][0][column.metric]) for column in columns
        ],
        "scores": numbers,
        "unreadable": {
            run.label: {label: _unreadable(found[place]) for label, found in aligned.items()}
            for place, run in enumerate(runs)
        },
        "average": {
            run.label: _average(columns, metrics, place, run.label, notes)
            for place, run in enumerate(runs)
        },
        "differences": {
            label: _tested(found, 1.0 - confidence) for label, found in found_differences.items()
        },
        "dependency": dependency,
        "improvement": improvement,
        "notes": notes,
    }


def _labels(runs: Sequence[Run], notes: list[str]) -> list[str]:
    everywhere = [label for label in runs[0].answered if all(label in run.answered for run in runs)]
    for label in dict.fromkeys(label for run in runs for label in run.answered):
        if label not in everywhere:
            lacking = ", ".join(run.label for run in runs if label not in run.answered)
            notes.append(f"{label}: not answered by {lacking}; left out")
    return everywhere


def _aligned(label: str, runs: Sequence[Run], notes: list[str]) -> list[Answered] | None:
    """Each run's answers over the questions that all have; says what was left out and what is not
    comparable.
    """
    found = [run.answered[label] for run in runs]
    items = shared_items(found)
    sizes = [len(one.questions) for one in found]
    if any(size != len(items) for size in sizes):
        counts = ", ".join(f"{run.label} {size:,}" for run, size in zip(runs, sizes, strict=True))
        notes.append(
            f"{label}: the models answered different questions ({counts}); compared over the"
            f" {len(items):,} that all answered"
        )
    if not items:
        notes.append(f"{label}: no question in common; left out")
        return None
    for name, count in said_differently(found, items).items():
        if count:
            what = {
                "prompt": "asked in other words",
                "truth": "graded by other truths",
                "image": "shown other images",
            }[name]
            notes.append(
                f"{label}: {count:,} of {len(items):,} questions were {what}; the scores are not"
                " strictly comparable"
            )
    for name in dict.fromkeys(name for one in found for name in one.settings):
        values = [one.settings.get(name) for one in found]
        if any(value != values[0] for value in values):
            shown = ", ".join(
                f"{run.label} {value!r}" for run, value in zip(runs, values, strict=True)
            )
            notes.append(f"{label}: scored under different settings, {name}: {shown}")
    judged = [
        {
            q.item_id
            for q, v in zip(one.questions, one.verdicts, strict=True)
            if v.status != "missing"
        }
        for one in found
    ]
    unjudged = {item for item in items if any(item not in one for one in judged)}
    if unjudged:
        notes.append(
            f"{label}: {len(unjudged):,} of {len(items):,} answers have no judgement in at least"
            " one model; left out of all"
        )
    return [restricted(one, items, unjudged) for one in found]


def _columns(aligned: dict[str, list[Answered]], notes: list[str]) -> list[Column]:
    """The paper's columns first, in its order, then the headline of every other benchmark."""
    columns: list[Column] = []
    absent = list(NOT_OURS)
    for name, metric, heading in PAPER_COLUMNS:
        labels = [label for label, found in aligned.items() if found[0].benchmark.name == name]
        if not labels:
            absent.append(heading)
            continue
        # Of a benchmark run in several ways the one under its own name counts, or the first.
        chosen = name if name in labels else labels[0]
        columns += [
            Column(
                f"{label}/{metric}",
                label,
                metric,
                heading if label == name else f"{label} {metric}",
                label == chosen,
            )
            for label in labels
        ]
    if columns:
        num_held = sum(column.in_average for column in columns)
        notes.append(
            f"the paper's average has nine columns; of these there are {num_held}, without"
            f" {', '.join(absent)}"
        )
    covered = {column.label for column in columns}
    for label, found in aligned.items():
        if label not in covered:
            headline = found[0].benchmark.headline
            columns.append(
                Column(
                    f"{label}/{headline}",
                    label,
                    headline,
                    f"{label} {headline.replace('_', ' ')}",
                    False,
                )
            )
    return columns


def _dependency(
    column: Column, seeing: Answered, unseeing: Answered | None, draws: Draws
) -> Number | None:
    """The share of a score that is lost without images, over the questions that were asked both
    ways; None if none were.
    """
    if unseeing is None:
        return None
    items = shared_items([seeing, unseeing])
    if not items:
        return None
    both = [restricted(one, items, set()) for one in (seeing, unseeing)]
    with_image, without = (
        one.benchmark.metrics(one.questions, one.verdicts)[column.metric] for one in both
    )
    return drop(with_image, without, draws)["relative"]


def _column_facts(column: Column, metric: Metric) -> dict[str, Any]:
    return {
        "key": column.key,
        "heading": column.heading,
        "in_average": column.in_average,
        "chance": metric.chance,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
    }


def _unreadable(run: Answered) -> float:
    rates = status_rates(run.verdicts)
    return rates.get("failed", 0.0) + rates.get("ambiguous", 0.0)


def _average(
    columns: Sequence[Column],
    metrics: dict[str, list[dict[str, Metric]]],
    place: int,
    model: str,
    notes: list[str],
) -> float | None:
    counted = [column for column in columns if column.in_average]
    values = [
        {
            c.key: value
            for c in counted
            if (value := metrics[c.label][which][c.metric].value) is not None
        }
        for which in (0, place)
    ]
    unusable = [c.heading for c in counted if not values[0].get(c.key) or c.key not in values[1]]
    if unusable and place > 0:
        notes.append(
            f"{model}: {', '.join(unusable)} not in its average (no score, or nothing to divide by)"
        )
    lower = frozenset(
        c.key for c in counted if metrics[c.label][0][c.metric].higher_is_better is False
    )
    return average_relative_improvement(values[0], values[1], lower)


def _tested(found: Mapping[str, Difference | None], level: float) -> dict[str, Any]:
    """The differences of one model as plain values, with p values adjusted over them."""
    adjusted = holm(
        {key: one.p for key, one in found.items() if one is not None and one.p is not None}
    )
    return {
        key: (
            one
            and {
                **one.number,
                "p": one.p,
                "p_holm": adjusted.get(key),
                "test": one.test,
                "num_better": one.num_better,
                "num_worse": one.num_worse,
                "significant": key in adjusted and adjusted[key] <= level,
            }
        )
        for key, one in found.items()
    }


def show(
    number: Any, unit: str, *, with_interval: bool = False, is_difference: bool = False
) -> str:
    """A score or a difference: share 0.253 -> "25.3%", points 2.75 -> "2.75", a difference of
    shares +0.04 -> "+4.0 [+1.2, +6.9]".
    """
    if number is None:
        return "-"
    scale, digits = (100.0, 1) if unit == "share" else (1.0, 2)
    sign = "+" if is_difference else ""
    text = f"{number['value'] * scale:{sign}.{digits}f}" + (
        "%" if unit == "share" and not is_difference else ""
    )
    if not with_interval or number["low"] is None:
        return text
    return (
        f"{text} [{number['low'] * scale:{sign}.{digits}f},"
        f" {number['high'] * scale:{sign}.{digits}f}]"
    )


def score_rows(comparison: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of scores: one row per score with its chance level and one
    column per model (the paper's turned).
    """
    labels = [model["label"] for model in comparison["models"]]
    rows = []
    for column in comparison["columns"]:
        scores = [
            show(comparison["scores"][label][column["key"]], column["unit"], with_interval=True)
            for label in labels
        ]
        lower = ", lower is better" if column["higher_is_better"] is False else ""
        rows.append(
            [
                column["heading"] + lower,
                "-" if column["chance"] is None else f"{column['chance']:.1%}",
                *scores,
            ]
        )
    averages = [comparison["average"][label] for label in labels]
    rows.append(
        [
            "average relative improvement",
            "",
            *("-" if average is None else f"{average:+.2%}" for average in averages),
        ]
    )
    return ["score", "chance", *labels], rows


def difference_rows(comparison: dict[str, Any], label: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of one model's differences from the first: value, units that got better and
    worse, test, p, verdict.
    """
    rows = []
    for column in comparison["columns"]:
        one = comparison["differences"][label][column["key"]]
        if one is None:
            continue
        adjusted = one["p_holm"]
        verdict = "not tested" if adjusted is None else ("yes" if one["significant"] else "no")
        discordant = (
            "-" if one["num_better"] is None else f"{one['num_better']:,} / {one['num_worse']:,}"
        )
        shown = show(one, column["unit"], with_interval=True, is_difference=True)
        rows.append(
            [
                column["heading"],
                shown,
                discordant,
                one["test"],
                "-" if adjusted is None else f"{adjusted:.3g}",
                verdict,
            ]
        )
    return ["score", "difference", "better / worse", "test", "p", "significant"], rows
