"""The reference model over chunks of a split's pairs; knows nothing of Ray."""

import functools
from pathlib import Path

import numpy as np
import torch

from training.chunk_sizes import CHUNK_IMAGES
from training.config import TrainSection
from training.data.feature_store import FeatureStore, write_features
from training.data.pairs import PairReader
from training.data.prefetch import prefetched
from training.data.reference_table import feature_facts, reference_facts, write_part
from training.data.vision_features import VisionFeatures
from training.models.families import Images
from training.models.logps import vision_features
from training.models.packing import Ints
from training.run_plan import base_sha256
from training.runtime.environment import LocalEnv
from training.trainer.policy import arithmetic, build_reference
from training.trainer.scoring import Scorer, Split


class ReferenceModel:
    """The model of a recipe as training starts from it, and the pairs that it is asked about.

    Args:
        features: Where stored vision features lie, once all of them do; None if none are stored.
    """

    def __init__(self, section: TrainSection, features: Path | None) -> None:
        self._env = LocalEnv(device="cuda" if section.workers.use_gpu else "cpu")
        self._section = section
        self._trained = build_reference(section, self._env.device)
        self._scorer = Scorer(self._section, self._trained, self._env)
        self._features = features
        self._reader = functools.cache(self._read)
        self._split = functools.cache(self._open)
        model = base_sha256(section) or section.model
        self._facts = reference_facts(model, self._trained.vlm, arithmetic(section))
        self._feature_facts = feature_facts(model, self._trained.vlm, section.train.weights)

    @torch.no_grad()
    def write_images(self, split: str, start: int, num_images: int, path: Path) -> None:
        """Writes the vision features of some distinct images of a split, as far as there are any.

        Raises:
            MvcError: An image that does not decode.
        """
        reader = self._reader(split)
        # The batches that training would make, so that the numbers are the same in every bit.
        images = np.arange(start, min(start + num_images, reader.num_images))
        batches = [images[at : at + CHUNK_IMAGES] for at in range(0, len(images), CHUNK_IMAGES)]

        def load(images: Ints) -> tuple[list[str], Images]:
            return [reader.image_hashes[number] for number in images], reader.pixels(
                images, keep=False
            )

        with prefetched(batches, load) as ahead:
            made = (
                (hashes, list(vision_features(self._trained.vlm.model, pixels)))
                for hashes, pixels in ahead
            )
            write_features(path, made, self._feature_facts)

    def write_chunk(self, split: str, start: int, num_pairs: int, path: Path) -> None:
        """Writes the numbers of the pairs `start` .. `start + num_pairs`, as far as there are any.

        Raises:
            MvcError: A pair that cannot become tokens, or an image that does not decode.
        """
        held = self._split(split)
        pairs = np.arange(start, min(start + num_pairs, len(held.reader)))
        logps_P32 = torch.zeros(len(pairs), 3, 2)
        for some, numbers_P32 in self._scorer.in_chunks(held, pairs) if len(pairs) else ():
            logps_P32[torch.from_numpy(some - start)] = numbers_P32.cpu()
        write_part(path, held.reader, pairs, logps_P32, self._facts)

    def _open(self, split: str) -> Split:
        reader = self._reader(split)
        features = VisionFeatures(
            reader,
            self._trained.vlm,
            self._env,
            frozen=True,
            max_cache_bytes=0,  # a chunk needs the features of its own images only
            stored=(
                None
                if self._features is None
                else FeatureStore(self._features, reader, self._feature_facts)
            ),
        )
        return Split(reader, features, torch.empty(0))

    def _read(self, split: str) -> PairReader:
        return PairReader(
            self._section.data,
            split,
            self._trained.vlm,
            max_length_tokens=self._section.max_length_tokens,
        )
