"""Which candidates stay: the recipe's rules, and the decision as a function of columns.

Scores are made elsewhere. The rules are asked in this order, and the first one that applies names
the reason: captions, bounds on scores, the thinning of rows that are exempt from bounds, caps per
group, source and category.
"""

# Shapes: N rows, all that reached selection.

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from pipeline.core.recipe import RecipeError, Section
from pipeline.core.schema import (
    BOUNDED_SCORES,
    CAPTION_MARGIN_SUM,
    CATEGORIES,
    DECIMALS,
    Category,
)
from pipeline.selection.sampling import ExemptRule, Mask, over_cap, seeded_hash, unsampled_exempt

# "source", "category", "operation" (texts), "group" (int64), "pair_id" (32 hex digits as bytes),
# every score that an encoder computed (float64, NaN: null) and `captions.caption_facts`,
# each [N].
Columns = Mapping[str, NDArray[Any]]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Band(Section):
    """An inclusive range of a score; a bound that is None does not bind.

    `min_quantile: 0.2` asks that the lowest fifth leaves, `max_quantile: 0.8` the highest: at most
    that many, because equal scores stay together. Counted are the rows that reached selection and
    that the band judges.
    """

    min: float | None = None
    max: float | None = None
    min_quantile: Fraction | None = None
    max_quantile: Fraction | None = None

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        for low, high in (("min", "max"), ("min_quantile", "max_quantile")):
            if (
                None not in (at_least := getattr(self, low), at_most := getattr(self, high))
                and at_least > at_most
            ):
                raise ValueError(
                    f"{low} {at_least} is above {high} {at_most}, so no pair could stay"
                )
        for side in ("min", "max"):
            if None not in (getattr(self, side), getattr(self, f"{side}_quantile")):
                raise ValueError(
                    f"{side} and {side}_quantile are both given, where one bound is allowed"
                )
        return self

    @property
    def binds(self) -> bool:
        """Whether any bound is set."""
        return self != Band()


class RowMatch(Section):
    """Rows with all of the named properties."""

    source: str | None = None
    category: Category | None = None
    operation: str | None = None

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.source is self.category is self.operation is None:
            raise ValueError("expected at least one of source, category, operation")
        return self


def _known(value: Any, *, names: Sequence[str], kind: str, kinds: str) -> Any:
    unknown = [name for name in value if name not in names] if isinstance(value, Mapping) else []
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no {kind}; the {kinds} are {', '.join(names)}")
    return value


_KNOWN_CATEGORIES = BeforeValidator(
    partial(_known, names=CATEGORIES, kind="category", kinds="categories")
)
_KNOWN_SCORES = BeforeValidator(partial(_known, names=BOUNDED_SCORES, kind="score", kinds="scores"))


def _cap(value: Any) -> Any:
    numbers = list(value.values()) if isinstance(value, Mapping) else [value]
    if not all(
        isinstance(number, int) and not isinstance(number, bool) and number >= 1
        for number in numbers
    ):
        raise ValueError(
            "expected a whole number from 1 on, or such a number for each of some names"
        )
    return value


Cap = Annotated[int | dict[str, int], BeforeValidator(_cap)]


class CapsSection(Section):
    """At most so many rows of one category, source or group, drawn by seeded hash.

    Finer caps are applied first.
    """

    category: Annotated[Cap | None, _KNOWN_CATEGORIES] = None
    source: Cap | None = None
    group: Count | None = None


