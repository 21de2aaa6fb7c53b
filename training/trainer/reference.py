"""The reference's numbers for a run: read from where they are, made where they are missing.

Before training the policy is the reference, and its numbers never change again, so no second model
is needed.

Shapes: N pairs in a split.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.core.recipe import UserError
from training.config import TrainSection
from training.data.pairs import PairReader
from training.data.reference_chunks import ReferenceChunks, shared_folder
from training.data.reference_table import read_reference, reference_facts
from training.models.packing import Ints
from training.objectives.terms import Cell
from training.run_plan import base_sha256
from training.runtime.environment import LocalEnv
from training.trainer.checkpoint import run_folder
from training.trainer.policy import TrainablePolicy, arithmetic
from training.trainer.scoring import Scorer, Split
from training.trainer.step import name_not_finite

CHUNK_PAIRS = 64  # about as many are computed again after a kill
VERSION = "3"  # raise when the same model and pairs would give other numbers


class Reference:
    """Fills the reference's numbers of a run's splits before the first step.

    Args:
        base: A hash of the weights that training starts from, where they are in a folder.
    """

    def __init__(
        self,
        section: TrainSection,
        base: str | None,
        trained: TrainablePolicy,
        scorer: Scorer,
        env: LocalEnv,
    ) -> None:
        self._section, self._base = section, base
        self._trained, self._scorer, self._env = trained, scorer, env

    def fill(self, name: str, split: Split, pairs: Ints, cells: frozenset[Cell]) -> Tensor:
        """The numbers of some pairs in some cells, [N, 3, 2]; others may be NaN.

        Of the recipe's table if it names one. Else of the chunks that this run, or another on the
        same model, has left, and what is missing is computed; a killed run loses one chunk.

        Raises:
            UserError: A table of something else, or a model whose numbers are not finite.
        """
        section, reader, env = self._section, split.reader, self._env
        if section.reference is not None:
            facts = reference_facts(
                self._base or section.model, self._trained.vlm, arithmetic(section)
            )
            return read_reference(Path(section.reference), reader, facts).to(env.device)
        if not cells:  # the objective compares with no reference
            return torch.full((len(reader), 3, 2), torch.nan, device=env.device)
        chunks = self._chunks(name) if env.rank == 0 else None  # the others may see other disks
        known_N32 = chunks.read(reader) if chunks else torch.zeros(len(reader), 3, 2)
        env.all_reduce(known_N32)
        table_N32 = known_N32.to(env.device)
        missing = _missing(table_N32, pairs, cells)
        num_missing = sum(map(len, missing.values()))
        if num_missing < len(pairs):
            env.say(
                f"reference, {name}: {len(pairs) - num_missing:,} of {len(pairs):,} pairs known"
            )
        with env.progress(f"reference, {name}" * bool(missing), num_missing, "pairs") as progress:
            for wanted, some in missing.items():
                for made, logps_P32 in self._scorer.in_chunks(split, some, wanted, CHUNK_PAIRS):
                    at = torch.from_numpy(made)
                    there_P32 = table_N32[at]
                    table_N32[at] = torch.where(there_P32.isnan(), logps_P32, there_P32)
                    if chunks:
                        chunks.write(reader, made, logps_P32)
                    progress.advance(len(made))
        _stop_if_broken(section, table_N32[torch.from_numpy(pairs)], reader, pairs, cells)
        if chunks:
            chunks.keep(reader, pairs, table_N32[torch.from_numpy(pairs)])
        return table_N32

    def _chunks(self, name: str) -> ReferenceChunks:
        section, vlm = self._section, self._trained.vlm
        weights = self._weights()
        facts = reference_facts(weights or section.model, vlm, arithmetic(section)) | {
            "device": self._env.device.partition(":")[0],
            "version": VERSION,
        }
        return ReferenceChunks(
            run_folder(section.out) / f"reference-{name}",
            shared_folder(facts) if weights else None,
            facts,
            self._env.say,
        )

    def _weights(self) -> str | None:
        """What names the weights whatever happens to their place; None if nothing does."""
        if self._base is not None:
            return self._base
        if self._section.model == "tiny":
            made = self._section.model_copy(update={"model": self._section.base_model})
            return base_sha256(made)
        commit = getattr(self._trained.vlm.model.config, "_commit_hash", None)
        return f"{self._section.model}@{commit}" if commit else None


def _missing(table_N32: Tensor, pairs: Ints, cells: frozenset[Cell]) -> dict[frozenset[Cell], Ints]:
    """Of which pairs which cells are still to be computed: pairs by the cells that they lack."""
    lacking = defaultdict[frozenset[Cell], list[int]](list)
    unknown = table_N32.isnan().cpu()
    for pair in pairs.tolist():
        lacking[frozenset(cell for cell in cells if unknown[pair, *cell])].append(pair)
    return {
        wanted: np.array(some, np.int64)
        for wanted, some in sorted(lacking.items(), key=lambda item: sorted(item[0]))
        if wanted
    }


def _stop_if_broken(
    section: TrainSection,
    logps_P32: Tensor,
    reader: PairReader,
    pairs: Ints,
    cells: frozenset[Cell],
) -> None:
    sums_P = torch.stack([logps_P32[:, *cell] for cell in sorted(cells)]).sum(dim=0)
    bad = name_not_finite(sums_P, [reader.pair_ids[pair] for pair in pairs])
    if bad:
        raise UserError(
            f"model={section.model}: the base model's own log-probabilities of {bad} are not"
            " finite, before any training; its weights, or precision, do not work on these pairs,"
            " so choose another base"
        )
