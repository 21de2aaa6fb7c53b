"""What a person reads about the pairs: tables and the page's sections.

Takes scores and arrays; computes nothing that it shows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from eval.config import EvalSection
from eval.inputs import Role
from eval.pairs.arrays import ModelScores
from eval.pairs.measures import MEASURES
from eval.pairs.paired_scores import margins, preferences
from eval.pairs.results import PairResults
from eval.pairs.score_table import verdict_of_pairs
from pipeline.core.intervals import caution
from pipeline.core.schema import image_bytes
from pipeline.pages.numbers import show_chance, show_number, show_share
from pipeline.pages.page import (
    PageSection,
    cards,
    figure_svg,
    html_table,
    joined,
    pair_card,
    paragraph,
    subsection,
)
from training.models.unusable import words

HEADLINE = (
    "text_score",
    "image_score",
    "group_score",
    "side_accuracy",
    "accuracy_neutral",
    "accuracy_misled",
    "accuracy_against_prior",
    "accuracy_with_prior",
    "flip_rate",
    "matching_contradictory_nats_per_token",
    "auroc",
    "hallucinated_answers",
    "hallucinated_claims",
    "no_checkable_claim",
    "generated_own",
    "generated_other",
    "generated_neither",
    "answer_words",
)
PAGE_ONLY = {
    "accuracy_with_prior",
    "matching_contradictory_nats_per_token",
    "auroc",
    "hallucinated_claims",
    "generated_neither",
    "answer_words",
}
TERMINAL = tuple(name for name in HEADLINE if name not in PAGE_ONLY)
TEXTS = ["question", "answer_a", "answer_b", "category"]
# fewer words, fewer claims
IN_SLICES = (
    "text_score",
    "side_accuracy",
    "accuracy_misled",
    "hallucinated_answers",
    "answer_words",
)
KINDS = {
    "fixed": "Fixed: wrong before, right after",
    "wrong": "Wrong",
    "broken": "Broken: right before, wrong after",
    "right": "Right",
}


def role_names(roles: Sequence[Role]) -> dict[Role, str]:
    """The column of each model: before and after, or "model" where there is only one."""
    return {role: role if len(roles) > 1 else "model" for role in roles}


def table(
    entries: Mapping[str, Mapping[str, Any]], keys: Sequence[str], names: Mapping[Role, str]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the measures `keys` that were measured.

    n is what the ratio was taken over; "8 / 6 answers" where the models, in the order of `names`,
    have another each.
    """
    columns = ["", "chance", *names.values(), *(["difference"] if "before" in names else []), "n"]
    rows = []
    for key in keys:
        if key not in entries:
            continue
        entry, measure = entries[key], MEASURES[key]
        shown = [show_number(entry[role], measure.unit) for role in names]
        if "before" in names:
            shown.append(show_number(entry["difference"], measure.unit, is_difference=True))
        counts = [f"{entry[role]['n']:,}" if entry[role] is not None else "0" for role in names]
        counted = " / ".join(counts if len(set(counts)) > 1 else counts[:1])
        chance = show_chance(entry["chance"], measure.unit)
        rows.append([measure.label, chance, *shown, f"{counted} {measure.counted}"])
    return columns, rows


def headline(overall: Mapping[str, Mapping[str, Any]], names: Mapping[Role, str]) -> str:
    """The result in one sentence: the text score, and by how much it changed."""
    entry = overall["text_score"]
    words = " -> ".join(show_number(entry[role], "share") for role in names)
    points = show_number(entry["difference"], "share", is_difference=True)
    change = f", difference {points} points" if "before" in names else ""
    return (
        f"Prefers the right answer under both images: {words} of {entry['after']['n']:,}"
        f" pairs{change} (chance 25 %)."
    )


def left_out_of(results: PairResults) -> str:
    """How many pairs are left out, in brackets; empty if none are."""
    return f" ({words(results.left_out)} left out)" if results.left_out else ""


def pair_sections(results: PairResults, section: EvalSection) -> list[PageSection]:
    """What the page says about the pairs of an MVC folder."""
    from eval.report.plots import category_bars, margin_histograms

    items, model_scores, scores = results.items, results.model_scores, results.scores
    names = role_names(list(model_scores))
    num_groups = len(set(items["group"].to_pylist()))
    groups = "1 group" if num_groups == 1 else f"{num_groups:,} groups"
    warning = caution(num_groups)
    note = (
        f"Brackets: {show_share(section.intervals.confidence, 0)} intervals over {groups}, of"
        " which each is left out once; none below 6 groups. Differences of shares are in"
        " percentage points, their intervals paired; they are not adjusted for how many there"
        " are, and nothing is called significant here."
        + (f" Of all pairs: {warning}." if warning else "")
        + (f" Not among the pairs: {words(results.left_out)}." if results.left_out else "")
    )
    explained = (
        "What the image adds to the log-probability of a text, one value per text; the line is 0,"
        " right of it is right."
    )
    by_source = PageSection("By source", _slices(scores["source"], names))
    return [
        PageSection(
            "Before and after" if "before" in model_scores else "Scores",
            html_table(*table(scores["overall"], HEADLINE, names)) + paragraph(note),
        ),
        PageSection(
            "By category",
            figure_svg(category_bars(scores["category"], names))
            + _slices(scores["category"], names),
        ),
        *([by_source] if len(scores["source"]) > 1 else []),
        PageSection(
            "Margins", figure_svg(margin_histograms(model_scores, names)) + paragraph(explained)
        ),
        *_gallery(items, model_scores, names, section.page.max_cards),
        PageSection("All numbers", _all_numbers(scores["overall"], names)),
        PageSection("How to read this", _reading(model_scores["after"].tie_nats)),
    ]