class SelectionSection(Section):
    """The rules of selection. A bound on a score that no encoder computed is an error, not a pass.

    `by_category` replaces the band of a score for one category; `{}` there lifts it. `exempt` rows
    are judged by no band; `sample_exempt` says how many of them stay beside the judged ones (null:
    all), see `sampling.unsampled_exempt`. A caption's changed words are those that the other
    caption lacks (`text.captions`); the side with more of them counts. `caption_margin_sum` bounds
    both margins together: how near an image is to all texts cancels there, so more right pairs are
    above 0 than by the margin of one side.
    """

    clip_image_cos: Band = Band()
    dinov2_image_cos: Band = Band()
    pixels_image_cos: Band = Band()
    caption_margin_a: Band = Band()
    caption_margin_b: Band = Band()
    caption_margin_sum: Band = Band()
    by_category: Annotated[
        dict[str, Annotated[dict[str, Band], _KNOWN_SCORES]], _KNOWN_CATEGORIES
    ] = Field(default_factory=dict)
    exempt: tuple[RowMatch, ...] = ()
    sample_exempt: ExemptRule | None = None
    caps: CapsSection = CapsSection()
    seed: int = 0
    max_caption_chars: Count = 2000
    min_caption_words: Count | None = None
    max_caption_words: Count | None = None
    max_changed_words: Count | None = None
    max_frac_changed_words: Fraction | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.sample_exempt and not self.exempt:
            raise ValueError("sample_exempt is set, but exempt names no rows")
        low, high = self.min_caption_words, self.max_caption_words
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"min_caption_words {low} is above max_caption_words {high}, so no pair could stay"
            )
        return self


@dataclass(frozen=True, slots=True)
class ScoreBound:
    """One band in numbers: inclusive bounds on a score for the judged rows of categories."""

    score: str
    categories: tuple[str, ...]
    min: float | None
    max: float | None

    def broken(self, columns: Columns) -> Iterator[tuple[str, Mask]]:
        """The ways to break it, each with the rows that do, exempt ones too.

        A null score cannot be shown to keep a bound.
        """
        values, rows = score_of(columns, self.score), np.isin(columns["category"], self.categories)
        yield f"{self.score}_missing", rows & np.isnan(values)
        if self.min is not None:
            yield f"{self.score}_below_min", rows & (values < self.min)
        if self.max is not None:
            yield f"{self.score}_above_max", rows & (values > self.max)


def bands(section: SelectionSection, category: str | None = None) -> dict[str, Band]:
    """The band of every score in the order of asking: of one category, or in general."""
    return {name: getattr(section, name) for name in BOUNDED_SCORES} | section.by_category.get(
        category or "", {}
    )


def score_of(columns: Columns, name: str) -> NDArray[np.float64]:
    """A score of every row, [N]; the sum of both caption margins is made of them."""
    if name != CAPTION_MARGIN_SUM:
        return columns[name]
    both = columns["caption_margin_a"] + columns["caption_margin_b"]
    return np.round(both, DECIMALS) + 0.0


def check_bounds(
    section: SelectionSection, available: Collection[str], sources: Collection[str] | None = None
) -> None:
    """Refuses bounds on scores that no encoder makes, and rules for sources not there.

    Args:
        available: The scores that will be there.
        sources: The names of the build's sources; None: not checked.

    Raises:
        RecipeError: The first such rule.
    """
    available = {*available, *([CAPTION_MARGIN_SUM] if "caption_margin_a" in available else [])}
    for name, band in bands(section).items():
        where = [f"selection.{name}"] if band.binds else []
        where += [
            f"selection.by_category.{category}.{name}"
            for category, own in section.by_category.items()
            if name in own and own[name].binds
        ]
        if where and name not in available:
            raise RecipeError(
                f"{where[0]}: a bound is set, but no encoder computes this score; enable its"
                " encoder under encoders"
            )
    named = {match.source: "exempt" for match in section.exempt if match.source is not None}
    named |= (
        dict.fromkeys(section.caps.source, "caps.source")
        if isinstance(section.caps.source, dict)
        else {}
    )
    for source, key in named.items():
        if sources is not None and source not in sources:
            raise RecipeError(
                f"selection.{key}: no source is called {source!r}; the sources are"
                f" {', '.join(sorted(sources))}"
            )


def exempt_rows(columns: Columns, section: SelectionSection) -> Mask:
    """The rows that no band judges, [N]."""
    exempt = np.zeros(len(columns["category"]), bool)
    for match in section.exempt:
        wanted = match.model_dump(exclude_none=True)
        exempt |= np.logical_and.reduce([columns[name] == value for name, value in wanted.items()])
    return exempt


