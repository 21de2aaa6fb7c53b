from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import BuildSection
from pipeline.core.recipe import RecipeError, load_recipe
from pipeline.core.schema import CATEGORIES, SCORE_COLUMNS
from pipeline.selection.rules import (
    ScoreBound,
    SelectionSection,
    bands,
    check_bounds,
    drop_reasons,
    resolved_bounds,
)
from pipeline.text.captions import caption_facts

PAPER = Path(__file__).resolve().parents[3] / "recipes" / "mvc_paper.yaml"


def columns(num: int = 1, **given: Any) -> dict[str, np.ndarray]:
    """Rows that no default rule drops, with the given columns in place of theirs; scalars stand for
    every row.
    """
    plain = {"source": "s", "category": "object", "operation": "generate"} | caption_facts(
        "a red star", "a blue star"
    )
    plain |= {
        "group": np.arange(num),
        "pair_id": np.array([f"{number:032x}" for number in range(num)], "S32"),
    }
    found = {}
    for name, value in (plain | given).items():
        if name in ("source", "category", "operation"):
            found[name] = np.array([value] * num if isinstance(value, str) else value, dtype=object)
        else:
            found[name] = np.broadcast_to(value, num)
    return found


def reasons(given: dict[str, np.ndarray], **rules: Any) -> list[str]:
    return drop_reasons(given, SelectionSection.model_validate(rules)).tolist()


@pytest.mark.parametrize(
    ("clip", "dinov2", "reason"),
    [
        (0.91, 0.30, ""),
        (0.70, 0.50, ""),
        (0.6999, 0.30, "clip_image_cos_below_min"),
        (0.91, 0.5001, "dinov2_image_cos_above_max"),
        (0.10, 0.90, "clip_image_cos_below_min"),
        (np.nan, 0.30, "clip_image_cos_missing"),
    ],
)
def test_bounds_are_inclusive_and_the_first_broken_one_is_the_reason(
    clip: float, dinov2: float, reason: str
) -> None:
    rows = columns(clip_image_cos=clip, dinov2_image_cos=dinov2)
    assert reasons(rows, clip_image_cos={"min": 0.7}, dinov2_image_cos={"max": 0.5}) == [reason]


def test_the_papers_recipe_is_strict_on_four_decimals_and_spares_flips() -> None:
    rules = yaml.safe_load(PAPER.read_text())["selection"]
    clip, dinov2 = [0.7, 0.7001, 0.7001, 0.1], [0.4999, 0.5, 0.4999, 0.9]
    rows = columns(
        4, clip_image_cos=clip, dinov2_image_cos=dinov2, operation=["generate"] * 3 + ["flip"]
    )
    assert reasons(rows, **rules | {"sample_exempt": None}) == [
        "clip_image_cos_below_min",
        "dinov2_image_cos_above_max",
        "",
        "",
    ]


def test_the_papers_recipe_asks_only_for_what_its_encoders_and_sources_give() -> None:
    recipe = load_recipe(
        PAPER, ["sources.0.path=flickr", "sources.1.path=gqa", "out=mvc"], BuildSection
    )
    check_bounds(
        recipe.selection,
        {"clip_image_cos", "dinov2_image_cos"},
        [source.name for source in recipe.sources],
    )
    assert recipe.validation.num_pairs == 240


def test_a_bound_that_is_not_set_asks_for_no_score() -> None:
    assert reasons(columns(2)) == ["", ""]
    assert reasons(columns(2, clip_image_cos=np.nan)) == ["", ""]


def test_a_band_of_one_category_replaces_the_general_one() -> None:
    rows = columns(
        4,
        category=["count", "count", "object", "position"],
        dinov2_image_cos=[0.55, 0.1, 0.55, 0.9],
    )
    own = {
        "count": {"dinov2_image_cos": {"min": 0.2, "max": 0.6}},
        "position": {"dinov2_image_cos": {}},
    }
    expected = ["", "dinov2_image_cos_below_min", "dinov2_image_cos_above_max", ""]
    assert reasons(rows, dinov2_image_cos={"max": 0.5}, by_category=own) == expected


