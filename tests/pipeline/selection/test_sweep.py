import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.recipe import UserError
from pipeline.core.schema import SCHEMA_VERSION, SCORE_COLUMNS, MvcError, mvc_schema
from pipeline.selection.rules import ScoreBound, SelectionSection, drop_reasons
from pipeline.selection.stored import read_scores, swept_rows
from pipeline.selection.sweep import (
    Axis,
    Sweep,
    axis_names,
    make_axis,
    own_bound,
    sweep_figure,
    sweep_grid,
    sweeps,
)
from pipeline.sweep import run
from pipeline.text.captions import caption_facts

ROOT = Path(__file__).resolve().parents[3]
RULES: dict[str, Any] = {
    "clip_image_cos": {"min": 0.7, "max": 0.98},
    "dinov2_image_cos": {"max_quantile": 0.6},
    "pixels_image_cos": {"min": 0.1},
    "by_category": {"count": {"clip_image_cos": {"min": 0.4}}},
    "exempt": [{"operation": "flip"}],
    "sample_exempt": "own_category",
    "caps": {"category": 15},
}


def grid(x: list[float], y: list[float], x_axis: Axis, y_axis: Axis) -> list[list[int]]:
    return sweep_grid(np.array(x), np.array(y), x_axis, y_axis).tolist()


def axis(name: str, *edges: float) -> Axis:
    score, side = name.split(".")
    return Axis(score, side, np.array(edges))


def test_a_cell_counts_the_pairs_that_keep_both_bounds_inclusively() -> None:
    clip, dinov2 = [0.9, 0.7, 0.6, np.nan, 0.9], [0.2, 0.5, 0.5, 0.1, np.nan]
    counts = grid(
        clip,
        dinov2,
        axis("clip_image_cos.min", 0.5, 0.7, 0.95),
        axis("dinov2_image_cos.max", 0.1, 0.2, 0.5),
    )
    assert counts == [[0, 1, 3], [0, 1, 2], [0, 0, 0]]


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(-3, 9), st.integers(-3, 9)), max_size=30),
    st.sets(st.integers(-4, 9), min_size=1),
    st.sets(st.integers(-4, 9), min_size=1),
    st.sampled_from(["min", "max"]),
    st.sampled_from(["min", "max"]),
)
def test_the_grid_equals_a_count_of_every_cell(
    pairs: list[tuple[int, int]], x_edges: set[int], y_edges: set[int], x_side: str, y_side: str
) -> None:
    # -3 stands for a null score.
    x, y = ([np.nan if pair[side] == -3 else pair[side] / 8 for pair in pairs] for side in (0, 1))
    x_axis = axis(f"clip_image_cos.{x_side}", *(edge / 8 for edge in sorted(x_edges)))
    y_axis = axis(f"dinov2_image_cos.{y_side}", *(edge / 8 for edge in sorted(y_edges)))

    def keeps(value: float, edge: float, side: str) -> bool:
        return value >= edge if side == "min" else value <= edge

    expected = [
        [
            sum(
                keeps(a, at_x, x_side) and keeps(b, at_y, y_side) for a, b in zip(x, y, strict=True)
            )
            for at_y in y_axis.edges
        ]
        for at_x in x_axis.edges
    ]
    assert grid(x, y, x_axis, y_axis) == expected


def scored(**given: Any) -> dict[str, np.ndarray]:
    num = len(next(iter(given.values())))
    return {score: np.array(given.get(score, [np.nan] * num), float) for score in SCORE_COLUMNS}


def test_axes_are_the_first_two_scores_or_both_sides_of_the_only_one() -> None:
    both = scored(dinov2_image_cos=[0.1], clip_image_cos=[0.2], pixels_image_cos=[0.3])
    assert axis_names(both, None, None) == ("clip_image_cos.min", "dinov2_image_cos.max")
    assert axis_names(both, "dinov2_image_cos", None) == (
        "dinov2_image_cos.max",
        "clip_image_cos.min",
    )
    assert axis_names(both, None, "clip_image_cos") == (
        "dinov2_image_cos.max",
        "clip_image_cos.min",
    )
    assert axis_names(both, "pixels_image_cos.max", "clip_image_cos.max") == (
        "pixels_image_cos.max",
        "clip_image_cos.max",
    )
    assert axis_names(scored(pixels_image_cos=[0.3]), None, None) == (
        "pixels_image_cos.min",
        "pixels_image_cos.max",
    )
    with pytest.raises(UserError, match="no score to sweep"):
        axis_names(scored(pixels_image_cos=[np.nan]), None, None)


