"""Which scores are compared: the paper's columns, then the headlines of every other benchmark."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from eval.benchmarks.benchmark import Benchmark
from eval.compare.runs import Answered, ContrastSet
from eval.question import Metric

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

Metrics = Mapping[str, Sequence[Mapping[str, Metric]]]  # of each model, by label


UNKNOWN = Metric(units=(), chance=None)


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


def columns_of(
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
    others = [
        (label, headline)
        for label, of in aligned.items()
        if of[0].benchmark.name not in covered
        for headline in _headlines(of[0].benchmark)
        if any((of_model.get(headline) or UNKNOWN).units for of_model in metrics[label])
    ]
    return columns + [
        _column(
            f"{label}/{headline}",
            f"{label} {headline.replace('_', ' ')}",
            metrics,
            in_average=False,
        )
        for label, headline in others
    ]


def _headlines(benchmark: Benchmark | ContrastSet) -> tuple[str, ...]:
    return benchmark.headlines if isinstance(benchmark, ContrastSet) else (benchmark.headline,)


def metrics_of(key: str, metrics: Metrics) -> list[Metric]:
    """One score of every model; of one that made no answers, say, it is not known."""
    label, _, name = key.partition("/")
    return [of_model.get(name, UNKNOWN) for of_model in metrics[label]]


def _column(key: str, heading: str, metrics: Metrics, *, in_average: bool) -> Column:
    of_models = metrics_of(key, metrics)
    metric = next((metric for metric in of_models if metric.units), of_models[0])
    return {
        "key": key,
        "heading": heading,
        "in_average": in_average,
        "chance": metric.chance,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
    }
