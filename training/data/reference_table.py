"""The reference model's log-probabilities of every pair, and what they were made from.

`<folder>/<split>.parquet` has pair_id, digest and the six numbers of each pair;
`<folder>/DONE.json`, written last, the model and its image processing. The digest covers a pair's
exact tokens and images, so a table made with another prompt, another chat template or other answers
is not used by mistake.

Shapes: N pairs in a split.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.core.recipe import UserError
from pipeline.core.storage import read_json, read_table, write_json, write_table
from training.data.pairs import PairReader
from training.models.packing import Ints
from training.models.vlm import Vlm
from training.run_plan import REFERENCE_DONE, feature_parts, reference_part

CELLS = tuple(
    f"logps_{condition}_{response}" for condition in ("a", "b", "none") for response in ("a", "b")
)
# in a chunk's metadata; the last of the whole split
FACTS, CHECKSUM, LEFT_OUT = b"svco_reference", b"svco_sha256", b"svco_left_out"
# what reading a broken chunk raises
PART_ERRORS = (OSError, pa.ArrowException, ValueError, LookupError)


def reference_facts(model_sha256: str, vlm: Vlm, precision: str) -> dict[str, str]:
    """What all rows of a table depend on: weights, image processing, precision of computation.

    Args:
        precision: As `training.trainer.policy.arithmetic` states it.
    """
    processing = json.dumps(vlm.processor.image_processor.to_dict(), sort_keys=True, default=str)
    return {
        "model_sha256": model_sha256,
        "image_processing_sha256": hashlib.sha256(processing.encode()).hexdigest(),
        "precision": precision,
    }


def feature_facts(model_sha256: str, vlm: Vlm, weights: str) -> dict[str, str]:
    """What stored vision features depend on: as `reference_facts`, and the type of the tower."""
    facts = reference_facts(model_sha256, vlm, "")
    return {name: facts[name] for name in ("model_sha256", "image_processing_sha256")} | {
        "features_dtype": weights
    }


def different_facts(expected: Mapping[str, str], made: Mapping[str, Any]) -> str:
    """What of `expected` is otherwise in `made`, for messages; empty if nothing is."""
    return "; ".join(
        f"{name} is {_short(value)}, there {_short(str(made.get(name)))}"
        for name, value in expected.items()
        if made.get(name) != value
    )


def _short(fact: str) -> str:
    return fact if " " in fact else fact[:12]  # hashes are told apart by their beginnings


def write_part(
    path: Path, reader: PairReader, pairs: Ints, logps_P32: Tensor, facts: dict[str, str]
) -> None:
    """Writes the numbers of some pairs, and in the file's metadata what they were made from."""
    numbers_P6 = logps_P32.detach().cpu().to(torch.float32).reshape(-1, len(CELLS)).numpy()
    digests = [reader.digests[pair] for pair in pairs]
    table = pa.table(
        {
            "pair_id": [reader.pair_ids[pair] for pair in pairs],
            "digest": digests,
            **dict(zip(CELLS, numbers_P6.T, strict=True)),
        }
    )
    metadata = {
        FACTS: json.dumps(facts),
        CHECKSUM: _checksum(digests, numbers_P6),
        LEFT_OUT: json.dumps(reader.left_out.counts),
    }
    write_table(path, table.replace_schema_metadata(metadata))


def read_part(path: Path) -> tuple[dict[str, str], list[str], np.ndarray]:
    """What a chunk was made from, the digests of its pairs, and their numbers, [P, 6].

    Raises:
        PART_ERRORS: It is broken.
    """
    table = read_table(path)
    metadata = table.schema.metadata or {}
    digests = table["digest"].to_pylist()
    numbers_P6 = np.stack([table[name].to_numpy() for name in CELLS], axis=1)
    if metadata[CHECKSUM] != _checksum(digests, numbers_P6).encode():
        raise ValueError("its numbers are not those that were written")
    return json.loads(metadata[FACTS]), digests, numbers_P6


