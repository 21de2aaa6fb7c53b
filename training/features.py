"""What the frozen vision tower sees in each image of a split: made once and kept if it fits, else made when needed.

Shapes: P pairs, I images, N features per image, V their width.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.data import PairReader
from training.env import Env
from training.logps import vision_features
from training.packing import Ints
from training.vlm import Vlm, pixel_values

CHUNK_IMAGES = 64


def freeze_unseen(vlm: Vlm) -> None:
    """Freezes what of the vision tower plays no part in the features, such as the layers behind the chosen one.

    Such parameters never get a gradient, so weight decay alone would act on them and shrink them away.
    """
    parameters = [p for p in vlm.model.model.vision_tower.parameters() if p.requires_grad]
    pixels_1 = pixel_values(vlm, [Image.new("RGB", (64, 64))]).to(vlm.model.device, vlm.model.dtype)
    gradients = torch.autograd.grad(vision_features(vlm.model, pixels_1).sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


class VisionFeatures:
    """Features of the images of one split. `get` gives those of some pairs' two sides.

    Args:
        frozen: Whether the tower is a constant; if not, every call runs it, with gradients.
        max_cache_bytes: Room for the features of all images; if they need more, none are kept.
    """

    def __init__(self, reader: PairReader, vlm: Vlm, env: Env, *, frozen: bool, max_cache_bytes: float) -> None:
        self._reader, self._vlm, self._env, self._frozen = reader, vlm, env, frozen
        self._kept_INV: Tensor | None = None
        if frozen and max_cache_bytes > 0:
            first_INV = self._make(np.arange(1), keep_pixels=False)
            if first_INV.nbytes * reader.num_images <= max_cache_bytes:
                self._kept_INV = self._make_all(first_INV)

    @property
    def kept(self) -> bool:
        """Whether the tower has done its work for good."""
        return self._kept_INV is not None

    def get(self, pairs: Ints) -> tuple[Tensor, Tensor]:
        """The features of image a and of image b of each pair, [P, N, V] each."""
        images_P2 = self._reader.images_P2[pairs]
        if self._kept_INV is not None:
            a_PNV, b_PNV = (self._kept_INV[torch.from_numpy(images_P)] for images_P in images_P2.T)
            return a_PNV.to(self._env.device, non_blocking=True), b_PNV.to(self._env.device, non_blocking=True)
        images_I, places = np.unique(images_P2, return_inverse=True)  # each image once, even if several pairs share it
        made_INV = self._make(images_I)
        places_P2 = torch.from_numpy(places.reshape(-1, 2)).to(made_INV.device)
        return made_INV[places_P2[:, 0]], made_INV[places_P2[:, 1]]

    def _make(self, images: Ints, *, keep_pixels: bool = True) -> Tensor:
        pixels_I3HW = self._reader.pixels(images, keep=keep_pixels).to(self._env.device, self._vlm.model.dtype, non_blocking=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            return vision_features(self._vlm.model, pixels_I3HW)

    def _make_all(self, like_INV: Tensor) -> Tensor:
        """Every image once over all workers, in fixed chunks, so that the result does not depend on their number."""
        kept_INV = torch.zeros((self._reader.num_images, *like_INV.shape[1:]), dtype=like_INV.dtype)
        chunks = torch.arange(len(kept_INV)).split(CHUNK_IMAGES)
        with self._env.progress(f"images, {self._reader.split}", len(kept_INV), "images") as progress:
            for index, chunk in enumerate(chunks):
                if index % self._env.world_size == self._env.rank:
                    kept_INV[chunk] = self._make(chunk.numpy(), keep_pixels=False).cpu()
                progress.advance(len(chunk))
        for part_INV in kept_INV.split(16 * CHUNK_IMAGES):
            self._env.all_reduce(part_INV)
        return kept_INV
