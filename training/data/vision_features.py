"""What the frozen vision tower sees in each image of a split: kept if it fits, else made anew.

Shapes: P pairs, S sides, I images, N features of an image, A features of all images, V their width.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.chunk_sizes import CHUNK_IMAGES
from training.data.feature_store import FeatureStore
from training.data.pairs import PairReader
from training.data.prefetch import prefetched
from training.models.families import Images, parameters_of
from training.models.logps import vision_features
from training.models.packing import Ints
from training.models.vlm import Vlm, pixel_values
from training.runtime.environment import LocalEnv

REDUCED_ROWS = 2**19  # features that workers add up at a time


def freeze_unseen(vlm: Vlm) -> None:
    """Freezes what of the vision tower plays no part in the features, such as its last layers.

    Such parameters never get a gradient, so weight decay alone would act on them and shrink them
    away.
    """
    parameters = [p for p in parameters_of(vlm.model, "vision tower") if p.requires_grad]
    (features_NV,) = vision_features(vlm.model, pixel_values(vlm, [Image.new("RGB", (64, 64))]))
    gradients = torch.autograd.grad(features_NV.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


class VisionFeatures:
    """Features of the images of one split. `get` gives those of some pairs' two sides.

    Args:
        frozen: Whether the tower is a constant; if not, every call runs it, with gradients.
        max_cache_bytes: Room for the features of all images; if they need more, none are kept.
        stored: Features on disk, which spare a frozen tower all work; those that are not kept are
            read when needed.
        pairs: Those that will be asked for; None: all.
    """

    def __init__(
        self,
        reader: PairReader,
        vlm: Vlm,
        env: LocalEnv,
        *,
        frozen: bool,
        max_cache_bytes: float,
        stored: FeatureStore | None = None,
        pairs: Ints | None = None,
    ) -> None:
        self._reader, self._vlm, self._env, self._frozen = reader, vlm, env, frozen
        # where each image's features end, and start, among those of all
        self._ends_I: Ints = np.cumsum(reader.num_image_tokens_I)
        self._starts_I = self._ends_I - reader.num_image_tokens_I
        self._stored = stored if frozen else None
        self._kept_AV: Tensor | None = None
        self._made_I = np.zeros(reader.num_images, bool)
        if frozen and max_cache_bytes > 0:
            (first_NV,) = (
                self._stored.read([0])
                if self._stored
                else self._see(reader.pixels(np.arange(1), keep=False))
            )
            if first_NV[0].nbytes * int(self._ends_I[-1]) <= max_cache_bytes:
                used = np.arange(len(reader)) if pairs is None else np.append(pairs, 0)
                images_I = self._images(used, (0, 1))  # pair 0 stands in where a pass has none
                self._kept_AV = self._make(images_I, first_NV)

    @property
    def kept(self) -> bool:
        """Whether the tower has done its work for good."""
        return self._kept_AV is not None or self._stored is not None

    def load(self, pairs: Ints, sides: Sequence[int] = (0, 1)) -> Images | None:
        """What `get` will need for some pairs: pixels, or features from the disk.

        None where they are kept. Runs no model.

        Raises:
            MvcError: An image does not decode; the message names its pair.
            UserError: Stored features cannot be read.
        """
        if self._kept_AV is not None:
            return None
        images_I = self._images(pairs, sides)
        return self._stored.read(images_I) if self._stored else self._reader.pixels(images_I)

    def _images(self, pairs: Ints, sides: Sequence[int]) -> Ints:
        """Each image of some pairs once, even if several share it."""
        return np.unique(self._reader.images_P2[pairs][:, list(sides)])

    def get(
        self, pairs: Ints, sides: Sequence[int] = (0, 1), loaded: Images | None = None
    ) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """The features of image a and of image b of each pair, [N, V] each.

        None for a side that is not among `sides`.

        Args:
            loaded: What `load` gave for the same pairs and sides, if it was asked before.
        """
        images_P2, images_I = self._reader.images_P2[pairs], self._images(pairs, sides)
        loaded = self.load(pairs, sides) if loaded is None else loaded
        made = dict(zip(images_I.tolist(), self._features(images_I, loaded), strict=True))
        features_a, features_b = (
            [made[n] for n in images_P2[:, side].tolist()] if side in sides else None
            for side in (0, 1)
        )
        return features_a, features_b

    def _features(self, images: Ints, loaded: Images | None) -> Images:
        if loaded is not None and not self._stored:
            return self._see(loaded)
        if self._kept_AV is not None:
            assert self._made_I[images].all(), "features of pairs that were not announced"
            places = zip(self._starts_I[images], self._ends_I[images], strict=True)
            loaded = [self._kept_AV[start:end] for start, end in places]
        assert loaded is not None
        return [image_NV.to(self._env.device, non_blocking=True) for image_NV in loaded]

    def _see(self, pixels: Images) -> Images:
        if not self._frozen:
            return vision_features(self._vlm.model, pixels)
        # Outside autocast, in the type of its weights: so features that are kept, stored or made
        # anew are the same, wherever they are made.
        device_type = torch.device(self._env.device).type
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            return vision_features(self._vlm.model, pixels)

    def _make(self, images_I: Ints, like_NV: Tensor) -> Tensor:
        """Images once over all workers, in chunks that depend on no number of workers or images.

        Whole chunks, so that numbers are the same in every bit whichever of their images is needed.
        """
        num_images = self._reader.num_images
        kept_AV = torch.zeros((int(self._ends_I[-1]), like_NV.shape[1]), dtype=like_NV.dtype)
        every = np.split(np.arange(num_images), range(CHUNK_IMAGES, num_images, CHUNK_IMAGES))
        chunks = [every[number] for number in np.unique(images_I // CHUNK_IMAGES)]
        self._made_I[np.concatenate(chunks)] = True
        if self._stored:  # which every worker reads for itself
            for chunk in chunks:
                kept_AV[self._starts_I[chunk[0]] : self._ends_I[chunk[-1]]] = torch.cat(
                    self._stored.read(chunk)
                )
            return kept_AV
        with (
            self._env.progress(
                f"images, {self._reader.split}", int(self._made_I.sum()), "images"
            ) as progress,
            prefetched(
                chunks[self._env.rank :: self._env.world_size],
                functools.partial(self._reader.pixels, keep=False),
            ) as ahead,
        ):
            for index, chunk in enumerate(chunks):
                if index % self._env.world_size == self._env.rank:
                    kept_AV[self._starts_I[chunk[0]] : self._ends_I[chunk[-1]]] = torch.cat(
                        list(self._see(next(ahead)))
                    )
                progress.advance(len(chunk))
        for part_NV in kept_AV.split(REDUCED_ROWS):
            self._env.all_reduce(part_NV)
        return kept_AV
