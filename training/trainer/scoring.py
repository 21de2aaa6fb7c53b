"""The log-probabilities of a split's pairs, a few in a pass, over any number of workers.

Shapes: N pairs in a split, P in a pass.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
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

    def table(self, split: Split) -> Tensor:
        """The log-probabilities of every pair under the model as it is now, [N, 3, 2]."""
        table_N32 = torch.zeros(len(split.reader), 3, 2, device=self._env.device)
        for pairs, logps_P32 in self.in_chunks(split, np.arange(len(split.reader))):
            table_N32[torch.from_numpy(pairs)] = logps_P32
        return table_N32

    @torch.no_grad()
    def in_chunks(
        self,
        split: Split,
        pairs: Ints,
        cells: frozenset[Cell] = ALL_CELLS,
        chunk_pairs: int | None = None,
    ) -> Iterator[tuple[Ints, Tensor]]:
        """Some pairs, chunk by chunk, with their log-probabilities under the model as it is now.

        All workers get the same, and the passes are the same whatever the size of the chunks.

        Args:
            chunk_pairs: About how many pairs a chunk has; by default it has all. Each worker makes
                some passes in each, so that few wait.
        """
        passes, world_size = list(self.passes(split, pairs)), self._env.world_size
        rounds = max(4, math.ceil((chunk_pairs or len(pairs)) / (self._size * world_size)))
        chunks = [
            passes[start : start + rounds * world_size]
            for start in range(0, len(passes), rounds * world_size)
        ]
        with self.prefetch(split, itertools.chain(*map(self._mine, chunks)), cells) as ahead:
            for chunk in chunks:
                members = np.concatenate(chunk)
                place_of = {int(pair): place for place, pair in enumerate(members)}
                logps_P32 = torch.zeros(len(members), 3, 2, device=self._env.device)
                for loaded in itertools.islice(ahead, len(self._mine(chunk))):
                    numbers_P32 = self.run(split, loaded).logps_P32.float()
                    for pair, numbers_32 in zip(loaded.pairs.tolist(), numbers_P32, strict=False):
                        logps_P32[place_of[pair]] = numbers_32
                self._env.all_reduce(logps_P32)
                yield members, logps_P32

    def _mine(self, chunk: Sequence[Ints]) -> list[Ints]:
        """This worker's passes of a chunk."""
        mine = list(chunk[self._env.rank :: self._env.world_size])
        # weights are gathered by all workers together, also by one without pairs
        if self._trained.sharded:
            mine += [chunk[0][:0]] * (math.ceil(len(chunk) / self._env.world_size) - len(mine))
        return mine
