"""What the shipped CLIP of the scenes knows, and that the script which made it still learns."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.embedding.encoders import ClipEncoder, ClipSection
from pipeline.embedding.model_files import local_folder
from pipeline.embedding.similarity import caption_margin, cosine
from pipeline.embedding.stage import embed_images
from pipeline.sources.scenes.phrasing import write
from pipeline.sources.scenes.source import ScenesSection, draw_pair
from scripts.scene_facts import FACTS, covers_of, truth_of, wordings

UNSEEN_SEED = 4711
CATEGORIES = ("object", "attribute", "count", "position", "relation")


def _meta(category: str, objects_a: list[dict], objects_b: list[dict], **contrast: str) -> dict:
    truth = {
        side: {"background": "wavy", "objects": objects}
        for side, objects in (("a", objects_a), ("b", objects_b))
    }
    return {"truth": truth, "contrast": {"category": category, **contrast}}


def _holding(meta: dict, side: str) -> tuple[set, set]:
    """The facts that hold, and those that are not certain."""
    holds, certain = truth_of(meta, side, 64)
    return {FACTS[i] for i in np.flatnonzero(holds)}, {FACTS[i] for i in np.flatnonzero(~certain)}


def test_what_holds_of_a_scene_is_read_off_its_truth() -> None:
    star = {"object": "star", "colour": "red", "box": [2, 44, 18, 60]}
    hearts = [{"object": "heart", "colour": "blue", "box": [x, 2, x + 15, 17]} for x in (2, 24, 46)]
    meta = _meta("count", [star, *hearts], [star, *hearts[:2]], subject="heart", a="three", b="two")
    shared = {
        ("attribute", "star", "red"),
        ("attribute", "heart", "blue"),
        ("position", "star", "lower left"),
    }
    places = {fact for fact in FACTS if fact[:2] == ("position", "heart")}
    assert _holding(meta, "a") == (shared | {("count", "heart", "three")}, places)
    assert _holding(meta, "b") == (shared | {("count", "heart", "two")}, places)


def test_beside_a_box_only_what_was_asked_for_is_certain() -> None:
    star, box = (
        {"object": "star", "colour": "red", "box": [2, 2, 18, 18]},
        {"object": "box", "colour": "brown", "box": [22, 2, 38, 18]},
    )
    cross = {"object": "cross", "colour": "blue", "box": [2, 40, 18, 56]}
    meta = _meta(
        "relation", [star, box, cross], [], subject="star", a="to the left of", b="to the right of"
    )
    holds, uncertain = _holding(meta, "a")
    colors = {("attribute", "star", "red"), ("attribute", "cross", "blue")}
    assert holds == colors | {("relation", "star", "to the left of")}
    assert uncertain == {
        f
        for f in FACTS
        if (f[0] == "position" and f[1] in ("star", "cross")) or f[:2] == ("relation", "cross")
    }


def test_every_scene_holds_its_own_caption_and_not_that_of_its_other_side() -> None:
    facts_by_text = {text: place for place, fact in enumerate(FACTS) for text in wordings(fact)}
    assert len(facts_by_text) == 36 * 8 + 78 * 4
    for number in range(60):
        pair = draw_pair(ScenesSection(kind="scenes", num_pairs=1, seed=5), number)
        meta = json.loads(pair.meta)
        own, other = facts_by_text[pair.caption_a], facts_by_text[pair.caption_b]
        for side, (true, false) in {"a": (own, other), "b": (other, own)}.items():
            holds, certain = truth_of(meta, side, 64)
            assert holds[true] and not holds[false] and certain[true] and certain[false], (
                pair.source_id,
                side,
            )


def test_a_cell_says_what_covers_its_middle() -> None:
    star = {"object": "star", "colour": "green", "box": [17, 8, 33, 24]}
    covers = covers_of(
        _meta("attribute", [star], [], subject="star", a="green", b="red"), "a", 64, 8
    )
    rows, columns = np.nonzero(covers[0])
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (row, column) for row in (1, 2) for column in (2, 3)
    }
    assert set(covers[0][covers[0] > 0]) == {4} and set(covers[1][covers[1] > 0]) == {2}
    assert np.argwhere(covers[2]).tolist() == [[2, 3]]


def _auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """How often a positive score is above a negative one, ties half."""
    above = (positive[:, None] > negative[None]).mean() + 0.5 * (
        positive[:, None] == negative[None]
    ).mean()
    return float(above)


def _margins(
    encoder: ClipEncoder, num_pairs: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Caption margins of unseen pairs with their own captions and with swapped ones, by category;
    and their image cosines.
    """
    pairs = [
        draw_pair(ScenesSection(kind="scenes", num_pairs=1, seed=UNSEEN_SEED), number)
        for number in range(num_pairs)
    ]
    files = pa.chunked_array(
        [
            pa.array(
                [data for pair in pairs for data in (pair.image_a, pair.image_b)], pa.large_binary()
            )
        ]
    )
    images = embed_images(
        files, {"clip": encoder}, {"clip": list(range(2 * num_pairs))}, num_threads=2
    )["clip"]
    texts = encoder.encode_texts(
        [text for pair in pairs for text in (pair.caption_a, pair.caption_b)]
    )
    own = np.concatenate(
        [caption_margin(texts[s::2], images[s::2], images[1 - s :: 2]) for s in (0, 1)]
    )
    swapped = np.concatenate(
        [caption_margin(texts[1 - s :: 2], images[s::2], images[1 - s :: 2]) for s in (0, 1)]
    )
    category = np.array([pair.category for pair in pairs] * 2)
    return {
        name: (own[category == name], swapped[category == name]) for name in CATEGORIES
    }, cosine(images[::2], images[1::2])


@pytest.mark.slow
def test_the_shipped_model_tells_own_from_swapped_captions_on_unseen_scenes() -> None:
    folder = local_folder("builtin:scenes-clip")
    assert folder is not None and sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    margins, image_cos = _margins(
        ClipEncoder(ClipSection(model="builtin:scenes-clip")), num_pairs=400
    )
    own, swapped = (np.concatenate([pair[side] for pair in margins.values()]) for side in (0, 1))
    assert _auroc(own, swapped) > 0.9
    for category, (mine, other) in margins.items():
        assert _auroc(mine, other) > 0.85, category
    assert (own > 0).mean() > 0.9
    # Two pictures of one scene are alike, and not the same to it.
    assert 0.3 < np.median(image_cos) < 0.999


@pytest.mark.slow
def test_a_few_steps_of_the_script_make_a_model_that_loads_and_has_learned(tmp_path: Path) -> None:
    from scripts.scenes_clip import draw, train

    losses = train(tmp_path / "made", draw(48, seed=1), num_images=640, batch_pairs=8)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    encoder = ClipEncoder(ClipSection(model=str(tmp_path / "made")))
    known, unknown = write("attribute", 0, "star", "red", "red")[1], "zebras everywhere"
    same, different = cosine(
        *(encoder.encode_texts(texts) for texts in ([known, known], [known, unknown]))
    )
    assert same == 1.0 > different
