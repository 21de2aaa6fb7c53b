"""The pairs of an MVC folder as packed rows and pixels, in an order of seed and epoch alone.

Shapes: N pairs in the split, I images, 3 x H x W pixels.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.images import ImageError, decode_rgb, upright_size
from pipeline.core.schema import MvcError, read_mvc
from training.models.families import Images
from training.models.packing import Ints, Packed, pack
from training.models.pair import ShortPair, short_pair
from training.models.rope import max_exact_length
from training.models.unusable import (
    BEYOND_ROPE,
    TOO_LONG,
    LeftOut,
    UnusablePairError,
    unusable_image,
)
from training.models.vlm import ANY_SIZE, Size, Vlm, pixel_values
from training.objectives.terms import ALL_CELLS

COLUMNS = (
    "pair_id",
    "question",
    "answer_a",
    "answer_b",
    "image_a",
    "image_b",
    "image_a_sha256",
    "image_b_sha256",
)
MAX_PIXEL_CACHE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DataState:
    """Where training stands in the data, the same whatever the number of workers.

    Resuming takes this and no more.
    """

    seed: int
    epoch: int = 0
    position: int = 0  # pairs of this epoch already trained on


def epoch_order(num_pairs: int, seed: int, epoch: int) -> Ints:
    """The order of the pairs in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(num_pairs)


def batches(num_pairs: int, batch_pairs: int, state: DataState) -> Iterator[tuple[Ints, DataState]]:
    """Global batches from `state` on, without end, each with the state after it.

    An epoch's last one may be smaller.

    Rank r of W trains on `batch[r::W]`.
    """
    while True:
        order = epoch_order(num_pairs, state.seed, state.epoch)
        while state.position < num_pairs:
            stop = min(state.position + batch_pairs, num_pairs)
            batch, state = order[state.position : stop], DataState(state.seed, state.epoch, stop)
            yield batch, state
        state = DataState(state.seed, state.epoch + 1)


def pairs_of_run(num_pairs: int, batch_pairs: int, num_steps: int, seed: int) -> Ints:
    """The pairs that the first steps of a run train on, each once, in order."""
    if num_steps >= math.ceil(num_pairs / batch_pairs):  # a whole epoch
        return np.arange(num_pairs)
    return np.sort(epoch_order(num_pairs, seed, 0)[: num_steps * batch_pairs])


