"""One row of tokens that holds all sequences of some pairs, each shared part once, no padding.

With P_x a prompt and y_x a response, the row of one pair is [P_a | y_a | y_b | P_b | y_a | y_b |
P_none | y_a | y_b]; with more pairs the groups with an image come first, pair by pair, then those
without. Each prompt with its responses is a *group*. A token sees what came before it in its own
group, on the prompt or on its own response. Position ids restart in each group and both responses
continue where the prompt ends, so every token stands where it would stand in its own sequence: the
result equals separate forward passes.

A *cell* (condition, response) is one such sequence; what an objective does not use need not be
packed.

Shapes: P pairs, L tokens in the row, T response tokens, A axes of a position (1, or 3 where
positions are temporal, vertical and horizontal).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.objectives.terms import ALL_CELLS, Cell

CONDITIONS, RESPONSES = 3, 2  # image a, image b, no image; response a, response b
NUM_SEQUENCES = CONDITIONS * RESPONSES  # in the order of logps_P32

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairTokens:
    """The token ids of one pair, exactly as at inference.

    The image prompts have one placeholder per image feature; `prompt_text` is the prompt without an
    image; the responses end with the end-of-turn token.

    Args:
        prompt_image_b: The prompt with image b, if it is not that with image a: images of unlike
            sizes may have unlike numbers of features.
        positions_a, positions_b: Where the tokens of the two image prompts stand, [A, prompt + 1],
            the last column being where a response starts; by default 0, 1, 2 ...
        pair_id: For errors.
    """

    prompt_image: list[int]
    prompt_text: list[int]
    response_a: list[int]
    response_b: list[int]
    prompt_image_b: list[int] | None = None
    positions_a: Ints | None = None
    positions_b: Ints | None = None
    pair_id: str = ""

    @property
    def prompts(self) -> tuple[list[int], list[int], list[int]]:
        """The prompt under each condition: image a, image b, no image."""
        return (
            self.prompt_image,
            self.prompt_image if self.prompt_image_b is None else self.prompt_image_b,
            self.prompt_text,
        )

    @property
    def longest(self) -> int:
        """Length of the longest of the six sequences."""
        return max(map(len, self.prompts)) + max(len(self.response_a), len(self.response_b))


class Group(NamedTuple):
    """Lengths in tokens of a prompt and of the responses that follow it, in a row."""

    prompt: int
    responses: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the whole group."""
        return self.prompt + sum(self.responses)