def resolved_bounds(columns: Columns, section: SelectionSection) -> list[ScoreBound]:
    """Every bound that is set, quantiles as scores, in the order in which they are asked."""
    exempt = exempt_rows(columns, section)
    bounds = []
    for score, general in bands(section).items():
        own = {
            category: by_score[score]
            for category, by_score in section.by_category.items()
            if score in by_score
        }
        others = tuple(category for category in CATEGORIES if category not in own)
        judging = [(others, general), *(((category,), band) for category, band in own.items())]
        for categories, band in judging:
            if band.binds:
                judged = np.isin(columns["category"], categories) & ~exempt
                bounds.append(
                    ScoreBound(score, categories, *_limits(score_of(columns, score)[judged], band))
                )
    return bounds


def _limits(values: NDArray[np.float64], band: Band) -> tuple[float | None, float | None]:
    """The bounds as numbers; a quantile is the lowest value that stays, or the highest."""
    ordered = np.sort(values[~np.isnan(values)])
    low, high = band.min, band.max
    if band.min_quantile is not None and ordered.size:
        low = float(ordered[_num_left_out(band.min_quantile, ordered.size)])
    if band.max_quantile is not None and ordered.size:
        high = float(ordered[-1 - _num_left_out(1 - band.max_quantile, ordered.size)])
    return low, high


def _num_left_out(frac: float, num: int) -> int:
    """The whole part of frac * num, of which one always stays.

    For 0.8 as 1 - 0.2 the product comes out a hair too small.
    """
    return min(math.floor(round(frac * num, 6)), num - 1)


def drop_reasons(columns: Columns, section: SelectionSection) -> NDArray[np.object_]:
    """Why each row leaves, or "" if it stays, [N]. The first rule that applies names the reason.

        clip_image_cos 0.91, min 0.7  ->  ""
        clip_image_cos 0.40, min 0.7  ->  "clip_image_cos_below_min"

    Args:
        columns: The rows that reached selection; quantiles and proportions are taken over them.

    Raises:
        RecipeError: A bound on a score that is not among the columns (no encoder computed it).
    """
    check_bounds(section, columns)
    reasons = np.full(len(columns["category"]), "", dtype=object)
    stays = np.ones(len(reasons), bool)
    for reason, rows in _rules(columns, section, stays):
        reasons[stays & rows] = reason
        stays &= ~rows
    return reasons


def _rules(columns: Columns, section: SelectionSection, stays: Mask) -> Iterator[tuple[str, Mask]]:
    """Each reason with the rows that it applies to.

    `stays` is what earlier rules have left at the time of asking.
    """
    yield from _caption_rules(columns, section)
    exempt = exempt_rows(columns, section)
    for bound in resolved_bounds(columns, section):
        for reason, rows in bound.broken(columns):
            yield reason, rows & ~exempt
    order = seeded_hash(columns["pair_id"], section.seed)
    if section.sample_exempt:
        yield (
            "not_sampled",
            unsampled_exempt(columns["category"], exempt, stays, order, section.sample_exempt),
        )
    for name in ("group", "source", "category"):
        cap = getattr(section.caps, name)
        if cap is not None:
            yield f"over_cap_{name}", over_cap(columns[name], stays, order, cap)


def _caption_rules(columns: Columns, section: SelectionSection) -> Iterator[tuple[str, Mask]]:
    for side in "ab":
        yield f"caption_{side}_too_long", columns[f"num_chars_{side}"] > section.max_caption_chars
    for side in "ab":
        num_words = columns[f"num_words_{side}"]
        yield f"caption_{side}_words_below_min", num_words < (section.min_caption_words or 0)
        yield f"caption_{side}_words_above_max", num_words > (section.max_caption_words or np.inf)
    if section.max_changed_words is not None:
        changed = np.maximum(columns["num_changed_words_a"], columns["num_changed_words_b"])
        yield "changed_words_above_max", changed > section.max_changed_words
    if section.max_frac_changed_words is not None:
        shares = [
            columns[f"num_changed_words_{side}"] / np.maximum(columns[f"num_words_{side}"], 1)
            for side in "ab"
        ]
        yield "frac_changed_words_above_max", np.maximum(*shares) > section.max_frac_changed_words