def test_quantiles_leave_out_the_asked_part_of_the_rows_that_they_judge() -> None:
    # Ten objects at 0.0 .. 0.9, a flip and a count that must not move the quantile.
    rows = columns(
        12,
        category=["object"] * 11 + ["count"],
        operation=["generate"] * 10 + ["flip", "generate"],
        clip_image_cos=[*np.arange(10) / 10, -1.0, -1.0],
    )
    rules: dict[str, Any] = {
        "exempt": [{"operation": "flip"}],
        "by_category": {"count": {"clip_image_cos": {}}},
    }
    found = reasons(rows, clip_image_cos={"min_quantile": 0.2, "max_quantile": 0.9}, **rules)
    assert (
        found
        == ["clip_image_cos_below_min"] * 2 + [""] * 7 + ["clip_image_cos_above_max"] + [""] * 2
    )
    section = SelectionSection.model_validate(
        {"clip_image_cos": {"min_quantile": 0.2, "max": 0.95}, **rules}
    )
    others = tuple(category for category in CATEGORIES if category != "count")
    assert resolved_bounds(rows, section) == [ScoreBound("clip_image_cos", others, 0.2, 0.95)]


@pytest.mark.slow
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 10))
def test_a_quantile_never_drops_more_than_its_part_and_equal_scores_stay_together(
    values: list[int], tenths: int
) -> None:
    rows = columns(len(values), clip_image_cos=np.array(values, float))
    low = np.array(reasons(rows, clip_image_cos={"min_quantile": tenths / 10})) != ""
    high = np.array(reasons(rows, clip_image_cos={"max_quantile": 1 - tenths / 10})) != ""
    for dropped, kept_side in ((low, min), (high, max)):
        assert 10 * dropped.sum() <= tenths * len(values)
        kept = {value for value, is_dropped in zip(values, dropped, strict=True) if not is_dropped}
        assert kept
        assert all(value not in kept for value in np.array(values)[dropped])
        # One more value would be too many, unless it is the last.
        more = dropped | (np.array(values) == kept_side(kept))
        assert 10 * more.sum() > tenths * len(values) or more.all()


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=30),
    st.floats(-1, 1),
    st.floats(-1, 1),
)
def test_the_decision_is_that_of_a_row_by_row_reading(
    scores: list[tuple[float, float]], at_least: float, at_most: float
) -> None:
    clip, dinov2 = np.array(scores).T
    found = reasons(
        columns(len(scores), clip_image_cos=clip, dinov2_image_cos=dinov2),
        clip_image_cos={"min": at_least},
        dinov2_image_cos={"max": at_most},
    )
    for reason, (one, other) in zip(found, scores, strict=True):
        assert reason == (
            "clip_image_cos_below_min"
            if one < at_least
            else "dinov2_image_cos_above_max"
            if other > at_most
            else ""
        )


def test_rows_are_exempt_from_bounds_by_all_properties_that_are_named() -> None:
    rows = columns(
        4,
        operation=["flip", "flip", "generate", "generate"],
        source=["x", "y", "x", "z"],
        category="position",
        pixels_image_cos=-1.0,
    )
    rules = {
        "pixels_image_cos": {"min": 0.0},
        "exempt": [{"operation": "flip", "source": "x"}, {"source": "z", "category": "position"}],
    }
    assert reasons(rows, **rules) == [
        "",
        "pixels_image_cos_below_min",
        "pixels_image_cos_below_min",
        "",
    ]


def test_exempt_rows_are_thinned_to_the_rate_of_the_judged_ones() -> None:
    # 4 of 16 judged pairs stay, so 8 of 32 flips do; captions and caps come before and after.
    rows = columns(
        48,
        category="position",
        operation=["flip"] * 32 + ["generate"] * 16,
        clip_image_cos=[-1.0] * 32 + [0.9] * 4 + [0.1] * 12,
    )
    rules = {
        "clip_image_cos": {"min": 0.5},
        "exempt": [{"operation": "flip"}],
        "sample_exempt": "own_category",
    }
    found = reasons(rows, **rules)
    assert [found[:32].count(reason) for reason in ("", "not_sampled")] == [8, 24]
    assert found[32:] == [""] * 4 + ["clip_image_cos_below_min"] * 12
    assert reasons(rows, **rules, seed=1) != found
    capped = reasons(rows, **rules, caps={"category": 5})
    assert [capped.count(reason) for reason in ("", "over_cap_category", "not_sampled")] == [
        5,
        7,
        24,
    ]


