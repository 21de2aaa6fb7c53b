"""How likely the model finds each response under each image condition, all six of a pair in one forward pass.

Shapes: P pairs, 3 conditions (image a, image b, no image), 2 responses (a, b); L tokens in a row, T response tokens in
the batch, N features per image, V their width in the vision tower, H the width of the language model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import BaseModelOutputWithPooling

from training.packing import NUM_SEQUENCES, Packed


def vision_features(model: Any, pixels_I3HW: Tensor) -> Tensor:
    """What the vision tower sees in each image, before the projector: [I, N, V].

    The tower is usually frozen, so this is a constant of the image and can be kept; the projector is trained.
    """
    config = model.config
    states = model.model.vision_tower(pixels_I3HW, output_hidden_states=True).hidden_states
    layers = config.vision_feature_layer
    chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
    if config.vision_feature_select_strategy == "default":
        chosen = [state[:, 1:] for state in chosen]  # without the class token
    return torch.cat(chosen, dim=-1)


def logps_of_features(model: Any, packed: Packed, features_a_PNV: Tensor, features_b_PNV: Tensor) -> Tensor:
    """The six log-probabilities of each pair from vision features: [P, 3, 2], in nats, summed over response tokens.

    Differentiable; fp32 from the logits on, whatever the model's type. Logits exist at response positions only.

    Raises:
        ValueError: Features that do not fit the placeholders, or an attention kernel that would misread the mask.
    """
    num_pairs = packed.ids_PL.shape[0]
    _check(model, packed, features_a_PNV, features_b_PNV)
    # Placeholders are filled in reading order: image a of a row, then image b, row by row.
    features_INV = torch.stack((features_a_PNV, features_b_PNV), dim=1).flatten(0, 1)
    projected_INH = model.model.multi_modal_projector(features_INV)
    hidden_PLH = model.model(
        input_ids=packed.ids_PL,
        attention_mask=packed.attention_mask(),
        position_ids=packed.positions_PL,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=[projected_INH.flatten(0, 1)])},
        use_cache=False,
    ).last_hidden_state
    logits_TW = model.lm_head(hidden_PLH.flatten(0, 1)[packed.scored_at_T])
    logp_T = -cross_entropy(logits_TW.float(), packed.targets_T, reduction="none")
    sums_S = logp_T.new_zeros(num_pairs * NUM_SEQUENCES).index_add(0, packed.sequence_T, logp_T)
    return sums_S.view(num_pairs, 3, 2)


def pair_logps(model: Any, packed: Packed, pixels_a_P3HW: Tensor, pixels_b_P3HW: Tensor) -> Tensor:
    """The six log-probabilities of each pair from pixels: [P, 3, 2], as `logps_of_features`."""
    features_INV = vision_features(model, torch.cat((pixels_a_P3HW, pixels_b_P3HW)))
    features_a_PNV, features_b_PNV = features_INV.chunk(2)
    return logps_of_features(model, packed, features_a_PNV, features_b_PNV)


def _check(model: Any, packed: Packed, features_a_PNV: Tensor, features_b_PNV: Tensor) -> None:
    kernel = model.config.text_config._attn_implementation
    if kernel != "sdpa":
        raise ValueError(f"packed rows need attn_implementation='sdpa', got {kernel!r}, which would misread the mask")
    expected = (packed.ids_PL.shape[0], packed.num_image_tokens)
    for side, features_PNV in (("a", features_a_PNV), ("b", features_b_PNV)):
        if tuple(features_PNV.shape[:2]) != expected:
            raise ValueError(
                f"image {side}: expected features of shape [{expected[0]} pairs, {expected[1]} placeholders, ...], "
                f"got {list(features_PNV.shape)}"
            )