def test_an_axis_runs_by_quantiles_from_lowest_to_highest_through_the_builds_own_bound() -> None:
    rows = scored(clip_image_cos=[0.2, np.nan, 0.8])
    assert make_axis(rows, "clip_image_cos", steps=3, own=0.7001).edges.tolist() == [
        0.2,
        0.5,
        0.7001,
        0.8,
    ]
    # nine in ten pairs lie in a tenth of the range: there are the steps
    skewed = scored(clip_image_cos=[0.0, *np.linspace(0.9, 1.0, 19)])
    edges = make_axis(skewed, "clip_image_cos", steps=11).edges
    assert (edges[0], edges[-1]) == (0.0, 1.0) and (edges[1:] >= 0.9).all() and len(edges) == 11
    margins = scored(caption_margin_a=[0.1, -0.1, 0.2], caption_margin_b=[0.2, 0.1, np.nan])
    assert make_axis(margins, "caption_margin_sum", steps=2).edges.tolist() == [0.0, 0.3]
    assert make_axis(rows, "clip_image_cos.max", edges=[0.9, 0.1]).edges.tolist() == [0.1, 0.9]
    for name, message in (
        ("clip", "axis 'clip': expected SCORE"),
        ("clip_image_cos.top", "expected SCORE"),
        ("dinov2_image_cos", "no pair"),
    ):
        with pytest.raises(UserError, match=message):
            make_axis(rows, name)


def test_the_builds_own_bound_is_named_where_all_categories_share_it() -> None:
    bounds = [
        ScoreBound("clip_image_cos", ("object", "position"), 0.7, None),
        ScoreBound("clip_image_cos", ("count",), 0.4, None),
    ]
    found = {
        names: own_bound(bounds, "clip_image_cos.min", names)
        for names in (("object", "position"), ("count",), ("object", "count"))
    }
    assert found == {("object", "position"): 0.7, ("count",): 0.4, ("object", "count"): None}
    assert own_bound(bounds, "clip_image_cos.max", ("object",)) is None
    assert own_bound(bounds, "clip_image_cos.min", ("object", "other")) is None


