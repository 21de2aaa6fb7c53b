"""The worlds of the study: what is drawn or photographed, who sees what when, and the base that
each world's runs start from.

A world is some MVC folders, made by the product's own stages in this process, and a tiny LLaVA:

- `pretrain`: what the base has seen, with a prior taught on top that misleads;
- `all` and `transfer`: what an objective trains on, pairs of every kind, or of the source kinds
  alone;
- of scenes also `raw`, pairs of which some edits failed, and `filtered`, what the product's filter
  leaves of them; `half`, `quarter`;
- `valid`: where settings are chosen; `test`: where results come from. No person, combination or
  wording of `test` is in what an objective trains on; the base has seen all combinations and
  wordings of the scenes, and no person of the test.

Everything here is decided before an objective has been run. A world's fingerprint is of its recipes
and its rows, not of the base's weights, which differ in their last bits from one machine to
another.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pipeline.config import BuildSection
from pipeline.core.recipe import RecipeError, fingerprint
from pipeline.core.storage import write_json, write_text
from pipeline.sources.scenes.source import ScenesSection, draw_pair
from studies.objectives.run import make_references
from training.tiny.config import VERSION, TinySection

PARTS = ("pretrain", "all", "transfer", "valid", "test")
UNTRAINED = ("pretrain", "valid", "test")
# the kinds that transfer runs train on, and those that they are measured on
SOURCE, TARGET = "source", "target"
SCENE_MIX = {"object": 1, "attribute": 1, "count": 0, "position": 1, "relation": 1}
SCENE_SOURCE, SCENE_TARGET = ("object", "attribute"), ("position", "relation")
SCENE_BASE = TinySection(num_eye_images=26_000, num_texts=18_000, prior_skew=0.55)
BIAS = 0.7  # how often a scene's subject is the kind that goes with its background
# Of a hundred people, so many are kept for the test, and so many to choose settings on.
TEST_PERCENT, VALID_PERCENT = 20, 10
# of `raw`: the caption was changed, but the second image became another scene altogether
FRAC_FAILED_EDITS = 0.3
FILTER = {
    "pixels_image_cos": {"min": 0.65},
    "caption_margin_a": {"min": 0.0},
    "caption_margin_b": {"min": 0.0},
}
PAIRS_PER_PERSON = 16  # of a person's 45, in `all`: 1,680 pairs, about as many as are presented


@dataclass(frozen=True, slots=True)
class World:
    """One world: a recipe per folder, the base's section, and which categories are the transfer's
    source and its target.

    `prepare` writes what the recipes read (manifests), into the world's folder.
    """

    name: str
    recipes: Mapping[str, Callable[[Path], dict[str, Any]]]
    base: TinySection
    sources: tuple[str, ...]
    target: tuple[str, ...]
    prepare: Callable[[Path], None]


def scenes_world(num_train: int = 1600, num_test: int = 400) -> World:
    """Drawn scenes: biased co-occurrence, held-out combinations and phrasings; from objects and
    colours to places.

    Numbers are left out: a base of this size cannot count (60 % right where its prior is neutral).
    """

    def recipe(**section: Any) -> Callable[[Path], dict[str, Any]]:
        return lambda _folder: {
            "sources": [{"kind": "scenes", "co_occurrence": BIAS, "mix": SCENE_MIX, **section}]
        }

    seen = {"combinations": "seen", "phrasings": "seen"}
    of_source = {name: weight if name in SCENE_SOURCE else 0 for name, weight in SCENE_MIX.items()}
    recipes = {
        "pretrain": recipe(seed=21, num_pairs=3000),
        "all": recipe(seed=22, num_pairs=num_train, **seen),
        "transfer": recipe(seed=22, num_pairs=num_train, mix=of_source, **seen),
        "valid": recipe(seed=23, num_pairs=num_test // 2, **seen),
        # Half of the test's subjects go with their background and half do not, but for chance.
        "test": recipe(
            seed=24,
            num_pairs=num_test,
            co_occurrence=0.5,
            combinations="held_out",
            phrasings="held_out",
        ),
    }
    recipes |= {
        "quarter": recipe(seed=22, num_pairs=num_train // 4, **seen),
        "half": recipe(seed=22, num_pairs=num_train // 2, **seen),
    }
    scored = {"encoders": {"pixels": {"enabled": True}, "clip": {"model": "builtin:scenes-clip"}}}
    recipes["raw"] = lambda folder: {
        "sources": [{"kind": "pairs", "path": str(folder / "raw.jsonl")}]
    }
    recipes["filtered"] = lambda folder: recipes["raw"](folder) | scored | {"selection": FILTER}
    section = ScenesSection.model_validate(
        {
            "kind": "scenes",
            "co_occurrence": BIAS,
            "mix": SCENE_MIX,
            "seed": 22,
            "num_pairs": num_train,
            **seen,
        }
    )
    return World(
        "scenes",
        recipes,
        SCENE_BASE,
        SCENE_SOURCE,
        SCENE_TARGET,
        lambda folder: write_raw_pairs(section, folder),
    )


def write_raw_pairs(section: ScenesSection, folder: Path) -> None:
    """The pairs of a section as files with a manifest, raw.jsonl; of a fraction of them the edit
    has failed.
    """
    if (folder / "raw.jsonl").is_file():
        return
    (folder / "raw").mkdir(exist_ok=True)
    pairs = [draw_pair(section, index) for index in range(section.num_pairs)]
    rows = []
    for index, pair in enumerate(pairs):
        rng = Random(f"study:failed:{index}")
        failed = rng.random() < FRAC_FAILED_EDITS
        images = {"a": pair.image_a, "b": rng.choice(pairs).image_b if failed else pair.image_b}
        for side, data in images.items():
            (folder / "raw" / f"{index}{side}.png").write_bytes(data)
        named = {f"image_{side}": f"raw/{index}{side}.png" for side in images}
        told = {
            "caption_a": pair.caption_a,
            "caption_b": pair.caption_b,
            "question": pair.question,
            "category": pair.category,
        }
        rows.append(
            {"id": pair.source_id, "group": pair.group, "meta": {"failed": failed}, **named, **told}
        )
    write_text(folder / "raw.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def hands_world(photos: Path) -> World:
    """Photographs of hands: people never seen; from counting signs to the other signs.

    Args:
        photos: The folder with pairs.jsonl and images/.
    """
    rows = read_pairs(photos)

    def recipe(part: str) -> Callable[[Path], dict[str, Any]]:
        section = {"kind": "pairs", "root": str(photos.resolve())}
        return lambda folder: {"sources": [{**section, "path": str(folder / f"{part}.jsonl")}]}

    def prepare(folder: Path) -> None:
        for part, chosen in hands_parts(rows).items():
            write_text(folder / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in chosen))

    return World(
        "hands",
        {part: recipe(part) for part in PARTS},
        TinySection(),
        ("count",),
        ("attribute",),
        prepare,
    )


def read_pairs(photos: Path) -> list[dict[str, Any]]:
    """The pairs of a folder of hands.

    Raises:
        RecipeError: No pairs.jsonl there.
    """
    manifest = photos / "pairs.jsonl"
    if not manifest.is_file():
        raise RecipeError(f"--photos {photos}: expected pairs.jsonl in it, found none")
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line]


def hands_parts(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each folder, by person; a pair's category says which signs it holds apart.

    count: two counting signs (the source). attribute: two other signs (the target). other: one of
    each, which are trained on but not measured.
    """
    rows = [{**row, "category": sign_category(row["caption_a"], row["caption_b"])} for row in rows]
    people = sorted({str(row["group"]) for row in rows}, key=_rank)
    num_test, num_valid = len(people) * TEST_PERCENT // 100, len(people) * VALID_PERCENT // 100
    test, valid, train = (
        people[:num_test],
        people[num_test : num_test + num_valid],
        people[num_test + num_valid :],
    )

    def alike(chosen: list[str]) -> list[dict[str, Any]]:
        return [row for row in rows if row["group"] in set(chosen) and row["category"] != "other"]

    trained = [row for row in rows if row["group"] in set(train)]
    return {
        "pretrain": trained,
        "all": [
            either_way(row) for person in train for row in _first(rows, person, PAIRS_PER_PERSON)
        ],
        "transfer": [either_way(row) for row in trained if row["category"] == "count"],
        "valid": alike(valid),
        "test": alike(test),
    }


