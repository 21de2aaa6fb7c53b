"""The log-probabilities of a split's pairs, a few in a pass, over any number of workers.

Shapes: N pairs in a split, P in a pass.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.config import TrainSection
from training.data.pairs import PairReader
from training.data.prefetch import prefetched
from training.data.vision_features import VisionFeatures
from training.models.families import Images
from training.models.packing import Ints, Packed
from training.objectives.losses import Scores
from training.objectives.terms import ALL_CELLS, Cell, sides_of
from training.runtime.environment import LocalEnv
from training.trainer.policy import TrainablePolicy


@dataclass
class Split:
    """The pairs of one split, their vision features and the reference's log-probabilities.

    The last once they are made.
    """

    reader: PairReader
    features: VisionFeatures
    reference_N32: Tensor


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Some pairs as a pass takes them, not yet on the device.

    One row, and what `VisionFeatures.load` gave for them.
    """

    pairs: Ints  # may be none; then the row is that of pair 0
    asked: Ints
    packed: Packed
    images: Images | None

    @property
    def num_tokens(self) -> int:
        """Length of the row; 0 where it is there only for the other workers' sake."""
        return len(self.packed.ids_L) if len(self.pairs) else 0


class Scorer:
    """Runs the policy on pairs of a split."""

    def __init__(self, section: TrainSection, trained: TrainablePolicy, env: LocalEnv) -> None:
        self._trained, self._env = trained, env
        self._size = section.optim.micro_batch_pairs
        self._autocast = section.train.precision == "bfloat16"

    def passes(self, split: Split, pairs: Ints, num_passes: int | None = None) -> Iterator[Ints]:
        """Some pairs in passes of like lengths: groups of one shape share a kernel call.

        Args:
            num_passes: How many to make at least. Sharded weights are gathered by all workers
                together, so a worker with fewer pairs makes passes without any.
        """
        order = pairs[np.argsort(split.reader.lengths[pairs], kind="stable")]
        chunks = [order[start : start + self._size] for start in range(0, len(order), self._size)]
        yield from chunks
        for _ in range(len(chunks), num_passes or 0):
            yield order[:0]

    def num_passes(self, num_pairs: int) -> int:
        """Passes that the worker with most pairs makes, of pairs dealt out over the workers."""
        return math.ceil(math.ceil(num_pairs / self._env.world_size) / self._size)

    def autocast(self) -> torch.autocast:
        """The precision that the recipe computes in, while the body runs."""
        return torch.autocast(
            self._env.device.split(":")[0], torch.bfloat16, enabled=self._autocast
        )

    def prefetch(
        self, split: Split, passes: Iterable[Ints], cells: frozenset[Cell] = ALL_CELLS
    ) -> AbstractContextManager[Iterator[PackedBatch]]:
        """What `run` takes for some passes, loaded while the one before runs."""
        return prefetched(passes, lambda pairs: self.load(split, pairs, cells))

    @staticmethod
    def load(split: Split, pairs: Ints, cells: frozenset[Cell] = ALL_CELLS) -> PackedBatch:
        """All that a pass needs besides the model, which is not run: a thread of its own may do it.

        Raises:
            MvcError: A pair that cannot be packed, or an image that does not decode, with its
                pair_id.
        """
        asked = pairs if len(pairs) else np.zeros(1, np.int64)
        return PackedBatch(
            pairs,
            asked,
            split.reader.packed(asked, cells),
            split.features.load(asked, sides_of(cells)),
        )

    def run(self, split: Split, loaded: PackedBatch) -> Scores:
        """The policy's scores of some pairs, differentiable; of no pairs those of pair 0.

        NaN in what is not among their cells.
        """
        packed, asked = loaded.packed.to(self._env.device), loaded.asked
        with self.autocast():
            features = split.features.get(asked, sides_of(packed.cells), loaded.images)
            logps_P32 = self._trained.policy(packed, *features)
        reference_P32 = (
            split.reference_N32[torch.from_numpy(asked)].to(logps_P32.device)
            if len(split.reference_N32)
            else logps_P32.detach()
        )
        return Scores(
            D_P32=logps_P32 - reference_P32, logps_P32=logps_P32, num_tokens_P2=packed.num_tokens_P2
        )

    @torch.no_grad()
    def table(self, split: Split, title: str = "", cells: frozenset[Cell] = ALL_CELLS) -> Tensor:
        """The log-probabilities of every pair under the model as it is now, [N, 3, 2].

        Without a title nothing is shown.
        """
        table_N32 = torch.zeros(len(split.reader), 3, 2, device=self._env.device)
        num_pairs, world_size = len(split.reader), self._env.world_size
        chunks = list(self.passes(split, np.arange(num_pairs)))
        mine = chunks[self._env.rank :: world_size]
        # weights are gathered by all workers together, also by one without pairs
        if self._trained.sharded:
            mine += [chunks[0][:0]] * (math.ceil(len(chunks) / world_size) - len(mine))
        with (
            self._env.progress(title, num_pairs, "pairs") as progress,
            self.prefetch(split, mine, cells) as ahead,
        ):
            for index, loaded in enumerate(ahead):
                logps_P32 = self.run(split, loaded).logps_P32
                if len(loaded.pairs):
                    table_N32[torch.from_numpy(loaded.pairs)] = logps_P32.float()
                progress.advance(
                    sum(map(len, chunks[index * world_size : (index + 1) * world_size]))
                )
        self._env.all_reduce(table_N32)
        return table_N32
