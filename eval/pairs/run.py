"""From the pairs of a split to what each model makes of them, each chunk kept when it is ready.

Knows no Ray: it is given a way to have chunks worked on.
"""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa

from eval.config import EvalSection
from eval.generation.cache import open_answers
from eval.generation.generator import decoding
from eval.inputs import EvaluatedModel, Role
from eval.outputs import scoring_fingerprint
from eval.pairs.scorer import (
    NEEDED_COLUMNS,
    SCORE_SCHEMA,
    Chunk,
    PairScorer,
    Place,
    answer_keys,
    with_answers,
)
from pipeline.core.progress import Progress, say
from pipeline.core.ray_pool import MapItems
from pipeline.core.schema import MvcError
from pipeline.core.storage import open_stage, read_table, write_table
from training.models.unusable import LeftOut, UnusablePairError, words


def score_models(
    items: pa.Table,
    models: Mapping[Role, EvaluatedModel],
    section: EvalSection,
    data_sha256: str,
    map_items: MapItems,
) -> dict[Role, pa.Table]:
    """One row per pair under each model: log-probabilities, and answers unless they are off.

    Chunks and answers that an earlier run made are read, not made again.

    Raises:
        UserError: A model that is not supported.
    """
    size, num_pairs = section.pairs_per_chunk, items.num_rows
    needed = items.select(NEEDED_COLUMNS)
    chunks = [needed.slice(start, size) for start in range(0, num_pairs, size)]
    parts: dict[Place, Path] = {}
    keys: dict[Place, list[str]] = {}
    settings = decoding(section, section.generate.max_new_tokens)
    for role, model in models.items():
        name = scoring_fingerprint(section, model.weights, data_sha256)
        stage = open_stage(Path(section.out) / ".work", "scores", name)
        for index, pairs in enumerate(chunks):
            parts[role, index] = stage.part("chunk", index)
            keys[role, index] = (
                answer_keys(pairs, model.weights, settings) if section.generate.enabled else []
            )
    with (
        open_answers(section.answers.cache) if section.generate.enabled else nullcontext() as store
    ):
        answers = store.get(key for of_chunk in keys.values() for key in of_chunk) if store else {}
        missing = missing_chunks(chunks, models, parts, keys, answers)
        if missing:
            total = num_pairs * len(models)
            with Progress("score", total, "pairs") as progress:
                progress.advance(total - sum(chunk.pairs.num_rows for chunk in missing))
                for chunk, (scores, made) in map_items(PairScorer, missing, (section,)):
                    if scores is not None:
                        write_table(parts[chunk.place], scores)
                    if store:
                        store.put(made.items())
                    answers |= made
                    progress.advance(chunk.pairs.num_rows, model=chunk.place[0])
    tables = {
        place: with_answers(read_table(part, SCORE_SCHEMA.names), keys[place], answers)
        for place, part in parts.items()
    }
    return {
        role: pa.concat_tables([tables[role, index] for index in range(len(chunks))])
        for role in models
    }


def missing_chunks(
    chunks: Sequence[pa.Table],
    models: Mapping[Role, EvaluatedModel],
    parts: Mapping[Place, Path],
    keys: Mapping[Place, Sequence[str]],
    kept: Container[str],
) -> list[Chunk]:
    """What is still to be made, once where both models are the same and share files and keys.

    Args:
        parts: The file of each chunk's scores.
        keys: Of each chunk's answers, as `answer_keys` gives them.
        kept: The keys of answers that an earlier run made.
    """
    unscored = {part: place for place, part in parts.items() if not part.is_file()}
    sides = {
        key: (place, side)
        for place, of_chunk in keys.items()
        for side, key in enumerate(of_chunk)
        if key not in kept
    }
    unanswered: dict[Place, dict[str, int]] = defaultdict(dict)
    for key, (place, side) in sides.items():
        unanswered[place][key] = side
    places = {*unscored.values(), *unanswered}
    return [
        Chunk(
            place,
            models[place[0]].folder,
            # a copy: a slice would travel with the whole table
            chunks[place[1]].take(np.arange(chunks[place[1]].num_rows)),
            is_scored=place not in unscored.values(),
            unanswered=unanswered[place],
        )
        for place in parts
        if place in places
    ]


def without_left_out(
    items: pa.Table, results: Mapping[Role, pa.Table]
) -> tuple[pa.Table, dict[Role, pa.Table], LeftOut]:
    """The pairs that every model can take, what each made of them, and the others.

    Raises:
        MvcError: No pair is left.
    """
    left_out, kept = LeftOut(), list[int]()
    names = ["left_out", "left_out_because"]
    reasons = [rows.select(names).to_pylist() for rows in results.values()]
    for row, (pair_id, of_models) in enumerate(
        zip(items["pair_id"].to_pylist(), zip(*reasons, strict=True), strict=True)
    ):
        first = next((reason for reason in of_models if reason["left_out"]), None)
        if first is None:
            kept.append(row)
        else:
            left_out.add(pair_id, UnusablePairError(first["left_out"], first["left_out_because"]))
    if not kept:
        raise MvcError(
            f"none of {items.num_rows} pairs can be scored ({words(left_out.counts)}); the first is"
            f" {left_out.first()[0]}; mend them, or build the data again without them"
        )
    for line in left_out.first():
        say(f"left out: {line}")
    if not left_out.counts:
        return items, dict(results), left_out
    return items.take(kept), {role: rows.take(kept) for role, rows in results.items()}, left_out
