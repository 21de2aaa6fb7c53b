#!/usr/bin/env python3
"""Computes the reference model's log-probabilities of every pair once, for all runs on the same
data: `svco reference`.

A sweep over objectives, betas or learning rates trains against the same numbers, so each run saves
the pass. With `store_features` what the frozen vision tower sees in each image is kept too, so no
run needs the tower. The unit of resume is a chunk of pairs, or of images: a job that is killed goes
on with the chunks that are missing.
"""

import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline.core.cli import recipe_command, run_command
from pipeline.core.progress import Progress, say, summary_table
from pipeline.core.ray_pool import Pool, ray_session
from pipeline.core.recipe import UserError, fingerprint
from pipeline.core.storage import only_one, read_json
from training.config import TrainSection
from training.models.unusable import words
from training.run_plan import (
    REFERENCE_DONE,
    REFERENCE_PARTS,
    Plan,
    base_sha256,
    check_base,
    data_sha256,
    feature_part,
    plan_reference,
    reference_part,
)

CHUNK_PAIRS = 256
# so as many files of images as chunks of pairs are enough, however few pairs share an image
FILE_IMAGES = 2 * CHUNK_PAIRS
NUMBERS, FEATURES = "numbers", "features"

Chunk = tuple[str, str, int]  # what of it, split, index


class ReferenceWriter:
    """Holds the model and writes the numbers of one chunk of pairs after the other; an actor of a
    pool, or here.
    """

    def __init__(self, section: TrainSection, parts: Path) -> None:
        from training.reference_model import ReferenceModel

        self._parts = parts
        self._model = ReferenceModel(section, parts if section.store_features else None)

    def __call__(self, chunk: Chunk) -> None:
        """Writes the part of one chunk.

        Raises:
            UserError: Data or a model that cannot be used.
        """
        what, split, index = chunk
        part = _part(self._parts, chunk)
        try:
            if what == FEATURES:
                self._model.write_images(split, index * FILE_IMAGES, FILE_IMAGES, part)
            else:
                self._model.write_chunk(split, index * CHUNK_PAIRS, CHUNK_PAIRS, part)
        except ValueError as error:  # of data or model: one line for the user
            raise UserError(str(error)) from error


def make_reference(plan: Plan) -> dict[str, Any]:
    """Makes the table of a recipe's model and data in `out`, unless it is there; returns what
    DONE.json says.

    Raises:
        UserError: Something that the user can mend.
    """
    section, out = plan.section, plan.out
    check_base(section)
    name = _name(section)
    with only_one(out, "out"):
        done = read_json(out / REFERENCE_DONE) if (out / REFERENCE_DONE).is_file() else {}
        if done.get("made_by") == name:
            say(f"{out}: the reference of this model on this data is there; nothing to do")
            return dict(done)
        (out / REFERENCE_DONE).unlink(missing_ok=True)
        parts, started_s = out / REFERENCE_PARTS / name, time.monotonic()
        parts.mkdir(parents=True, exist_ok=True)
        chunks = [
            (split, index)
            for split, num in plan.num_pairs.items()
            for index in range(-(-num // CHUNK_PAIRS))
        ]
        total = sum(plan.num_pairs.values())
        # Features first: the numbers are then made from them.
        kinds = (FEATURES, NUMBERS) if section.store_features else (NUMBERS,)
        rounds = [
            [(kind, *chunk) for chunk in chunks if not _is_there(parts, (kind, *chunk))]
            for kind in kinds
        ]
        workers = section.workers
        pool = Pool(workers.num_workers, workers.cpus_per_worker, workers.use_gpu)
        with ray_session() if workers.num_workers and any(rounds) else nullcontext():
            for kind, left in zip(kinds, rounds, strict=True):
                with Progress("reference" if kind == NUMBERS else kind, total, "pairs") as progress:
                    progress.advance(total - sum(_num_pairs(plan, chunk) for chunk in left))
                    for chunk, _ in pool.map(ReferenceWriter, left, (section, parts)):
                        progress.advance(_num_pairs(plan, chunk))
        from training.data.reference_table import join_parts

        done = join_parts(out, parts, chunks, made_by=name)
        shutil.rmtree(out / REFERENCE_PARTS)
        and_features = " and the features of their images" if section.store_features else ""
        for split, counts in done["left_out"].items():
            if counts:
                say(f"left out of {split}: {words(counts)}")
        num_used = sum(done["num_rows"].values())
        say(
            f"{out}: six numbers of each of {num_used:,} pairs{and_features} in"
            f" {time.monotonic() - started_s:.1f} s; train with reference={out}"
        )
        return done


def _name(section: TrainSection) -> str:
    """Names a table by what its numbers depend on."""
    from training.trainer.policy import arithmetic

    types = arithmetic(section)
    facts = {
        "model": section.model,
        "weights": base_sha256(section),
        "data": data_sha256(section),
        "use": section.train.model_dump(),
        "max_length_tokens": section.max_length_tokens,
        **({"store_features": True} if section.store_features else {}),
        **({"arithmetic": types} if types != "float32" else {}),
    }
    return fingerprint(facts)[:16]


def _part(parts: Path, chunk: Chunk) -> Path:
    what, split, index = chunk
    return (feature_part if what == FEATURES else reference_part)(parts, split, index)


def _is_there(parts: Path, chunk: Chunk) -> bool:
    """Whether a chunk is made and not broken; features are checked when they are read."""
    path = _part(parts, chunk)
    if not path.is_file() or chunk[0] == FEATURES:
        return path.is_file()
    from training.data.reference_table import is_whole

    if not is_whole(path):
        say(f"{path}: cannot be read; its pairs are computed again")
        return False
    return True


def _num_pairs(plan: Plan, chunk: Chunk) -> int:
    _, split, index = chunk
    return min(CHUNK_PAIRS, plan.num_pairs[split] - index * CHUNK_PAIRS)


def print_plan(plan: Plan) -> None:
    """What a job would do, without doing it."""
    rows = [
        ["model", plan.section.model],
        *map(list, check_base(plan.section, only_planned=True).items()),
        ["data", plan.section.data],
        ["pairs", f"{sum(plan.num_pairs.values()):,}"],
        ["out", str(plan.out)],
    ]
    if plan.section.store_features:
        rows.append(["features on disk", f"{_features_bytes(plan.section) / 1e6:,.3g} MB"])
    summary_table("Plan", ["what", "value"], rows)


def _features_bytes(section: TrainSection) -> float:
    from training.estimate.data_size import size_of_data
    from training.estimate.known_models import find_shape
    from training.estimate.memory import feature_bytes

    shape, _ = find_shape(section.model, section.tiny)
    return feature_bytes(shape, size_of_data(section.data, section.model, shape), section)


run = recipe_command(
    TrainSection,
    "svco_tiny",
    "Compute the reference model's log-probabilities of an MVC folder once.",
    work=lambda section: make_reference(plan_reference(section)),
    show_plan=lambda section: print_plan(plan_reference(section)),
)

if __name__ == "__main__":
    run_command(run)