class PackedImage(NamedTuple):
    """An image in a row: whose it is, and how many placeholders it has there."""

    pair: int
    side: int  # 0 for image a, 1 for image b
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Packed:
    """Some pairs in one row.

    `scored_at` are the places whose next-token prediction is a response token.
    """

    ids_L: Tensor
    positions_AL: Tensor
    scored_at_T: Tensor
    targets_T: Tensor
    sequence_T: Tensor  # pair * 6 + condition * 2 + response
    num_tokens_P2: Tensor  # of the two responses
    groups: tuple[Group, ...]
    images: tuple[PackedImage, ...]  # in reading order
    pair_ids: tuple[str, ...]
    cells: frozenset[Cell]

    def to(self, device: torch.device | str) -> "Packed":
        """The same row on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    @property
    def position_ids(self) -> Tensor:
        """As models take them for a batch of one row: [1, L], or [3, 1, L] with three axes."""
        return self.positions_AL if len(self.positions_AL) == 1 else self.positions_AL[:, None]

    def attention_mask(self) -> Tensor:
        """[1, 1, L, L], True where the query (second last axis) may see the key (last axis).

        Boolean, which only the sdpa kernels read as "may see"; the eager kernel would add it as 0
        and 1.
        """
        group_of, branch_of = [], []
        for number, group in enumerate(self.groups):
            group_of += [number] * group.length
            for branch, length in enumerate((group.prompt, *group.responses)):
                branch_of += [branch] * length
        group_L, branch_L = torch.tensor([group_of, branch_of], device=self.ids_L.device)
        on_path_LL = (branch_L == 0) | (branch_L[:, None] == branch_L)
        return ((group_L[:, None] == group_L) & on_path_LL).tril()[None, None]


def pack(
    pairs: Sequence[PairTokens],
    image_token_id: int,
    num_image_tokens: int | None = None,
    *,
    cells: Iterable[tuple[int, int]] = ALL_CELLS,
) -> Packed:
    """One row of some pairs.

    Args:
        num_image_tokens: How many placeholders every image must have; by default each may have its
            own number, at least one. That they fit the features is checked where the features are.
        cells: The (condition, response) that are needed; the others are left out, and so is an
            image that none needs.

    Raises:
        ValueError: No pair, no cell or one that does not exist, an empty prompt or response, or
            placeholders where none belong or too few or many; the message names the pair.
    """
    cells = frozenset(cells)
    if not pairs:
        raise ValueError("pack: expected at least one pair, got none")
    if not cells or cells - ALL_CELLS:
        raise ValueError(f"pack: expected cells among {sorted(ALL_CELLS)}, got {sorted(cells)}")
    for pair in pairs:
        _check(pair, image_token_id, num_image_tokens)
    row, numbers = _Row(), range(len(pairs))
    for number, condition in (*product(numbers, (0, 1)), *product(numbers, (2,))):
        responses = [response for response in range(RESPONSES) if (condition, response) in cells]
        if responses:
            row.add(pairs[number], number, condition, responses, image_token_id)
    return row.packed(pairs, cells)


class _Row:
    """A row that grows by groups."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.groups: list[Group] = []
        self.images: list[PackedImage] = []
        self.positions_An: list[Ints] = []
        self.scored_at: list[int] = []
        self.targets: list[int] = []
        self.sequence: list[int] = []

    def add(
        self,
        pair: PairTokens,
        number: int,
        condition: int,
        responses: Sequence[int],
        image_token_id: int,
    ) -> None:
        prompt = pair.prompts[condition]
        last_of_prompt = len(self.ids) + len(prompt) - 1
        self.ids += prompt
        positions_An = (pair.positions_a, pair.positions_b, None)[condition]
        if positions_An is None:
            positions_An = np.arange(len(prompt) + 1)[None]
        self.positions_An.append(positions_An[:, :-1])
        texts = [(pair.response_a, pair.response_b)[response] for response in responses]
        for response, text in zip(responses, texts, strict=True):
            start = len(self.ids)
            self.ids += text
            self.positions_An.append(positions_An[:, -1:] + np.arange(len(text)))
            # The first token of either response is predicted from the last token of the prompt.
            self.scored_at += [last_of_prompt, *range(start, start + len(text) - 1)]
            self.targets += text
            self.sequence += [number * NUM_SEQUENCES + condition * RESPONSES + response] * len(text)
        self.groups.append(Group(len(prompt), tuple(map(len, texts))))
        if condition < 2:
            self.images.append(PackedImage(number, condition, prompt.count(image_token_id)))

    def packed(self, pairs: Sequence[PairTokens], cells: frozenset[Cell]) -> Packed:
        num_axes = max(map(len, self.positions_An))
        positions_An = [np.broadcast_to(p, (num_axes, p.shape[1])) for p in self.positions_An]
        return Packed(
            torch.tensor(self.ids),
            torch.from_numpy(np.concatenate(positions_An, axis=1)),
            torch.tensor(self.scored_at),
            torch.tensor(self.targets),
            torch.tensor(self.sequence),
            torch.tensor([[len(pair.response_a), len(pair.response_b)] for pair in pairs]),
            tuple(self.groups),
            tuple(self.images),
            tuple(pair.pair_id for pair in pairs),
            cells,
        )


def _check(pair: PairTokens, image_token_id: int, num_image_tokens: int | None) -> None:
    where = f"pair {pair.pair_id}: " if pair.pair_id else ""
    image_a, image_b, text = pair.prompts
    for name, tokens in {
        "prompt_image": image_a,
        "prompt_image_b": image_b,
        "prompt_text": text,
        "response_a": pair.response_a,
        "response_b": pair.response_b,
    }.items():
        if not tokens:
            raise ValueError(f"{where}{name}: expected at least one token, got none")
        count, has_image = tokens.count(image_token_id), name.startswith("prompt_image")
        wanted = (num_image_tokens or max(count, 1)) if has_image else 0
        if count != wanted:
            raise ValueError(
                f"{where}{name}: expected {wanted} image placeholders (token {image_token_id}), got"
                f" {count}; the processor must make as many placeholders of an image as the model"
                " makes features, and texts have none"
            )
    for name, tokens, positions_An in (
        ("positions_a", image_a, pair.positions_a),
        ("positions_b", image_b, pair.positions_b),
    ):
        if positions_An is not None and positions_An.shape[1] != len(tokens) + 1:
            raise ValueError(
                f"{where}{name}: expected {len(tokens) + 1} positions, got {positions_An.shape[1]}"
            )