def either_way(row: dict[str, Any]) -> dict[str, Any]:
    """The row, or the row with its sides exchanged, by a hash of its id.

    The manifest names a pair's signs in a fixed order, so that an objective that prefers the answer
    of side a alone (DPO, mDPO, MPO, VCO) could learn the order of the signs instead of looking.
    """
    if _rank(f"side:{row['id']}")[0] % 2:
        return row
    other = {"_a": "_b", "_b": "_a"}
    return {
        (name[:-2] + other[name[-2:]] if name[-2:] in other else name): value
        for name, value in row.items()
    }


def sign_category(caption_a: str, caption_b: str) -> str:
    """The kind of a pair of signs: both count, neither does, or one does."""
    counting = [caption.startswith("A hand holding up") for caption in (caption_a, caption_b)]
    return "count" if all(counting) else "other" if any(counting) else "attribute"


def _first(rows: list[dict[str, Any]], person: str, number: int) -> list[dict[str, Any]]:
    """So many of a person's pairs, in an order that no sign decides."""
    return sorted(
        (row for row in rows if row["group"] == person), key=lambda row: _rank(str(row["id"]))
    )[:number]


def _rank(name: str) -> bytes:
    return hashlib.sha256(f"study:{name}".encode()).digest()


def build_folder(recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    """An MVC folder by the product's own stages; nothing is held out of it. Returns the manifest;
    done once.
    """
    from pipeline.build_mvc import finished_manifest
    from pipeline.core.ray_pool import Pool
    from pipeline.stages.finalize import publish
    from pipeline.stages.plan import plan_build
    from pipeline.stages.runner import Build

    whole = {
        "encoders": {"pixels": {"enabled": True}},
        "validation": {"fraction": 0.0},
        "audit": {"enabled": False},
    }
    plan = plan_build(
        BuildSection.model_validate({**whole, **recipe, "out": str(out), "name": out.name})
    )
    done = finished_manifest(plan)
    if done is not None:
        return done
    out.mkdir(parents=True, exist_ok=True)
    job = Build(plan, Pool(0).map, 1)
    job.run()
    manifest = publish(job)
    shutil.rmtree(plan.work)
    return manifest


def make_world(world: World, root: Path) -> dict[str, Any]:
    """Makes a world's folders and its base under `root`, once. Returns what is committed of it (see
    `world_facts`).
    """
    from training.tiny.make import make_tiny

    folder = root / world.name
    folder.mkdir(parents=True, exist_ok=True)
    world.prepare(folder)
    manifests = {
        part: build_folder(recipe(folder), folder / part) for part, recipe in world.recipes.items()
    }
    base = folder / "base"
    identity = world_facts(world, manifests)
    made = base / "made.json"
    if not made.is_file() or json.loads(made.read_text())["fingerprint"] != identity["fingerprint"]:
        shutil.rmtree(base, ignore_errors=True)
        shutil.copytree(make_tiny(folder / "pretrain", world.base), base)
        write_json(made, {"fingerprint": identity["fingerprint"]})
    make_references(world.name, folder, [part for part in world.recipes if part not in UNTRAINED])
    return identity


def world_facts(world: World, manifests: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What a world is: rows per folder with a hash of them, the base's section, the target, and one
    fingerprint of all.
    """
    parts = {
        part: {
            "pairs": manifest["rows"]["kept"],
            "rows_sha256": fingerprint(sorted(_hashes(manifest["files"]))),
        }
        for part, manifest in manifests.items()
    }
    slices = {SOURCE: list(world.sources), TARGET: list(world.target)}
    said = {
        "parts": parts,
        "tiny": world.base.model_dump(mode="json"),
        "tiny_version": VERSION,
        "slices": slices,
    }
    return {"world": world.name, "fingerprint": fingerprint(said), **said}


def _hashes(files: Any) -> Iterator[str]:
    """The sha256 of every shard that a manifest names."""
    for name, facts in files.items():
        if str(name).startswith("data/"):
            yield f"{name} {facts['sha256'] if isinstance(facts, dict) else facts}"