def test_finer_caps_come_first_so_that_coarser_ones_are_filled() -> None:
    rows = columns(
        12,
        group=[1] * 6 + [2, 3, 4, 5, 6, 7],
        source=["x"] * 9 + ["y"] * 3,
        category=["object"] * 11 + ["count"],
    )
    found = reasons(rows, caps={"group": 1, "source": {"x": 3}, "category": 4})
    # One of group 1 stays beside three others of x: one of these four leaves; then three of x, two
    # objects of y: one leaves.
    assert [found.count(f"over_cap_{name}") for name in ("group", "source", "category")] == [
        5,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("caption_a", "caption_b", "rules", "reason"),
    [
        ("a" * 2001, "b", {}, "caption_a_too_long"),
        ("a" * 2000, "b" * 2001, {}, "caption_b_too_long"),
        ("a" * 2000, "b" * 2000, {}, ""),
        ("star", "a blue star", {"min_caption_words": 2}, "caption_a_words_below_min"),
        ("a red star", "a big blue star", {"max_caption_words": 3}, "caption_b_words_above_max"),
        ("a red star", "a blue star", {"max_changed_words": 1, "max_frac_changed_words": 0.34}, ""),
        ("a red star", "a big blue star", {"max_changed_words": 1}, "changed_words_above_max"),
        (
            "a red star",
            "a big blue star",
            {"max_frac_changed_words": 0.49},
            "frac_changed_words_above_max",
        ),
        ("\u2026", "star", {"max_frac_changed_words": 0.5}, "frac_changed_words_above_max"),
    ],
)
def test_captions_are_held_to_their_limits(
    caption_a: str, caption_b: str, rules: dict[str, Any], reason: str
) -> None:
    assert reasons(columns(**caption_facts(caption_a, caption_b)), **rules) == [reason]


def test_captions_are_asked_before_scores() -> None:
    rows = columns(**caption_facts("a" * 9000, "b"), clip_image_cos=0.0)
    assert reasons(rows, clip_image_cos={"min": 0.5}) == ["caption_a_too_long"]


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ({"dinov2_image_cos": {"max": 0.5}}, "selection.dinov2_image_cos"),
        ({"dinov2_image_cos": {"max_quantile": 0.5}}, "selection.dinov2_image_cos"),
        (
            {"by_category": {"count": {"caption_margin_a": {"min": 0.0}}}},
            "selection.by_category.count.caption_margin_a",
        ),
    ],
)
def test_a_bound_on_a_score_that_nobody_computed_is_an_error(
    rules: dict[str, Any], key: str
) -> None:
    with pytest.raises(RecipeError, match=f"^{key}: a bound is set, but no encoder"):
        reasons(columns(clip_image_cos=0.9), **rules)
    check_bounds(SelectionSection.model_validate(rules), SCORE_COLUMNS)


