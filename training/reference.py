#!/usr/bin/env python3
"""Computes the reference model's log-probabilities of every pair once, for all runs on the same data: `svco reference`.

A sweep over objectives, betas or learning rates trains against the same numbers, so each run saves the pass. The unit of
resume is a chunk of pairs: a job that is killed goes on with the chunks that are missing.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.job import DryRun, PrintRecipe, ray_session, run_command
from pipeline.progress import Progress, say, summary_table
from pipeline.recipe import RecipeError, fingerprint, load_recipe, resolved_yaml
from pipeline.store import only_one, read_json
from training.config import TrainSection
from training.plan import REFERENCE_DONE, Plan, base_sha256, plan_reference, reference_part

CHUNK_PAIRS = 256
DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "svco_tiny.yaml"


class ReferenceChunks:
    """Holds the model and writes the numbers of one chunk of pairs after the other; an actor of a pool, or here."""

    def __init__(self, recipe: dict[str, Any], parts: str, num_threads: int | None) -> None:
        import torch

        from training.reference_model import ReferenceModel

        if num_threads:
            torch.set_num_threads(num_threads)
        self._model, self._parts = ReferenceModel(TrainSection.model_validate(recipe)), Path(parts)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Takes {"split": [name], "index": [n]}; returns it with {"error": [text]}, empty if the chunk's part was written."""
        split, index = str(batch["split"][0]), int(batch["index"][0])
        try:
            self._model.write_chunk(split, index * CHUNK_PAIRS, CHUNK_PAIRS, reference_part(self._parts, split, index))
        except ValueError as error:  # of data or model: one line for the user, not Ray's trace
            return {**batch, "error": [str(error)]}
        return {**batch, "error": [""]}


def make_reference(plan: Plan) -> dict[str, Any]:
    """Makes the table of a recipe's model and data in `out`, unless it is there; returns what DONE.json says.

    Raises:
        UserError: Something that the user can mend.
    """
    section, out = plan.section, plan.out
    facts = {"model": section.model, "weights": base_sha256(section), "data": plan.data_sha256, "use": section.train.model_dump()}
    name = fingerprint({**facts, "max_length_tokens": section.max_length_tokens})[:16]
    with only_one(out, "out"):
        done = read_json(out / REFERENCE_DONE) if (out / REFERENCE_DONE).is_file() else {}
        if done.get("made_by") == name:
            say(f"{out}: the reference of this model on this data is there; nothing to do")
            return dict(done)
        (out / REFERENCE_DONE).unlink(missing_ok=True)
        parts, started_s = out / ".parts" / name, time.monotonic()
        parts.mkdir(parents=True, exist_ok=True)
        chunks = [(split, index) for split, num in plan.num_pairs.items() for index in range(-(-num // CHUNK_PAIRS))]
        missing = [chunk for chunk in chunks if not reference_part(parts, *chunk).is_file()]
        total = sum(plan.num_pairs.values())
        with Progress("reference", total, "pairs") as progress:
            progress.advance((len(chunks) - len(missing)) * CHUNK_PAIRS if missing else total)
            for split, index in _map(plan, parts, missing) if missing else ():
                progress.advance(min(CHUNK_PAIRS, plan.num_pairs[split] - index * CHUNK_PAIRS))
        from training.reference_table import join_parts

        done = join_parts(out, parts, chunks, made_by=name)
        shutil.rmtree(out / ".parts")
        say(f"{out}: six numbers of each of {total:,} pairs in {time.monotonic() - started_s:.1f} s; train with reference={out}")
        return done


def _map(plan: Plan, parts: Path, chunks: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """Does the chunks, in this process or in a pool of Ray actors; yields each when its part is written."""
    recipe, workers = plan.section.model_dump(mode="json"), plan.section.workers
    if not workers.num_workers:
        here = ReferenceChunks(recipe, str(parts), None)
        for split, index in chunks:
            yield _checked(here({"split": [split], "index": [index]}))
        return
    # Ray limits an actor with part of a CPU to one thread; the pool may use the machine as far as it holds workers.
    num_threads = max(1, (os.cpu_count() or 1) // workers.num_workers)
    with ray_session():
        import ray.data

        items = [{"split": split, "index": index} for split, index in chunks]
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ReferenceChunks,
            fn_constructor_args=(recipe, str(parts), num_threads),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(workers.num_workers, len(items))),
            num_cpus=workers.cpus_per_worker,
            num_gpus=1 if workers.use_gpu else 0,
        )
        for batch in results.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=0):
            yield _checked(batch)


def _checked(batch: dict[str, Any]) -> tuple[str, int]:
    error = str(batch["error"][0])
    if error:
        raise RecipeError(error)
    return str(batch["split"][0]), int(batch["index"][0])


def run(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Overrides: data=DIR out=DIR.")] = None,
    recipe: Annotated[Path, typer.Option(help="The training recipe.")] = DEFAULT_RECIPE,
    print_recipe: PrintRecipe = False,
    dry_run: DryRun = False,
) -> None:
    """Compute the reference model's log-probabilities of an MVC folder once."""
    section = load_recipe(recipe, list(overrides or []), TrainSection)
    if print_recipe:
        print(resolved_yaml(section), end="")
        return
    plan = plan_reference(section)
    if not dry_run:
        make_reference(plan)
        return
    rows = [
        ["model", plan.section.model],
        ["data", plan.section.data],
        ["pairs", f"{sum(plan.num_pairs.values()):,}"],
        ["out", str(plan.out)],
    ]
    summary_table("Plan", ["what", "value"], rows)


def main() -> None:
    """The entry point."""
    run_command(run)


if __name__ == "__main__":
    main()
