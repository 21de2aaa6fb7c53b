"""The pairs of an MVC folder as packed rows and pixels, in an order of seed and epoch alone.

Shapes: N pairs in the split, I images, 3 x H x W pixels.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.images import ImageError, decode_rgb, upright_size
from pipeline.core.schema import MvcError, read_mvc
from training.models.families import Images
from training.models.packing import Ints, Packed, pack
from training.models.pair import ShortPair, short_pair
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

Read = TypeVar("Read")


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


class PairReader:
    """The pairs of one split, tokenized once and packed when asked for.

    Pairs of which a prompt with its response is longer than `max_length_tokens` are left out, never
    cut, and counted in `num_dropped`; it may be that none is left. Each image is decoded once as
    long as the pixels fit in memory.

    Raises:
        MvcError: Not an MVC folder, or a pair that cannot become tokens, with its pair_id.
    """

    def __init__(
        self, folder: str | Path, split: str, vlm: Vlm, *, max_length_tokens: int | None = None
    ) -> None:
        self.split = split
        self._vlm, self._table = vlm, read_mvc(folder, split, COLUMNS)
        self._pixels: dict[int, Tensor] = {}
        texts = self._table.select(["pair_id", "question", "answer_a", "answer_b"]).to_pylist()
        pairs = [_tokenize(vlm, text, self._sizes(index)) for index, text in enumerate(texts)]
        limit = max_length_tokens or math.inf
        kept = [index for index, pair in enumerate(pairs) if pair.longest <= limit]
        self._pairs = [pairs[index] for index in kept]
        self.pair_ids: list[str] = [texts[index]["pair_id"] for index in kept]
        self.questions: list[str] = [texts[index]["question"] for index in kept]
        self.num_dropped = len(texts) - len(kept)
        # of a pair with all cells
        self.lengths: Ints = np.array([pair.num_tokens for pair in self._pairs], np.int64)
        # of the two responses
        self.num_tokens_N2 = torch.tensor([list(map(len, pair.responses)) for pair in self._pairs])
        self._index_images(kept)

    def _sizes(self, row: int) -> tuple[Size, Size]:
        """The sizes of a row's two images, where the model needs to know them."""
        if not self._vlm.kind.any_size:
            return ANY_SIZE, ANY_SIZE
        return (
            self._read(row, "image_a", upright_size),
            self._read(row, "image_b", upright_size),
        )

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
        """An image (a number from `images_P2`) as RGB pixels."""
        return self._read(*self._places[number], decode_rgb)

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

    def _read(self, row: int, column: str, read: Callable[[bytes], Read]) -> Read:
        """What `read` makes of the bytes of an image."""
        try:
            return read(self._bytes(row, column))
        except ImageError as error:
            raise MvcError(
                f"{self._name(row, column)} cannot be decoded ({error}); build the data again"
                " without it"
            ) from error

    def _bytes(self, row: int, column: str) -> bytes:
        return self._table.column(column)[row]["bytes"].as_py() or b""

    def _name(self, row: int, column: str) -> str:
        return f"pair {self._table.column('pair_id')[row].as_py()}: {column}"


def _tokenize(vlm: Vlm, text: dict[str, str], sizes: tuple[Size, Size]) -> ShortPair:
    question = text["question"]
    try:
        if not isinstance(question, str):
            raise ValueError(f"expected a question, got {question!r}")
        return short_pair(vlm, (question, text["answer_a"] or "", text["answer_b"] or ""), sizes)
    except ValueError as error:
        raise MvcError(f"pair {text['pair_id']}: {error}") from error