def is_whole(path: Path) -> bool:
    """Whether a chunk is there and not broken."""
    try:
        read_part(path)
    except PART_ERRORS:
        return False
    return True


def _checksum(digests: Sequence[str], numbers_P6: np.ndarray) -> str:
    content = json.dumps(digests).encode() + np.ascontiguousarray(numbers_P6).tobytes()
    return hashlib.sha256(content).hexdigest()


def join_parts(
    folder: Path, parts: Path, chunks: Sequence[tuple[str, int]], *, made_by: str
) -> dict[str, Any]:
    """Joins the chunks to one file per split, marks the table complete, returns its DONE.json.

    Files of vision features are moved as they are; those of an earlier table are taken away.

    Raises:
        UserError: Chunks that were made from different things, such as a model that
            changed between two runs.
    """
    num_rows, facts = dict[str, int](), dict[str, str]()
    left_out = dict[str, dict[str, int]]()
    for split in dict.fromkeys(split for split, _ in chunks):
        tables = [
            read_table(reference_part(parts, split, index))
            for name, index in chunks
            if name == split
        ]
        for table in tables:
            made = json.loads(table.schema.metadata[FACTS])
            left_out[split] = json.loads(table.schema.metadata[LEFT_OUT])
            facts = facts or made
            if made != facts:
                raise UserError(
                    f"{parts}: the chunks were made from different models; delete the folder and"
                    " run again"
                )
        joined = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        write_table(folder / f"{split}.parquet", joined)
        num_rows[split] = joined.num_rows
    for path in feature_parts(folder):
        path.unlink()
    moved = [path.replace(folder / path.name) for path in feature_parts(parts)]
    done = {
        **facts,
        "num_rows": num_rows,
        "left_out": left_out,
        "has_features": bool(moved),
        "made_by": made_by,
    }
    write_json(folder / REFERENCE_DONE, done)
    return done


def read_reference(folder: Path, reader: PairReader, facts: dict[str, str]) -> Tensor:
    """The numbers of one split in the reader's order, [N, 3, 2], fp32.

    Raises:
        UserError: Not a complete table, or made from another model, other pairs or other
            prompts.
    """
    made: dict[str, Any] = (
        read_json(folder / REFERENCE_DONE) if (folder / REFERENCE_DONE).is_file() else {}
    )
    if not made:
        raise UserError(
            f"reference={folder}: expected a folder of `svco reference`, found no {REFERENCE_DONE}"
        )
    differences = different_facts(facts, made)
    if differences:
        raise UserError(
            f"reference={folder}: made from something else ({differences}); make it anew with `svco"
            " reference`"
        )
    path = folder / f"{reader.split}.parquet"
    if not path.is_file():
        raise UserError(
            f"reference={folder}: has no split {reader.split!r}; make it anew with `svco reference`"
        )
    table = read_table(path)
    known = {
        row["pair_id"]: (number, row["digest"])
        for number, row in enumerate(table.select(["pair_id", "digest"]).to_pylist())
    }
    missing = [pair_id for pair_id in reader.pair_ids if pair_id not in known]
    changed = [
        p
        for p, digest in zip(reader.pair_ids, reader.digests, strict=True)
        if p in known and known[p][1] != digest
    ]
    for what, pairs in (("are not in it", missing), ("have other tokens or images now", changed)):
        if pairs:
            raise UserError(
                f"reference={folder}: {len(pairs)} of {len(reader)} pairs of {reader.split!r}"
                f" {what} (first {pairs[0]}); make it anew with `svco reference`"
            )
    rows = np.array([known[pair_id][0] for pair_id in reader.pair_ids], np.int64)
    numbers_N6 = np.stack([table[name].to_numpy()[rows] for name in CELLS], axis=1)
    return torch.from_numpy(numbers_N6).view(-1, 3, 2)