class PairReader:
    """The pairs of one split, tokenized once and packed when asked for.

    Pairs that the model cannot take, and those of which a prompt with its response is longer than
    `max_length_tokens`, or than what may share a row (`training.models.rope`), are left out, never
    cut, and counted in `left_out`; it may be that all are too long. Each image is decoded once as
    long as the pixels fit in memory.

    Raises:
        MvcError: Not an MVC folder, or more than 1 % of the pairs cannot be used.
    """

    def __init__(
        self, folder: str | Path, split: str, vlm: Vlm, *, max_length_tokens: int | None = None
    ) -> None:
        self.split = split
        self._vlm, self._table = vlm, read_mvc(folder, split, COLUMNS)
        self._pixels: dict[int, Tensor] = {}
        self._image_sizes: dict[str, Size] = {}
        self._max_exact = max_exact_length(vlm.model.config) or math.inf
        self.left_out = LeftOut()
        texts = self._table.select(["pair_id", "question", "answer_a", "answer_b"]).to_pylist()
        limit = max_length_tokens or math.inf
        pairs = {
            row: pair
            for row, text in enumerate(texts)
            if (pair := self._usable(row, text, limit)) is not None
        }
        self.left_out.check(f"{folder}: split {split!r}", len(texts))
        self._pairs, kept = list(pairs.values()), list(pairs)
        self.pair_ids: list[str] = [texts[row]["pair_id"] for row in kept]
        self.questions: list[str] = [texts[row]["question"] for row in kept]
        # of a pair with all cells
        self.lengths: Ints = np.array([pair.num_tokens for pair in self._pairs], np.int64)
        # of the two responses
        self.num_tokens_N2 = torch.tensor([list(map(len, pair.responses)) for pair in self._pairs])
        self._index_images(kept)

    def _usable(self, row: int, text: dict[str, str | None], limit: float) -> ShortPair | None:
        """The tokens of a row; None, and counted, if the row is left out."""
        texts = text["question"], text["answer_a"], text["answer_b"]
        try:
            pair = short_pair(
                self._vlm, texts, (self._size(row, "image_a"), self._size(row, "image_b"))
            )
            if pair.longest > limit:
                raise UnusablePairError(TOO_LONG, f"{pair.longest} tokens, more than {limit}")
            if pair.longest > self._max_exact:
                raise UnusablePairError(
                    BEYOND_ROPE, f"{pair.longest} tokens, more than {self._max_exact}"
                )
        except UnusablePairError as error:
            self.left_out.add(str(text["pair_id"]), error)
            return None
        return pair

    def _size(self, row: int, column: str) -> Size:
        """The size of an image, upright, of which the header is read."""
        name = self._table.column(f"{column}_sha256")[row].as_py() or f"{column} {row}"
        if name not in self._image_sizes:
            try:
                self._image_sizes[name] = upright_size(self._bytes(row, column))
            except ImageError as error:
                raise unusable_image(column, error) from error
        return self._image_sizes[name] if self._vlm.kind.any_size else ANY_SIZE

    def _index_images(self, kept: Sequence[int]) -> None:
        """Numbers the distinct images; remembers a row and a column that hold the bytes of each."""
        numbers: dict[str | tuple[str, int], int] = {}
        self._places: list[tuple[int, str]] = []
        tokens: list[int] = []
        self.images_P2 = np.empty((len(kept), 2), np.int64)
        for side, column in enumerate(("image_a", "image_b")):
            hashes = self._table.column(f"{column}_sha256").to_pylist()
            for pair, row in enumerate(kept):
                number = numbers.setdefault(hashes[row] or (column, row), len(numbers))
                if number == len(self._places):
                    self._places.append((row, column))
                    tokens.append(self._pairs[pair].layouts[side].num_tokens)
                self.images_P2[pair, side] = number
        # features of each distinct image
        self.num_image_tokens_I: Ints = np.array(tokens, np.int64)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def num_images(self) -> int:
        """Distinct images of the split."""
        return len(self._places)

    @functools.cached_property
    def image_hashes(self) -> list[str]:
        """The sha256 of each distinct image's bytes."""
        return [hashlib.sha256(self._bytes(*place)).hexdigest() for place in self._places]

    def image_name(self, number: int) -> str:
        """A pair and a side that an image (a number from `images_P2`) is of, for messages."""
        return self._name(*self._places[number])

    @functools.cached_property
    def digests(self) -> list[str]:
        """For each pair a hash of all that the model's numbers depend on: its tokens and images."""
        content = (
            (
                [pair.prompt_image, pair.prompt_text, *pair.responses],
                [self.image_hashes[number] for number in numbers],
            )
            for pair, numbers in zip(self._pairs, self.images_P2.tolist(), strict=True)
        )
        return [hashlib.sha256(json.dumps(c).encode()).hexdigest()[:32] for c in content]

    def image(self, number: int) -> Image.Image:
        """An image (a number from `images_P2`) as RGB pixels.

        Raises:
            MvcError: It does not decode; the message names its pair.
        """
        try:
            return decode_rgb(self._bytes(*self._places[number]))
        except ImageError as error:
            raise MvcError(
                f"{self.image_name(number)} cannot be decoded ({error}); build the data again"
                " without it"
            ) from error

    def packed(
        self, pairs: Sequence[int] | Ints, cells: Iterable[tuple[int, int]] = ALL_CELLS
    ) -> Packed:
        """One row of some pairs, with the cells (condition, response) that are needed.

        Raises:
            MvcError: A pair that cannot be packed, with its pair_id.
        """
        tokens = [self._pairs[pair].tokens(self._vlm, self.pair_ids[pair]) for pair in pairs]
        try:
            return pack(tokens, self._vlm.image_token_id, cells=cells)
        except ValueError as error:
            raise MvcError(str(error)) from error

    def pixels(self, images: Sequence[int] | Ints, *, keep: bool = True) -> Images:
        """The pixels of some images (numbers from `images_P2`), as `vlm.pixel_values` makes them.

        Args:
            keep: Whether to remember them, if those of the whole split fit in memory.

        Raises:
            MvcError: An image does not decode; the message names its pair.
        """
        missing = [
            int(number) for number in dict.fromkeys(images) if int(number) not in self._pixels
        ]
        fresh = dict(zip(missing, self._preprocess(missing), strict=True)) if missing else {}
        result = [fresh[int(n)] if int(n) in fresh else self._pixels[int(n)] for n in images]
        if (
            keep
            and self.num_images * max(image.nbytes for image in result) <= MAX_PIXEL_CACHE_BYTES
        ):
            self._pixels |= fresh
        return result if self._vlm.kind.any_size else torch.stack(result)

    def _preprocess(self, numbers: Sequence[int]) -> Images:
        pixels = pixel_values(self._vlm, [self.image(number) for number in numbers])
        for number, image in zip(numbers, pixels, strict=True):
            num_features = self._vlm.kind.num_features(self._vlm.model.config, image)
            expected = self.num_image_tokens_I[number]
            if num_features != expected:
                raise MvcError(
                    f"{self.image_name(number)} has {num_features} features, but {expected}"
                    " placeholders in its prompt; its bytes state another size"
                )
        return pixels

    def _bytes(self, row: int, column: str) -> bytes:
        return self._table.column(column)[row]["bytes"].as_py() or b""

    def _name(self, row: int, column: str) -> str:
        return f"pair {self._table.column('pair_id')[row].as_py()}: {column}"
