"""The scenes source: what it says about its pictures is true of their pixels, and nothing else
differs in a pair.
"""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.core.images import decode_rgb
from pipeline.core.schema import Candidate
from pipeline.rewrite.template import write as write_conversation
from pipeline.sources.scenes.drawing import BOX, COLORS, KINDS, NOISE_AMPLITUDE, OUTLINE
from pipeline.sources.scenes.layout import held_out_combinations, usual_kind
from pipeline.sources.scenes.phrasing import COUNTS, HELD_OUT_PHRASINGS, VALUES
from pipeline.sources.scenes.source import ScenesSection, ScenesSource
from pipeline.text.contrast import leaked_words, words

CATEGORIES = ("object", "attribute", "count", "position", "relation")
MANY = 160


def pairs(num_pairs: int = MANY, **settings: Any) -> list[Candidate]:
    section = ScenesSection(kind="scenes", num_pairs=num_pairs, **settings)
    return list(ScenesSource(section).read(0, num_pairs))


@pytest.fixture(scope="module")
def many() -> list[Candidate]:
    """Pairs of every category, drawn once: drawing is most of what these tests cost."""
    return pairs(seed=7)


def only(category: str) -> dict[str, float]:
    return {name: float(name == category) for name in CATEGORIES}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_rgb(data))


def told(pair: Candidate) -> list[tuple[dict[str, Any], str]]:
    """Per side: truth, value of the contrast."""
    meta = json.loads(pair.meta)
    return [(meta["truth"][side], meta["contrast"][side]) for side in "ab"]


