"""From the token ids of a pair to one row that holds all six sequences, each shared part once.

A pair's row, with P_x a prompt and y_x a response: [P_a | y_a | y_b | P_b | y_a | y_b | P_none | y_a | y_b].
Each prompt with its two responses is a *group*; branch 0 is the prompt, 1 and 2 are the responses. A token sees what
came before it in its own group, on the prompt or on its own branch. Position ids restart in each group and both
responses continue at the prompt's length, so every token stands where it would stand in its own sequence: the result
equals six separate forward passes.

Shapes: P pairs (one row each), L tokens in the longest row, T response tokens in all rows of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NUM_SEQUENCES = 6  # 3 conditions x 2 responses, in the order of logps_P32
PADDING_GROUP = 3

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairTokens:
    """The token ids of one pair, exactly as at inference.

    `prompt_image` has one placeholder per image feature; `prompt_text` is the prompt without an image; the responses
    end with the end-of-turn token.
    """

    prompt_image: list[int]
    prompt_text: list[int]
    response_a: list[int]
    response_b: list[int]


@dataclass(frozen=True, slots=True)
class Row:
    """One pair's packed row; `scored_at` are the positions whose next-token prediction is a response token."""

    ids: Ints
    positions: Ints
    group: Ints
    branch: Ints
    scored_at: Ints
    targets: Ints
    sequence: Ints  # which of the six sequences each target belongs to
    num_tokens: tuple[int, int]  # of response a and of response b

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of rows as tensors, padded on the right."""

    ids_PL: Tensor
    positions_PL: Tensor
    group_PL: Tensor
    branch_PL: Tensor
    scored_at_T: Tensor  # into the flattened [P * L]
    targets_T: Tensor
    sequence_T: Tensor  # pair * 6 + condition * 2 + response
    num_tokens_P2: Tensor
    num_image_tokens: int  # placeholders per image

    def to(self, device: torch.device | str) -> "Packed":
        """The same batch on another device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "num_image_tokens"}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})

    def attention_mask(self) -> Tensor:
        """[P, 1, L, L], True where the query (second last axis) may see the key (last axis).

        Boolean, which only the sdpa kernels read as "may see"; the eager kernel would add it as 0 and 1.
        """
        same_group_PLL = self.group_PL[:, :, None] == self.group_PL[:, None, :]
        key_branch_P1L = self.branch_PL[:, None, :]
        on_path_PLL = (key_branch_P1L == 0) | (key_branch_P1L == self.branch_PL[:, :, None])
        length = self.ids_PL.shape[1]
        earlier_LL = torch.ones(length, length, dtype=torch.bool, device=self.ids_PL.device).tril()
        return (same_group_PLL & on_path_PLL & earlier_LL)[:, None]


def pack_row(pair: PairTokens, image_token_id: int, num_image_tokens: int) -> Row:
    """The packed row of one pair.

    Args:
        num_image_tokens: Features that the model makes of one image; the image prompt must have as many placeholders.

    Raises:
        ValueError: An empty prompt or response, or a number of placeholders that does not fit.
    """
    _check(pair, image_token_id, num_image_tokens)
    responses = (pair.response_a, pair.response_b)
    ids: list[int] = []
    parts: dict[str, list[Ints]] = {name: [] for name in ("positions", "group", "branch", "scored_at", "targets", "sequence")}
    for group, prompt in enumerate((pair.prompt_image, pair.prompt_image, pair.prompt_text)):
        last_of_prompt = len(ids) + len(prompt) - 1
        ids += prompt
        parts["positions"].append(np.arange(len(prompt)))
        parts["branch"].append(np.zeros(len(prompt), np.int64))
        for index, response in enumerate(responses):
            start = len(ids)
            ids += response
            parts["positions"].append(len(prompt) + np.arange(len(response)))
            parts["branch"].append(np.full(len(response), index + 1))
            # The first token of either response is predicted from the last token of the prompt.
            parts["scored_at"].append(np.array([last_of_prompt, *range(start, start + len(response) - 1)]))
            parts["targets"].append(np.array(response))
            parts["sequence"].append(np.full(len(response), group * 2 + index))
        parts["group"].append(np.full(len(prompt) + sum(map(len, responses)), group))
    joined = {name: np.concatenate(arrays).astype(np.int64) for name, arrays in parts.items()}
    return Row(np.array(ids, np.int64), **joined, num_tokens=(len(pair.response_a), len(pair.response_b)))


def _check(pair: PairTokens, image_token_id: int, num_image_tokens: int) -> None:
    expected = {"prompt_image": num_image_tokens, "prompt_text": 0, "response_a": 0, "response_b": 0}
    for name, wanted in expected.items():
        tokens = getattr(pair, name)
        if not tokens:
            raise ValueError(f"{name}: expected at least one token, got none")
        found = tokens.count(image_token_id)
        if found != wanted:
            raise ValueError(
                f"{name}: expected {wanted} image placeholders (token {image_token_id}), got {found}; the model makes "
                f"{num_image_tokens} features of an image, the processor must make as many placeholders and the texts none"
            )


def stack(rows: Sequence[Row], num_image_tokens: int) -> Packed:
    """A batch of rows, padded on the right to the longest; the padding is a group of its own, which no token sees."""
    length = max(len(row) for row in rows)
    table_4PL = np.zeros((4, len(rows), length), np.int64)
    table_4PL[2] = PADDING_GROUP
    for index, row in enumerate(rows):
        table_4PL[:, index, : len(row)] = row.ids, row.positions, row.group, row.branch
    scored_at_T = np.concatenate([index * length + row.scored_at for index, row in enumerate(rows)])
    targets_T = np.concatenate([row.targets for row in rows])
    sequence_T = np.concatenate([index * NUM_SEQUENCES + row.sequence for index, row in enumerate(rows)])
    num_tokens_P2 = np.array([row.num_tokens for row in rows], np.int64)
    ids_PL, positions_PL, group_PL, branch_PL = torch.from_numpy(table_4PL)
    return Packed(
        ids_PL,
        positions_PL,
        group_PL,
        branch_PL,
        torch.from_numpy(scored_at_T),
        torch.from_numpy(targets_T),
        torch.from_numpy(sequence_T),
        torch.from_numpy(num_tokens_P2),
        num_image_tokens,
    )


def pack(pairs: Sequence[PairTokens], image_token_id: int, num_image_tokens: int | None = None) -> Packed:
    """A batch of pairs as packed rows, one row per pair.

    Args:
        num_image_tokens: Features per image; by default as many as the first pair has placeholders.
    """
    if not pairs:
        raise ValueError("pack: expected at least one pair, got none")
    if num_image_tokens is None:
        num_image_tokens = pairs[0].prompt_image.count(image_token_id)
    return stack([pack_row(pair, image_token_id, num_image_tokens) for pair in pairs], num_image_tokens)