def test_a_rule_for_a_source_that_is_not_there_is_an_error() -> None:
    capped = SelectionSection.model_validate({"caps": {"source": {"countercurat": 5}}})
    exempt = SelectionSection.model_validate({"exempt": [{"source": "flips"}]})
    for section, message in (
        (capped, "selection.caps.source: no source is called 'countercurat'"),
        (exempt, "selection.exempt: no source"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_bounds(section, SCORE_COLUMNS, ["countercurate"])
        check_bounds(section, SCORE_COLUMNS)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            "{clip_image_cos: {min: 0.8, max: 0.7}}",
            "clip_image_cos: .*min 0.8 is above max 0.7, so no pair could stay",
        ),
        (
            "{clip_image_cos: {min_quantile: 0.8, max_quantile: 0.7}}",
            "min_quantile 0.8 is above max_quantile 0.7",
        ),
        ("{clip_image_cos: {min: 0.8, min_quantile: 0.7}}", "min and min_quantile are both given"),
        (
            "{clip_image_cos: {max_quantile: 1.5}}",
            "clip_image_cos.max_quantile: .*less than or equal to 1",
        ),
        (
            "{clip_image_cos: {minimum: 0.5}}",
            "clip_image_cos.minimum: unknown key, did you mean 'min'",
        ),
        (
            "{clip_image_cosine: {min: 0.5}}",
            "clip_image_cosine: unknown key, did you mean 'clip_image_cos'",
        ),
        (
            "{by_category: {counts: {clip_image_cos: {min: 0.5}}}}",
            "by_category: .*'counts' is no category; the categories are object",
        ),
        (
            "{by_category: {count: {clip: {min: 0.5}}}}",
            "'clip' is no score; the scores are clip_image_cos",
        ),
        ("{exempt: [{}]}", "exempt.0: .*at least one of source, category, operation"),
        ("{sample_exempt: own_category}", "sample_exempt is set, but exempt names no rows"),
        (
            "{sample_exempt: half, exempt: [{operation: flip}]}",
            "sample_exempt: .*'own_category' or 'source_categories'",
        ),
        ("{caps: {category: {counts: 5}}}", "caps.category: .*'counts' is no category"),
        ("{caps: {category: {count: 0}}}", "caps.category: .*a whole number from 1 on"),
        ("{caps: {source: many}}", "caps.source: .*a whole number from 1 on"),
        ("{caps: {group: 0}}", "caps.group: .*greater than or equal to 1"),
        (
            "{min_caption_words: 9, max_caption_words: 3}",
            "min_caption_words 9 is above max_caption_words 3",
        ),
        ("{max_caption_chars: 0}", "max_caption_chars: .*greater than or equal to 1"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_in_one_sentence(
    rules: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(rules)
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(tmp_path / "recipe.yaml", [], SelectionSection)
    assert "\n" not in str(error.value)


def test_every_score_of_the_schema_has_a_band() -> None:
    assert set(SCORE_COLUMNS) <= set(SelectionSection.model_fields)
    assert tuple(bands(SelectionSection())) == (*SCORE_COLUMNS, "caption_margin_sum")


def test_rules_are_read_again_as_they_were_written_down() -> None:
    rules = {
        "clip_image_cos": {"min": 0.5},
        "by_category": {"count": {"clip_image_cos": {}}},
        "caps": {"source": {"x": 3}},
    }
    section = SelectionSection.model_validate(rules)
    assert SelectionSection.model_validate(section.model_dump(mode="json")) == section
    with pytest.raises(ValidationError, match="frozen"):
        section.seed = 3  # type: ignore[misc]


def test_no_rows_are_decided_without_fuss() -> None:
    assert (
        reasons(
            columns(0, clip_image_cos=0.5, category=[], source=[], operation=[]),
            clip_image_cos={"min_quantile": 0.5},
        )
        == []
    )


def test_the_sum_of_both_margins_has_a_bound_of_its_own() -> None:
    """A side may be below 0 where its image is far from all texts; the sum tells them apart."""
    rows = columns(
        5,
        caption_margin_a=np.array([0.10, -0.04, 0.10, 0.0, np.nan]),
        caption_margin_b=np.array([0.10, 0.09, -0.15, 0.0, 0.1]),
    )
    below, missing = "caption_margin_sum_below_min", "caption_margin_sum_missing"
    assert reasons(rows, caption_margin_sum={"min": 0.05}) == ["", "", below, below, missing]
    assert reasons(rows, caption_margin_sum={"max": 0.1})[:2] == [
        "caption_margin_sum_above_max",
        "",
    ]
    own = {"object": {"caption_margin_sum": {"min": -0.05}}}
    assert reasons(rows, caption_margin_sum={"min": 0.05}, by_category=own)[:4] == [""] * 4
    section = SelectionSection.model_validate({"caption_margin_sum": {"min": 0.0}})
    check_bounds(section, {"caption_margin_a", "caption_margin_b"})
    with pytest.raises(RecipeError, match=r"selection\.caption_margin_sum: a bound is set, but no"):
        check_bounds(section, {"pixels_image_cos"})
