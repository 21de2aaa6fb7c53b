"""The reference model over chunks of a split's pairs; knows nothing of Ray."""

from pathlib import Path

import numpy as np
import torch

from training.config import TrainSection
from training.data import PairReader
from training.env import LocalEnv
from training.features import VisionFeatures
from training.plan import base_sha256
from training.policy import build_policy
from training.reference_table import reference_facts, write_part
from training.scoring import Scorer, Split


class ReferenceModel:
    """The model of a recipe as training starts from it, and the pairs that it is asked about."""

    def __init__(self, section: TrainSection) -> None:
        self._env = LocalEnv(device="cuda" if section.workers.use_gpu else "cpu")
        # What is trained plays no part here, and adapters begin as nothing.
        self._section = section.model_copy(update={"lora": None})
        self._trained = build_policy(self._section, self._env.device, 1)
        self._scorer = Scorer(self._section, self._trained, self._env)
        self._splits: dict[str, Split] = {}
        self._facts = reference_facts(base_sha256(section) or section.model, self._trained.vlm, section.train.precision)

    def write_chunk(self, split: str, start: int, num_pairs: int, path: Path) -> None:
        """Writes the numbers of some pairs of a split, those `start` .. `start + num_pairs`, as far as there are any.

        Raises:
            MvcError: A pair that cannot become tokens, or an image that does not decode.
        """
        held = self._splits.get(split) or self._open(split)
        pairs = np.arange(start, min(start + num_pairs, len(held.reader)))
        logps_P32 = torch.zeros(len(pairs), 3, 2)
        with torch.no_grad(), self._scorer.ahead(held, self._scorer.passes(held, pairs)) as ahead:
            for some in ahead:
                logps_P32[torch.from_numpy(some.pairs - start)] = self._scorer.run(held, some).logps_P32.float().cpu()
        write_part(path, held.reader, pairs, logps_P32, self._facts)

    def _open(self, split: str) -> Split:
        reader = PairReader(self._section.data, split, self._trained.vlm, max_length_tokens=self._section.max_length_tokens)
        # Not kept: a chunk needs the features of its own images only.
        features = VisionFeatures(reader, self._trained.vlm, self._env, frozen=True, max_cache_bytes=0)
        self._splits[split] = Split(reader, features, torch.empty(0))
        return self._splits[split]
