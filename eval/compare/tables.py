"""A comparison as tables: its scores, and one model minus another."""

from eval.compare.comparison import Comparison, Pairing
from pipeline.pages.numbers import MISSING, show_chance, show_number


def title_of(pairing: Pairing) -> str:
    """What is subtracted from what."""
    return f"{pairing['minuend']} minus {pairing['subtrahend']}"


def family_of(comparison: Comparison) -> str:
    """Over what p is adjusted, in words."""
    pairings, scores = len(comparison["pairings"]), len(comparison["columns"])
    compared = f"{pairings} comparison{'s' if pairings != 1 else ''} of two models"
    return (
        f"p by Holm over all {comparison['num_tested']} tests made here ({compared}, {scores}"
        f" score{'s' if scores != 1 else ''})"
    )


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
    if any(average is not None for average in averages):
        shown = [MISSING if average is None else f"{100 * average:+.2f} %" for average in averages]
        rows.append([f"average improvement over {labels[0]}", "", *shown])
    return ["score", "chance", *labels], rows


def difference_rows(comparison: Comparison, pairing: Pairing) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of one model's differences from another.

    The value, how many units got better and worse, the test, its p, and the verdict.
    """
    rows = []
    for column in comparison["columns"]:
        entry = pairing["differences"][column["key"]]
        if entry is None:
            continue
        p, better, worse = entry["p_holm"], entry["num_better"], entry["num_worse"]
        untested = f"not tested: {entry['num_clusters']} clusters"
        verdict = untested if p is None else "yes" if entry["significant"] else "no"
        rows.append(
            [
                column["heading"],
                show_number(entry, column["unit"], is_difference=True),
                MISSING if better is None else f"{better:,} / {worse:,}",
                entry["test"].replace("_", " "),
                MISSING if p is None else f"{p:.3g}",
                verdict,
            ]
        )
    return ["score", "difference", "better / worse", "test", "p", "significant"], rows