def _slices(slices: Mapping[str, Any], names: Mapping[Role, str]) -> Markup:
    """One table per measure, one row per category or source."""
    columns = table({}, (), names)[0]
    rows = {
        key: [
            [name, *row[1:]]
            for name, entries in slices.items()
            for row in table(entries, [key], names)[1]
        ]
        for key in IN_SLICES
    }
    return joined(
        subsection(MEASURES[key].label, html_table(columns, measured))
        for key, measured in rows.items()
        if measured
    )


def _all_numbers(overall: Mapping[str, Any], names: Mapping[Role, str]) -> Markup:
    keys = defaultdict(list)
    for key, measure in MEASURES.items():
        keys[measure.heading].append(key)
    tables = {heading: table(overall, of_heading, names) for heading, of_heading in keys.items()}
    return joined(
        subsection(heading, html_table(columns, rows))
        for heading, (columns, rows) in tables.items()
        if rows
    )


def _reading(tie_nats: float) -> Markup:
    measures = joined(
        Markup("<li><b>{}</b>: {}</li>").format(measure.label, measure.note)
        for measure in MEASURES.values()
    )
    chance = (
        "Chance levels are those of independent random scores (text 1/4, image 1/4, group 1/6). A"
        " model that ignores the image scores 0 on everything that needs both sides of a pair,"
        f" because ties count as wrong; what differs by no more than {tie_nats:g} nats is a tie,"
        " since rounding alone makes such differences. Log-probabilities are sums over the"
        " response's tokens in nats, with the prompt exactly as in use; no image means a text-only"
        " prompt. Claims are read from generated answers with the words of the data's own truth:"
        " what the truth has no word for is not checked. A bare yes or no is no claim: such"
        " answers are counted under no checkable claim. A sentence that says that it is not sure"
        " makes no claim either."
    )
    return paragraph(chance) + Markup("<ul>{}</ul>").format(measures)


def _gallery(
    items: pa.Table,
    model_scores: Mapping[Role, ModelScores],
    names: Mapping[Role, str],
    max_cards: int,
) -> list[PageSection]:
    """Cards of each kind in the order of pair_id, a hash: neither best nor worst are picked."""
    verdicts = verdict_of_pairs(model_scores)
    order = sorted(range(items.num_rows), key=lambda row: str(items["pair_id"][row]))
    sections = []
    for kind, heading in KINDS.items():
        rows = [row for row in order if verdicts[row] == kind]
        if not rows or not max_cards:
            continue
        shown = rows[:max_cards]
        pairs = items.take(shown)
        images = zip(image_bytes(pairs, "image_a"), image_bytes(pairs, "image_b"), strict=True)
        shown_cards = [
            _card(row, pair, both, model_scores, names)
            for row, pair, both in zip(shown, pairs.select(TEXTS).to_pylist(), images, strict=True)
        ]
        counted = (
            f"{len(rows):,} of {items.num_rows:,} pairs; shown: the first {len(shown)} by pair id"
        )
        sections.append(PageSection(heading, paragraph(counted) + cards(shown_cards)))
    return sections


def _card(
    row: int,
    pair: Mapping[str, Any],
    images: tuple[bytes, bytes],
    model_scores: Mapping[Role, ModelScores],
    names: Mapping[Role, str],
) -> Markup:
    """Both images with their answers; under each, what each model prefers and generates."""
    lines: tuple[list[str], list[str]] = (
        [f"truth: {pair['answer_a']}"],
        [f"truth: {pair['answer_b']}"],
    )
    for role, scores in model_scores.items():
        logps_32 = scores.logps_P32[row]
        preferred = preferences(scores.logps_P32[row : row + 1], scores.tie_nats)[0]
        for side, own in enumerate((1, -1)):
            margin = abs(float(logps_32[side, 0] - logps_32[side, 1]))
            word = "right" if preferred[side] == own else "tie" if preferred[side] == 0 else "WRONG"
            said = (
                f'; says "{scores.answers.texts[row][side]}"' if scores.answers is not None else ""
            )
            lines[side].append(f"{names[role]}: {word} by {margin:.2f} nats{said}")
    looks = [
        f"{names[role]}: contrast margin {a:+.2f} / {b:+.2f} nats"
        for role, scores in model_scores.items()
        for a, b in [margins(scores.logps_P32[row : row + 1]).matching_contradictory_P2[0]]
    ]
    return pair_card(*images, *lines, [f"{pair['category']}: {pair['question']}", *looks])
