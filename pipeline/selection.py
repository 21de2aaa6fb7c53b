"""Which candidates stay: pure functions of score columns. Scores are made elsewhere; here is only the decision."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.recipe import RecipeError, Section
from pipeline.rewrite.contrast import words

Scores = Mapping[str, NDArray[np.float64]]


class Band(Section):
    """An inclusive range of a score; a bound that is None does not bind."""

    min: float | None = None
    max: float | None = None


class SelectionSection(Section):
    """Bounds on the stored scores. A bound on a score that no encoder computed is an error, not a pass."""

    clip_image_cos: Band = Band()
    dinov2_image_cos: Band = Band()
    pixels_image_cos: Band = Band()
    caption_margin_a: Band = Band()
    caption_margin_b: Band = Band()
    max_caption_chars: int = 2000


def bands(section: SelectionSection) -> dict[str, Band]:
    """The score bounds by column, in the order in which they are asked."""
    return {name: value for name in SelectionSection.model_fields if isinstance(value := getattr(section, name), Band)}


def score_drop_reasons(scores: Scores, section: SelectionSection) -> list[str]:
    """Why each row leaves by its scores, or "" if it stays. The first bound that is broken names the reason.

        clip_image_cos 0.91, min 0.7  ->  ""
        clip_image_cos 0.40, min 0.7  ->  "clip_image_cos_below_min"

    Args:
        scores: Column name to values rounded to 4 decimals, all of one length.

    Raises:
        RecipeError: A bound is set on a column that is absent (no encoder computed it).
    """
    num_rows = len(next(iter(scores.values()))) if scores else 0
    reasons = [""] * num_rows
    for name, band in bands(section).items():
        if band.min is None and band.max is None:
            continue
        if name not in scores:
            raise RecipeError(f"selection.{name}: a bound is set, but no encoder computed this score; enable it under encoders")
        values = scores[name]
        below = values < band.min if band.min is not None else np.zeros(num_rows, bool)
        above = values > band.max if band.max is not None else np.zeros(num_rows, bool)
        for row in np.flatnonzero(below | above):
            reasons[row] = reasons[row] or f"{name}_{'below_min' if below[row] else 'above_max'}"
    return reasons


def text_drop_reason(caption_a: str, caption_b: str) -> str:
    """Why a pair leaves by its captions alone, or "". Captions that differ in case or punctuation only are equal."""
    for side, caption in (("a", caption_a), ("b", caption_b)):
        if not caption.strip():
            return f"caption_{side}_empty"
        if any(ord(char) < 32 and char not in "\t\n\r" for char in caption):
            return f"caption_{side}_control_character"
    if words(caption_a) == words(caption_b):
        return "captions_equal"
    return ""


def duplicate_rows(pair_ids: Sequence[str], order: Sequence[tuple[str, str]]) -> NDArray[np.bool_]:
    """Which rows repeat a pair; of equal pair_ids the one with the smallest (source, source_id) stays.

    Args:
        order: (source, source_id) of each row.
    """
    first: dict[str, int] = {}
    for row, pair in enumerate(pair_ids):
        if pair not in first or order[row] < order[first[pair]]:
            first[pair] = row
    return np.array([first[pair] != row for row, pair in enumerate(pair_ids)], dtype=bool)


def validation_groups(groups: Sequence[str], fraction: float, seed: int) -> set[str]:
    """The groups that form the validation split: whole groups in hashed order, as many as fit into `fraction` of the rows.

    A group is taken if that brings the split nearer to its size; of groups that are all too large the smallest is
    taken, and one group always stays in train (so a single group leaves validation empty). The order depends on the
    groups' names and the seed alone.

    Args:
        groups: The group of each kept row.
        fraction: Share of rows wanted in validation, in [0, 1).
    """
    sizes = Counter(groups)
    if fraction <= 0 or len(sizes) < 2:
        return set()
    ordered = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).hexdigest())
    wanted = fraction * len(groups)
    chosen: set[str] = set()
    taken = 0
    for group in ordered:
        if len(chosen) < len(ordered) - 1 and taken + sizes[group] / 2 <= wanted:
            chosen.add(group)
            taken += sizes[group]
    return chosen or {min(ordered, key=lambda group: sizes[group])}


def linked_groups(groups: Sequence[str], images: Sequence[tuple[str, str]]) -> list[str]:
    """Each row's group after groups that share an image have become one, named by the smallest of them.

    A photograph that appears in two groups would otherwise stand in train and in validation.

        groups x, y, z with images (1, 2), (2, 3), (4, 5)  ->  x, x, z

    Args:
        images: The content ids of the two images of each row.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for group, pair in zip(groups, images, strict=True):
        for image in pair:
            one, other = sorted((root(group), root(owner.setdefault(image, group))))
            parent[other] = one
    return [root(group) for group in groups]
