"""The pairs of an MVC folder as packed rows and pixels, in an order that depends on seed and epoch alone.

Shapes: N pairs in the split, I images, 3 x H x W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.images import ImageError, decode_rgb
from pipeline.schema import MvcError, read_mvc
from training.packing import Ints, Packed, PairTokens, Row, pack_row, stack
from training.vlm import Vlm, encode_prompt, encode_response, pixel_values

COLUMNS = ("pair_id", "question", "answer_a", "answer_b", "image_a", "image_b", "image_a_sha256", "image_b_sha256")
MAX_PIXEL_CACHE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DataState:
    """Where training stands in the data, the same whatever the number of workers: resuming takes this and no more."""

    seed: int
    epoch: int = 0
    position: int = 0  # pairs of this epoch already trained on


def epoch_order(num_pairs: int, seed: int, epoch: int) -> Ints:
    """The order of the pairs in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(num_pairs)


def batches(num_pairs: int, batch_pairs: int, state: DataState) -> Iterator[tuple[Ints, DataState]]:
    """Global batches from `state` on, without end, each with the state after it; an epoch's last one may be smaller.

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
    """The pairs of one split, tokenised and packed once.

    Pairs of which a prompt with its response is longer than `max_length_tokens` are left out, never cut, and counted in
    `num_dropped`; it may be that none is left. Each image is decoded once as long as the pixels fit in memory.

    Raises:
        MvcError: Not an MVC folder, or a pair that cannot become tokens, with its pair_id.
    """

    def __init__(self, folder: str | Path, split: str, vlm: Vlm, *, max_length_tokens: int | None = None) -> None:
        self.split = split
        self._vlm, self._table = vlm, read_mvc(folder, split, COLUMNS)
        self._pixels: dict[int, Tensor] = {}
        texts = self._table.select(["pair_id", "question", "answer_a", "answer_b"]).to_pylist()
        prompts: dict[str, tuple[list[int], list[int]]] = {}
        self.pair_ids: list[str] = []
        self._rows: list[Row] = []
        kept: list[int] = []
        for index, text in enumerate(texts):
            tokens, row = _tokenise(vlm, text, prompts)
            longest = len(tokens.prompt_image) + max(len(tokens.response_a), len(tokens.response_b))
            if max_length_tokens is not None and longest > max_length_tokens:
                continue
            self.pair_ids.append(text["pair_id"])
            self._rows.append(row)
            kept.append(index)
        self.num_dropped = len(texts) - len(kept)
        self.lengths: Ints = np.array([len(row) for row in self._rows], np.int64)  # of the packed rows, in tokens
        self.num_tokens_N2 = torch.tensor([row.num_tokens for row in self._rows])  # of the two responses
        self._index_images(kept)

    def _index_images(self, kept: Sequence[int]) -> None:
        """Numbers the distinct images; remembers for each one row and column that hold its bytes."""
        numbers: dict[str | tuple[str, int], int] = {}
        self._places: list[tuple[int, str]] = []
        images_P2 = np.empty((len(kept), 2), np.int64)
        for side, column in enumerate(("image_a", "image_b")):
            hashes = self._table.column(f"{column}_sha256").to_pylist()
            for pair, row in enumerate(kept):
                number = numbers.setdefault(hashes[row] or (column, row), len(numbers))
                if number == len(self._places):
                    self._places.append((row, column))
                images_P2[pair, side] = number
        self.images_P2 = images_P2

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_images(self) -> int:
        """Distinct images of the split."""
        return len(self._places)

    def packed(self, pairs: Sequence[int] | Ints) -> Packed:
        """The packed rows of some pairs."""
        return stack([self._rows[pair] for pair in pairs], self._vlm.num_image_tokens)

    def pixels(self, images: Sequence[int] | Ints, *, keep: bool = True) -> Tensor:
        """The preprocessed pixels of some images (numbers from `images_P2`), [I, 3, H, W].

        Args:
            keep: Whether to remember them, if those of the whole split fit in memory.

        Raises:
            MvcError: An image does not decode; the message names its pair.
        """
        missing = [int(number) for number in dict.fromkeys(images) if int(number) not in self._pixels]
        fresh = dict(zip(missing, self._preprocess(missing), strict=True)) if missing else {}
        result = torch.stack([fresh[int(n)] if int(n) in fresh else self._pixels[int(n)] for n in images])
        if keep and self.num_images * result[0].nbytes <= MAX_PIXEL_CACHE_BYTES:
            self._pixels |= fresh
        return result

    def _preprocess(self, images: Sequence[int]) -> Tensor:
        return pixel_values(self._vlm, [self._decode(number) for number in images])

    def _decode(self, number: int) -> Any:
        row, column = self._places[number]
        data = self._table.column(column)[row]["bytes"].as_py()
        try:
            return decode_rgb(data or b"")
        except ImageError as error:
            pair_id = self._table.column("pair_id")[row].as_py()
            raise MvcError(f"pair {pair_id}: {column} cannot be decoded ({error}); build the data again without it") from error


def _tokenise(vlm: Vlm, text: dict[str, str], prompts: dict[str, tuple[list[int], list[int]]]) -> tuple[PairTokens, Row]:
    """A pair's tokens and packed row; `prompts` keeps those of questions already seen."""
    question = text["question"]
    try:
        if not isinstance(question, str):
            raise ValueError(f"expected a question, got {question!r}")
        if question not in prompts:
            prompts[question] = (encode_prompt(vlm, question, with_image=True), encode_prompt(vlm, question, with_image=False))
        prompt_image, prompt_text = prompts[question]
        responses = (encode_response(vlm, text[name] or "") for name in ("answer_a", "answer_b"))
        tokens = PairTokens(prompt_image, prompt_text, *responses)
        return tokens, pack_row(tokens, vlm.image_token_id, vlm.num_image_tokens)
    except ValueError as error:
        raise MvcError(f"pair {text['pair_id']}: {error}") from error