@pytest.fixture
def mvc(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A finished folder of 600 decided rows, of which 40 never reached selection; and the rows."""
    rng, num = np.random.default_rng(0), 600
    rows: dict[str, np.ndarray] = {
        name: np.full(num, value)
        for name, value in caption_facts("a red star", "a blue star").items()
    }
    rows |= {"source": np.full(num, "s", dtype=object), "group": np.arange(num)}
    rows["num_chars_a"][:15] = 5000
    rows["pair_id"] = np.array([f"{number:032x}" for number in range(num)], "S32")
    rows["category"] = rng.choice(np.array(["object", "position", "count"], dtype=object), num)
    rows["operation"] = np.where(rng.random(num) < 0.2, "flip", "generate").astype(object)
    for score, low in (
        ("clip_image_cos", 0.3),
        ("dinov2_image_cos", 0.0),
        ("pixels_image_cos", 0.0),
    ):
        rows[score] = np.round(rng.uniform(low, 1.0, num), 4)
    before = np.full(num, "", dtype=object)
    before[560:580], before[580:] = "image_a_truncated", "duplicate_pair"
    section, alive = SelectionSection.model_validate(RULES), before == ""
    reason = before.copy()
    reason[alive] = drop_reasons({name: values[alive] for name, values in rows.items()}, section)
    assert {
        "over_cap_category",
        "not_sampled",
        "clip_image_cos_above_max",
        "caption_a_too_long",
    } <= set(reason)
    reason[np.flatnonzero(reason == "")[:7]] = "question_leaks_contrast"
    for score in SCORE_COLUMNS[:3]:
        rows[score][before == "image_a_truncated"] = np.nan
    rows["drop_reason"] = reason
    for path, part, schema in (
        ("data/train-00000-of-00002.parquet", np.flatnonzero(reason == "")[::2], mvc_schema()),
        (
            "data/validation-00000-of-00001.parquet",
            np.flatnonzero(reason == "")[1::2],
            mvc_schema(),
        ),
        (
            "rejects/rejects-00000-of-00001.parquet",
            np.flatnonzero(reason != ""),
            mvc_schema(rejects=True),
        ),
    ):
        listed = {
            name: [None if value != value else value for value in values[part].tolist()]
            for name, values in rows.items()
        }
        lines = [
            {
                name: listed[name][row]
                for name in schema.names
                if name in listed and name not in ("group", "pair_id")
            }
            for row in range(len(part))
        ]
        (tmp_path / path).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(lines, schema=schema), tmp_path / path)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": "<Test>",
        "recipe": {"selection": section.model_dump(mode="json")},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path, rows


def test_the_builds_own_cell_holds_what_its_bounds_let_in(
    mvc: tuple[Path, dict[str, np.ndarray]],
) -> None:
    folder, rows = mvc
    columns, section = read_scores(folder)
    assert len(columns["category"]) == 560
    found = {
        sweep.name: sweep
        for sweep in sweeps(
            columns, section, ("clip_image_cos.min", "dinov2_image_cos.max"), steps=5
        )
    }
    assert list(found) == ["all", "object", "count", "position"]
    # Caps come after bounds; rows whose question leaked were let in, but their place was not
    # decided by scores.
    judged = (rows["operation"] != "flip") & np.isin(rows["drop_reason"], ["", "over_cap_category"])
    for name, clip in (("object", 0.7), ("count", 0.4), ("position", 0.7)):
        x, y = found[name].x, found[name].y
        assert (x.own, y.own) == (clip, found["all"].y.own)
        own_cell = found[name].counts[x.edges.tolist().index(clip), y.edges.tolist().index(y.own)]  # type: ignore[arg-type]
        assert own_cell == (judged & (rows["category"] == name)).sum() > 10
    assert found["all"].x.own is None
    assert found["all"].counts[0, -1] == sum(
        found[name].counts[0, -1] for name in ("object", "count", "position")
    )


def test_bounds_that_are_not_swept_stay_in_force(mvc: tuple[Path, dict[str, np.ndarray]]) -> None:
    columns, section = read_scores(mvc[0])
    names = ("clip_image_cos.min", "dinov2_image_cos.max")
    rows = swept_rows(columns, section, names)
    assert sweeps(columns, section, names)[0].num_pairs == rows.sum()
    counted = {name: values[rows] for name, values in columns.items()}
    is_count = counted["category"] == "count"
    assert counted["pixels_image_cos"].min() >= 0.1
    assert (
        counted["clip_image_cos"][~is_count].max()
        <= 0.98
        < counted["clip_image_cos"][is_count].max()
    )
    assert counted["clip_image_cos"].min() < 0.4
    assert not (counted["operation"] == "flip").any()
    assert sweeps(columns, section, ("clip_image_cos.min", "clip_image_cos.max"))[
        0
    ].num_pairs < len(is_count)


def test_the_figure_writes_each_count_and_frames_the_builds_own_cell() -> None:
    rows = scored(clip_image_cos=[0.6, 0.8, 0.9], dinov2_image_cos=[0.1, 0.2, 0.3])
    x = make_axis(rows, "clip_image_cos", edges=[0.5, 0.7], own=0.7)
    y = make_axis(rows, "dinov2_image_cos")
    counts = sweep_grid(rows["clip_image_cos"], rows["dinov2_image_cos"], x, y)
    axes = sweep_figure(Sweep("position", 3, x, y, counts)).axes[0]
    assert len(axes.texts) == 2 * 11
    assert {text.get_text() for text in axes.texts} == {"0", "1", "2", "3"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("clip_image_cos.min", "dinov2_image_cos.max")
    assert axes.patches[0].get_bbox().extents.tolist() == [0.5, -0.5, 1.5, 10.5]


@pytest.mark.slow
def test_the_command_prints_every_category_and_writes_one_page(
    lean_command: Callable[..., Any], mvc: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    page = tmp_path / "pages" / "sweep.html"
    arguments = [str(mvc[0]), "--x-values", "0.5,0.7", "--steps", "3", "--out", str(page)]
    finished = lean_command("sweep", *arguments)
    for part in (
        "all:",
        "object:",
        "count:",
        "position:",
        "0.7 *",
        "of 560 pairs that reached selection",
        str(page),
    ):
        assert part in finished.stderr
    html = page.read_text()
    assert html.count("<svg") == 4
    assert "Thresholds: &lt;Test&gt;" in html
    assert not (mvc[0] / "sweep.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "clip"}, "axis 'clip': expected SCORE"),
        ({"y": "caption_margin_a"}, "axis 'caption_margin_a.min': no pair"),
        ({"x_values": "0.5,many"}, "--x-values '0.5,many': expected numbers"),
        ({"y_values": "nan"}, "--y-values 'nan': expected numbers"),
    ],
)
def test_what_cannot_be_swept_is_said_in_one_line(
    mvc: tuple[Path, dict[str, np.ndarray]], options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(
            mvc[0],
            **{"x": None, "y": None, "x_values": "", "y_values": "", "steps": 3, "out": None}
            | options,
        )  # type: ignore[arg-type]


def test_a_folder_that_is_no_finished_mvc_is_refused(
    mvc: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    folder = mvc[0]
    with pytest.raises(MvcError, match="expected an MVC folder"):
        read_scores(folder / "data")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["selection"]["rule_of_tomorrow"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MvcError, match="its selection cannot be read by this version"):
        read_scores(folder)
    del manifest["recipe"]["selection"]["rule_of_tomorrow"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shard = next((folder / "data").glob("train-*"))
    pq.write_table(pq.read_table(shard, columns=["category"]), shard)
    with pytest.raises(MvcError, match="column 'source' is missing"):
        read_scores(folder)
    shard.write_bytes(b"no parquet")
    with pytest.raises(MvcError, match="cannot be read as Parquet"):
        read_scores(folder)
