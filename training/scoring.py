"""The log-probabilities of the pairs of a split, in passes of a few pairs, over any number of workers.

Shapes: N pairs in a split, P in a pass.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.config import TrainSection
from training.data import PairReader
from training.env import Env
from training.features import VisionFeatures
from training.objectives import IMAGE_A, IMAGE_B, Scores
from training.packing import Ints
from training.policy import Trained
from training.terms import ALL_CELLS, Cell


@dataclass
class Split:
    """The pairs of one split with their vision features and, once made, the reference's log-probabilities."""

    reader: PairReader
    features: VisionFeatures
    reference_N32: Tensor


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass gave: the six numbers of each pair, and what it cost."""

    scores: Scores
    num_tokens: int
    wait_s: float  # for data: packing, features


class Scorer:
    """Runs the policy on pairs of a split."""

    def __init__(self, section: TrainSection, trained: Trained, env: Env) -> None:
        self._trained, self._env = trained, env
        self._size = section.optim.micro_batch_pairs
        self._autocast = section.train.precision == "bfloat16"

    def passes(self, split: Split, pairs: Ints, num_passes: int | None = None) -> Iterator[Ints]:
        """Some pairs in passes of like lengths: groups of one shape share a kernel call.

        Args:
            num_passes: How many to make at least. Sharded weights are gathered by all workers together, so a worker
                with fewer pairs makes passes without any.
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
        return torch.autocast(self._env.device.split(":")[0], torch.bfloat16, enabled=self._autocast)

    def run(self, split: Split, pairs: Ints, cells: frozenset[Cell] = ALL_CELLS) -> Pass:
        """The policy's scores of some pairs, differentiable; NaN in what is not among `cells`. Of no pairs: those of pair 0."""
        began_s = time.monotonic()
        asked = pairs if len(pairs) else np.zeros(1, np.int64)
        packed = split.reader.packed(asked, cells).to(self._env.device)
        sides = [side for side in (IMAGE_A, IMAGE_B) if any(condition == side for condition, _ in cells)]
        with self.autocast():
            features_a, features_b = split.features.get(asked, sides)
            wait_s = time.monotonic() - began_s
            logps_P32 = self._trained.policy(packed, features_a, features_b)
        reference_P32 = (
            split.reference_N32[torch.from_numpy(asked)].to(logps_P32.device) if len(split.reference_N32) else logps_P32.detach()
        )
        scores = Scores(D_P32=logps_P32 - reference_P32, logps_P32=logps_P32, num_tokens_P2=packed.num_tokens_P2)
        return Pass(scores, len(packed.ids_L), wait_s)

    @torch.no_grad()
    def table(self, split: Split, title: str = "", cells: frozenset[Cell] = ALL_CELLS) -> Tensor:
        """The log-probabilities of every pair under the model as it is now, [N, 3, 2]; without a title nothing is shown."""
        table_N32 = torch.zeros(len(split.reader), 3, 2, device=self._env.device)
        order = np.argsort(split.reader.lengths, kind="stable")
        chunks = [order[start : start + self._size] for start in range(0, len(order), self._size)]
        rounds = math.ceil(len(chunks) / self._env.world_size)
        with self._env.progress(title, len(order), "pairs") as progress:
            for index in range(rounds):
                place = index * self._env.world_size + self._env.rank
                mine = chunks[place] if place < len(chunks) else order[:0]
                if len(mine) or self._trained.sharded:
                    scores = self.run(split, mine, cells).scores
                    if len(mine):
                        table_N32[torch.from_numpy(mine)] = scores.logps_P32.float()
                progress.advance(sum(len(chunk) for chunk in chunks[index * self._env.world_size : (index + 1) * self._env.world_size]))
        self._env.all_reduce(table_N32)
        return table_N32
