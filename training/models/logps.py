"""How likely the model finds each response under each image condition, in one forward pass.

Shapes: P pairs, 3 conditions (image a, image b, no image), 2 responses (a, b); I images, N features
of an image, V their width in the vision tower, H the width of the language model, T response tokens
in the batch.
"""

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from training.chunk_sizes import MAX_LOGITS
from training.models.attention import attention_inputs
from training.models.families import FAMILIES, Images, unwrapped
from training.models.packing import (
    CONDITIONS,
    NUM_SEQUENCES,
    RESPONSES,
    Packed,
    PairTokens,
    pack,
)
from training.models.rope import forget_lengths, max_exact_length
from training.objectives.terms import ALL_CELLS


@overload
def vision_features(model: Any, pixels: Tensor) -> Tensor: ...
@overload
def vision_features(model: Any, pixels: list[Tensor]) -> Images: ...
def vision_features(model: Any, pixels: Images) -> Images:
    """What the vision tower sees in each image, before the projector.

    [I, N, V], or a list of [N, V] where N differs.

    The tower is usually frozen, so this is a constant of the image and can be kept; the projector
    is trained.

    Args:
        pixels: As `training.models.vlm.pixel_values` makes them.
    """
    model = unwrapped(model)
    like = {"device": model.device, "dtype": model.dtype, "non_blocking": True}
    moved = (
        pixels.to(**like) if isinstance(pixels, Tensor) else [image.to(**like) for image in pixels]
    )
    return FAMILIES[model.config.model_type].see(model, moved)


def logps_of_features(
    model: Any,
    packed: Packed,
    features_a: Tensor | Sequence[Tensor] | None,
    features_b: Tensor | Sequence[Tensor] | None,
) -> Tensor:
    """The log-probabilities of each pair: [P, 3, 2], in nats, summed over response tokens.

    Differentiable; fp32 from the logits on, whatever the model's type. Logits exist at response
    positions only. A cell that was not packed is NaN, so that whatever wrongly uses it is NaN too.

    Args:
        features_a, features_b: Of image a and of image b of each pair, [N, V] each, as
            `vision_features` makes them; None for a side that the packed cells do not need.

    Raises:
        ValueError: Features that do not fit the placeholders, by pair, or an attention kernel that
            would misread the row.
    """
    model = unwrapped(model)
    inputs = attention_inputs(model, packed)
    features_NV = _in_reading_order(packed, features_a, features_b)
    if features_NV:
        inputs["mm_encoder_outputs"] = {
            "image": FAMILIES[model.config.model_type].project(model, features_NV)
        }
    states_1LH = model.model(
        input_ids=packed.ids_L[None], position_ids=packed.position_ids, use_cache=False, **inputs
    ).last_hidden_state
    logp_T = token_logps(model.lm_head, states_1LH[0, packed.scored_at_T], packed.targets_T)
    sums_S = logp_T.new_zeros(len(packed.num_tokens_P2) * NUM_SEQUENCES).index_add(
        0, packed.sequence_T, logp_T
    )
    skipped = [
        [(condition, response) not in packed.cells for response in range(2)]
        for condition in range(3)
    ]
    return sums_S.view(-1, 3, 2).masked_fill(torch.tensor(skipped, device=sums_S.device), torch.nan)


def pair_logps(model: Any, packed: Packed, pixels_a: Images, pixels_b: Images) -> Tensor:
    """The log-probabilities of each pair from pixels: [P, 3, 2], as `logps_of_features`."""
    num_pairs, features = len(packed.num_tokens_P2), vision_features(model, [*pixels_a, *pixels_b])
    return logps_of_features(model, packed, features[:num_pairs], features[num_pairs:])


def exact_logps(
    model: Any, pairs: Sequence[PairTokens], image_token_id: int, pixels_a: Images, pixels_b: Images
) -> Tensor:
    """As `pair_logps`, of pairs of any length.

    Where a sequence is too long to share a row, each of its pair's has a row of its own.
    """
    forget_lengths(model)
    limit = max_exact_length(model.config)
    if limit is None or all(pair.longest <= limit for pair in pairs):
        return pair_logps(model, pack(pairs, image_token_id).to(model.device), pixels_a, pixels_b)
    rows = []
    for number, pair in enumerate(pairs):
        row_132 = torch.zeros(1, CONDITIONS, RESPONSES, device=model.device)
        for cells in [ALL_CELLS] if pair.longest <= limit else [{cell} for cell in ALL_CELLS]:
            forget_lengths(model)
            packed = pack([pair], image_token_id, cells=cells).to(model.device)
            own = slice(number, number + 1)
            logps_132 = pair_logps(model, packed, pixels_a[own], pixels_b[own])
            row_132 += logps_132.nan_to_num(0.0)  # NaN: in another row
        rows.append(row_132)
    return torch.cat(rows)


def token_logps(head: Any, states_TH: Tensor, targets_T: Tensor) -> Tensor:
    """Log-probability of each target token under the head's prediction, [T], in fp32."""
    num_rows = max(1, MAX_LOGITS // head.weight.shape[0])
    if len(states_TH) <= num_rows or not torch.is_grad_enabled():
        return _token_logps(head, states_TH, targets_T)
    parts = zip(states_TH.split(num_rows), targets_T.split(num_rows), strict=True)
    return torch.cat([checkpoint(_token_logps, head, *part, use_reentrant=False) for part in parts])


def _token_logps(head: Any, states_TH: Tensor, targets_T: Tensor) -> Tensor:
    return -cross_entropy(head(states_TH).float(), targets_T, reduction="none")


def _in_reading_order(
    packed: Packed,
    features_a: Tensor | Sequence[Tensor] | None,
    features_b: Tensor | Sequence[Tensor] | None,
) -> list[Tensor]:
    """The features of each packed image, [N, V]: placeholders are filled in that order."""
    num_pairs, chosen = len(packed.num_tokens_P2), []
    for pair, side, num_tokens in packed.images:
        features, name = (features_a, features_b)[side], "ab"[side]
        if features is None or len(features) != num_pairs:
            raise ValueError(
                f"image {name}: expected features of {num_pairs} pairs, got"
                f" {'none' if features is None else f'those of {len(features)}'}"
            )
        if len(features[pair]) != num_tokens:
            raise ValueError(
                f"pair {packed.pair_ids[pair] or f'number {pair}'}, image {name}: expected"
                f" features of {num_tokens} placeholders, got"
                f" {len(features[pair])}; the processor and the model do not fit each other"
            )
        chosen.append(features[pair])
    return chosen