def sides(pair: Candidate) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Per side: pixels, truth."""
    return [
        (pixels(data), truth)
        for data, (truth, _) in zip((pair.image_a, pair.image_b), told(pair), strict=True)
    ]


def subject(pair: Candidate) -> str:
    return str(json.loads(pair.meta)["contrast"]["subject"])


def center(thing: dict[str, Any]) -> tuple[float, float]:
    x0, y0, x1, y1 = thing["box"]
    return (x0 + x1) / 2, (y0 + y1) / 2


def test_a_row_depends_on_the_seed_and_its_index_alone() -> None:
    whole = pairs(20, seed=3)
    source = ScenesSource(ScenesSection(kind="scenes", num_pairs=20, seed=3))
    assert list(source.read(11, 13)) == whole[11:13]
    assert pairs(9, seed=3, first=11) == whole[11:]
    assert list(source.read(18, 99)) == whole[18:]
    assert not {pair.group for pair in whole} & {pair.group for pair in pairs(20, seed=4)}
    assert len({pair.group for pair in whole}) == 20


def test_a_thing_shows_its_own_colour_and_no_other_in_its_box(many: list[Candidate]) -> None:
    for pair in many:
        for image, truth in sides(pair):
            for thing in truth["objects"]:
                x0, y0, x1, y1 = thing["box"]
                assert x1 - x0 >= 14 and x1 - x0 == y1 - y0
                window = image[y0:y1, x0:x1].reshape(-1, 3)
                shares = {name: (window == rgb).all(1).mean() for name, rgb in COLORS.items()}
                if thing["object"] == BOX:
                    assert max(shares.values()) == 0
                else:
                    assert shares.pop(thing["colour"]) > 0.2
                    assert max(shares.values()) == 0


def test_shapes_of_different_kinds_differ_in_a_fifth_of_their_pixels() -> None:
    from pipeline.sources.scenes.drawing import Thing, draw_things

    canvas = np.zeros((16, 16, 3), np.uint8)
    drawn = [
        (draw_things(canvas, (Thing(kind, "red", 0, 0, 16),)) == COLORS["red"]).all(-1)
        for kind in KINDS
    ]
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            assert (one != other).sum() >= 0.2 * max(one.sum(), other.sum())


def test_backgrounds_never_hold_a_colour_of_a_shape(many: list[Candidate]) -> None:
    for pair in many[:60]:
        for image, truth in sides(pair):
            outside = np.ones(image.shape[:2], bool)
            for thing in truth["objects"]:
                x0, y0, x1, y1 = thing["box"]
                outside[y0:y1, x0:x1] = False
            rest = image[outside].astype(int)
            assert min(abs(rest - rgb).max(1).min() for rgb in COLORS.values()) > 40
            assert abs(rest - OUTLINE).max(1).min() > NOISE_AMPLITUDE


def test_outside_the_boxes_of_what_changed_both_images_are_the_same(many: list[Candidate]) -> None:
    for pair in many:
        (image_a, truth_a), (image_b, truth_b) = sides(pair)
        changed = [t for t in truth_a["objects"] if t not in truth_b["objects"]]
        changed += [t for t in truth_b["objects"] if t not in truth_a["objects"]]
        assert changed
        may_differ = np.zeros(image_a.shape[:2], bool)
        for x0, y0, x1, y1 in (thing["box"] for thing in changed):
            may_differ[y0:y1, x0:x1] = True
        differs = (image_a != image_b).any(-1)
        assert differs.any() and not (differs & ~may_differ).any()


@pytest.mark.parametrize("category", CATEGORIES)
def test_exactly_one_fact_differs_and_it_is_the_stated_one(category: str) -> None:
    for pair in pairs(40, seed=2, mix=only(category)):
        assert pair.category == category
        found = told(pair)
        things = [truth["objects"] for truth, _ in found]
        assert found[0][0]["background"] == found[1][0]["background"]
        own = [[t for t in side if t not in other] for side, other in (things, things[::-1])]
        values = [value for _, value in found]
        assert values[0] != values[1]
        if category in ("object", "attribute"):
            (a,), (b,) = own
            keys = {key for key in a if a[key] != b[key]}
            assert keys == ({"object"} if category == "object" else {"colour"})
            assert [a[key] for key in keys] + [b[key] for key in keys] == values
        elif category == "count":
            assert [sum(t["object"] == subject(pair) for t in side) for side in things] == [
                COUNTS[v] for v in values
            ]
            assert min(map(len, own)) == 0  # one side only leaves things out
        else:
            allowed = {subject(pair)} | ({BOX} if category == "relation" else set())
            assert {t["object"] for side in own for t in side} == allowed


@pytest.mark.slow
def test_positions_and_relations_are_where_the_caption_says() -> None:
    columns, rows = {"left": (0, 21), "right": (42, 64)}, {"upper": (0, 21), "lower": (42, 64)}
    for pair in pairs(MANY, seed=11, mix={**only("position"), "relation": 1.0}):
        for truth, value in told(pair):
            thing = next(t for t in truth["objects"] if t["object"] == subject(pair))
            x, y = center(thing)
            if pair.category == "position":
                row, _, column = value.partition(" ")
                expected = (columns.get(column, (21, 42)), rows.get(row, (21, 42)))
                assert expected[0][0] < x < expected[0][1] and expected[1][0] < y < expected[1][1]
            else:
                box = next(t for t in truth["objects"] if t["object"] == BOX)
                dx, dy = x - center(box)[0], y - center(box)[1]
                along, across = {
                    "left": (-dx, dy),
                    "right": (dx, dy),
                    "above": (-dy, dx),
                    "below": (dy, dx),
                }[value.removeprefix("to the ").removesuffix(" of")]
                assert along > 10 and abs(across) < 5


@pytest.mark.slow
def test_no_place_in_the_picture_gives_a_relation_away() -> None:
    xs: dict[str, list[float]] = {"to the left of": [], "to the right of": []}
    for pair in pairs(250, seed=1, mix=only("relation")):
        for truth, value in told(pair):
            if value in xs:
                xs[value].append(
                    center(next(t for t in truth["objects"] if t["object"] == subject(pair)))[0]
                )
    left, right = np.array(xs["to the left of"]), np.array(xs["to the right of"])
    best = max(np.mean([*(left < threshold), *(right >= threshold)]) for threshold in range(64))
    # the best guess from where the subject is; it stands on the left half of the picture more often
    assert best < 0.85


def test_things_neither_overlap_nor_repeat_a_kind_or_colour_but_the_counted(
    many: list[Candidate],
) -> None:
    for pair in many:
        for truth, _ in told(pair):
            boxes = [t["box"] for t in truth["objects"]]
            for i, (ax0, ay0, ax1, ay1) in enumerate(boxes):
                assert min(ax0, ay0) >= 0 and max(ax1, ay1) <= 64
                for bx0, by0, bx1, by1 in boxes[i + 1 :]:
                    assert ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0
            combinations = {(t["object"], t["colour"]) for t in truth["objects"]}
            assert (
                len({k for k, _ in combinations})
                == len({c for _, c in combinations})
                == len(combinations)
            )
            assert 2 <= len(boxes) <= 6 and (pair.category == "count" or len(boxes) <= 4)


@pytest.mark.slow
def test_captions_share_a_phrasing_and_the_question_gives_nothing_away(
    many: list[Candidate],
) -> None:
    every_value = {w for values in VALUES.values() for value in values for w in words(value)} - {
        "to",
        "the",
        "of",
    }
    worded = set()
    for pair in (*many, *pairs(160, seed=17)):
        meta = json.loads(pair.meta)
        worded.add((pair.category, meta["phrasing"]))
        value_a, value_b = meta["contrast"]["a"], meta["contrast"]["b"]
        assert pair.caption_a.replace(value_a, "?", 1) == pair.caption_b.replace(value_b, "?", 1)
        assert pair.question is not None
        assert not leaked_words(pair.question, pair.caption_a, pair.caption_b)
        asked = set(words(pair.question))
        assert not asked & every_value
        assert not asked & (set(words(f"{value_a} {value_b}")) - {"to", "the", "of"})
        written = write_conversation(pair.caption_a, pair.caption_b, pair.category, pair.question)
        assert written is not None and written.question == pair.question
    assert len(worded) == len(CATEGORIES) * 4  # every wording came up


def test_held_out_combinations_are_a_third_and_leave_every_kind_and_colour_in() -> None:
    held_out = held_out_combinations()
    assert len(held_out) == len(KINDS) * len(COLORS) / 3
    assert Counter(k for k, _ in held_out) == dict.fromkeys(KINDS, 2)
    assert Counter(c for _, c in held_out) == dict.fromkeys(COLORS, 2)


@pytest.mark.slow
def test_seen_scenes_never_show_what_held_out_scenes_ask_about() -> None:
    held_out = held_out_combinations()
    for pair in pairs(MANY, seed=19, combinations="seen", phrasings="seen"):
        assert json.loads(pair.meta)["phrasing"] not in HELD_OUT_PHRASINGS
        for truth, _ in told(pair):
            assert not {(t["object"], t["colour"]) for t in truth["objects"]} & held_out
    for pair in pairs(MANY, seed=19, combinations="held_out", phrasings="held_out"):
        assert json.loads(pair.meta)["phrasing"] in HELD_OUT_PHRASINGS
        key = "colour" if pair.category == "object" else "object"
        for truth, _ in told(pair):
            (combination,) = {
                (t["object"], t["colour"]) for t in truth["objects"] if t[key] == subject(pair)
            }
            assert combination in held_out


@pytest.mark.parametrize(
    ("co_occurrence", "low", "high"), [(0.0, 0.1, 0.25), (0.6, 0.57, 0.77), (1.0, 1.0, 1.0)]
)
def test_co_occurrence_is_the_share_of_subjects_that_follow_their_background(
    co_occurrence: float, low: float, high: float
) -> None:
    # By chance a kind is its background's usual one in a sixth of the scenes: 0.6 + 0.4 / 6 = 0.67.
    follow = []
    for pair in pairs(MANY, seed=23, co_occurrence=co_occurrence, mix=only("attribute")):
        follow.append(subject(pair) == usual_kind(told(pair)[0][0]["background"]))
    assert low <= np.mean(follow) <= high


@pytest.mark.slow
def test_the_mix_sets_how_often_each_category_comes() -> None:
    counts = Counter(
        pair.category for pair in pairs(200, seed=29, mix={**only("count"), "object": 3.0})
    )
    assert set(counts) == {"count", "object"} and 125 < counts["object"] < 175
    with pytest.raises(ValidationError, match="at least one category"):
        ScenesSection(kind="scenes", mix=dict.fromkeys(CATEGORIES, 0.0))


def test_larger_pictures_keep_the_layout_rules() -> None:
    for pair in pairs(20, seed=31, size_px=128):
        for image, truth in sides(pair):
            assert image.shape == (128, 128, 3)
            assert all(28 <= t["box"][2] - t["box"][0] <= 38 for t in truth["objects"])
