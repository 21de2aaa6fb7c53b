"""How large a model is, from its config.json alone: layers, widths and parameters. Knows nothing of
torch.

A configuration names only what differs from its class, so the defaults of those classes stand here.

Sources: the model classes and configuration classes of transformers 5; a test builds each family
without weights and compares every number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipeline.core.recipe import UserError

Linear = tuple[int, int]  # width in, width out

TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama": {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        "qwen2": {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        "qwen2_5_vl_text": {"num_key_value_heads": 8},
        "qwen3_vl_text": {"head_dim": 128},
    }
)
VISION_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "clip_vision_model": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 32,
        },
        "siglip_vision_model": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
            "vision_use_head": True,
        },
        "qwen2_5_vl_vision": {
            "depth": 32,
            "hidden_size": 3584,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": (7, 15, 23, 31),
            "out_hidden_size": 3584,
        },
        "qwen3_vl_vision": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": (8, 16, 24),
            "out_hidden_size": 3584,
        },
    }
)
# The type of a part that does not say its own.
PART_TYPES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "llava": ("llama", "clip_vision_model"),
        "qwen2_5_vl": ("qwen2_5_vl_text", "qwen2_5_vl_vision"),
        "qwen3_vl": ("qwen3_vl_text", "qwen3_vl_vision"),
    }
)


class ShapeError(UserError):
    """A configuration from which the size of a model cannot be told; the message says what is
    missing.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """The language model: a decoder with a gated feed-forward layer and RMS norms."""

    kind: str
    num_layers: int
    width: int
    q_width: int  # heads times the width of a head
    kv_width: int
    ffn_width: int
    vocab: int
    num_heads: int
    num_layer_vectors: int  # numbers of a layer that are in no matrix: norms and biases
    tied: bool  # whether the output layer is the embedding

    @property
    def linears(self) -> dict[str, Linear]:
        """The matrices of a layer by the last part of their name."""
        d, q, kv, ff = self.width, self.q_width, self.kv_width, self.ffn_width
        attention = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d)}
        return {**attention, "gate_proj": (d, ff), "up_proj": (d, ff), "down_proj": (ff, d)}

    @property
    def num_layer_weights(self) -> int:
        """Numbers in the matrices of a layer."""
        return sum(wide * high for wide, high in self.linears.values())

    @property
    def num_layer_parameters(self) -> int:
        """All numbers of a layer."""
        return self.num_layer_weights + self.num_layer_vectors

    @property
    def num_outside_parameters(self) -> int:
        """Numbers outside the layers: embedding, last norm, and the output layer if it is one of
        its own.
        """
        return self.vocab * self.width * (1 if self.tied else 2) + self.width

    @property
    def num_parameters(self) -> int:
        """All numbers of the language model, its output layer included."""
        return self.num_layers * self.num_layer_parameters + self.num_outside_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """The vision tower without what maps its features to the language model."""

    kind: str
    num_layers: int
    width: int
    ffn_width: int
    num_layer_weights: int
    num_embedding_weights: int  # of the convolution that makes patches
    num_parameters: int
    # of what plays no part in the features, such as layers behind the chosen one
    num_unseen_parameters: int
    num_features: int | None  # of every image; None where it depends on the image's size
    patch_px: int
    merge: int  # so many patches to a side become one feature
    num_extra_tokens: int  # class token
    num_window_layers: int = 0  # layers in which a patch sees only a window
    window_patches: int = 0

    def num_patches(self, num_features: float) -> float:
        """Tokens that the tower computes on for an image of so many features."""
        return num_features * self.merge**2 + self.num_extra_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A vision-language model; `projector` are the matrices that each feature passes,
    `feature_width` what is kept per feature.
    """

    family: str
    text: TextShape
    vision: VisionShape
    projector: tuple[Linear, ...]
    num_projector_parameters: int
    feature_width: int

    @property
    def num_parameters(self) -> int:
        """All numbers of the model."""
        return self.text.num_parameters + self.vision.num_parameters + self.num_projector_parameters


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape of a model from what its config.json says.

    Raises:
        ShapeError: Another kind of model, or one whose size is not in its configuration.
    """
    family = str(config.get("model_type", ""))
    if family not in PART_TYPES:
        raise ShapeError(f"model_type is {family!r}; the plan knows {', '.join(PART_TYPES)}")
    text_type, vision_type = PART_TYPES[family]
    # Configurations of the Qwen families were once written with the text model's keys at the top.
    text_given, vision_given = (
        dict(config.get("text_config") or config),
        dict(config.get("vision_config") or {}),
    )
    if family != "llava":
        text_given["model_type"], vision_given["model_type"] = text_type, vision_type
    text_type, vision_type = (
        text_given.get("model_type", text_type),
        vision_given.get("model_type", vision_type),
    )
    if text_type not in TEXT_DEFAULTS or vision_type not in VISION_DEFAULTS:
        raise ShapeError(
            f"parts {text_type!r} and {vision_type!r}; the plan knows"
            f" {', '.join([*TEXT_DEFAULTS, *VISION_DEFAULTS])}"
        )
    tied = bool(
        config.get("tie_word_embeddings", False) or text_given.get("tie_word_embeddings", False)
    )
    try:
        text = _text(text_type, {**TEXT_DEFAULTS[text_type], **text_given}, tied=tied)
        vision_facts = {**VISION_DEFAULTS[vision_type], **vision_given}
        return (
            _llava(config, text, vision_facts, vision_type)
            if family == "llava"
            else _qwen(family, text, vision_facts)
        )
    except (KeyError, TypeError) as error:
        raise ShapeError(
            f"the configuration does not say how large the model is ({type(error).__name__}:"
            f" {error})"
        ) from error


def _text(kind: str, facts: Mapping[str, Any], *, tied: bool) -> TextShape:
    d, heads = facts["hidden_size"], facts["num_attention_heads"]
    head = facts.get("head_dim") or d // heads
    q, kv, ff = (
        heads * head,
        (facts.get("num_key_value_heads") or heads) * head,
        facts["intermediate_size"],
    )
    biased = kind in ("qwen2", "qwen2_5_vl_text")
    vectors = 2 * d + (q + 2 * kv if biased or facts.get("attention_bias") else 0)
    vectors += d if facts.get("attention_bias") else 0
    vectors += 2 * ff + d if facts.get("mlp_bias") else 0
    vectors += 2 * head if kind == "qwen3_vl_text" else 0  # norms of queries and keys
    return TextShape(
        kind=kind,
        num_layers=facts["num_hidden_layers"],
        width=d,
        q_width=q,
        kv_width=kv,
        ffn_width=ff,
        vocab=facts["vocab_size"],
        num_heads=heads,
        num_layer_vectors=vectors,
        tied=tied,
    )


def _llava(
    config: Mapping[str, Any], text: TextShape, facts: Mapping[str, Any], kind: str
) -> ModelShape:
    w, ff, layers, patch = (
        facts["hidden_size"],
        facts["intermediate_size"],
        facts["num_hidden_layers"],
        facts["patch_size"],
    )
    clip = kind == "clip_vision_model"
    num_patches = (facts["image_size"] // patch) ** 2
    # biases of attention and of the two layers, two norms
    weights, vectors = 4 * w * w + 2 * w * ff, 4 * w + w + ff + 4 * w
    embedding = 3 * patch * patch * w
    # class token and norm, or a bias; positions
    outside = embedding + (w + 2 * w if clip else w) + (num_patches + int(clip)) * w
    head = (
        0
        if clip or not facts.get("vision_use_head", True)
        else w + 4 * (w * w + w) + 2 * w + 2 * w * ff + ff + w
    )
    chosen = config.get("vision_feature_layer", -2)
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    seen = max(layer if layer >= 0 else layers + 1 + layer for layer in chosen)
    unseen = (layers - seen) * (weights + vectors) + 2 * w + head  # and the last norm
    whole = clip and config.get("vision_feature_select_strategy", "default") == "full"
    vision = VisionShape(
        kind=kind,
        num_layers=layers,
        width=w,
        ffn_width=ff,
        num_layer_weights=weights,
        num_embedding_weights=embedding,
        num_parameters=outside + layers * (weights + vectors) + 2 * w + head,
        num_unseen_parameters=unseen,
        num_features=num_patches + int(whole),
        patch_px=patch,
        merge=1,
        num_extra_tokens=int(clip and not whole),
    )
    wide, bias = w * len(chosen), text.width if config.get("multimodal_projector_bias", True) else 0
    projector = ((wide, text.width), (text.width, text.width))
    num_projector = sum(a * b for a, b in projector) + 2 * bias
    return ModelShape(
        family="llava",
        text=text,
        vision=vision,
        projector=projector,
        num_projector_parameters=num_projector,
        feature_width=wide,
    )


def _qwen(family: str, text: TextShape, facts: Mapping[str, Any]) -> ModelShape:
    third = family == "qwen3_vl"
    w, ff, layers, patch, merge = (
        facts[k]
        for k in ("hidden_size", "intermediate_size", "depth", "patch_size", "spatial_merge_size")
    )
    embedding = 3 * facts["temporal_patch_size"] * patch * patch * w
    weights = 4 * w * w + (2 if third else 3) * w * ff
    # biases, two norms with or without a bias
    vectors = 4 * w + (ff + w + 4 * w if third else 2 * ff + w + 2 * w)
    outside = embedding + (w + facts["num_position_embeddings"] * w if third else 0)
    full = len(facts.get("fullatt_block_indexes", ())) if not third else layers
    square = w * merge * merge
    out = facts["out_hidden_size"]
    deep = len(facts["deepstack_visual_indexes"]) if third else 0
    one = square * square + square + square * out + out
    norms = 2 * w + deep * 2 * square if third else w
    vision = VisionShape(
        kind=f"{family}_vision",
        num_layers=layers,
        width=w,
        ffn_width=ff,
        num_layer_weights=weights,
        num_embedding_weights=embedding,
        num_parameters=outside + layers * (weights + vectors),
        num_unseen_parameters=0,
        num_features=None,
        patch_px=patch,
        merge=merge,
        num_extra_tokens=0,
        num_window_layers=layers - full,
        window_patches=0 if third else (facts["window_size"] // patch) ** 2,
    )
    return ModelShape(
        family=family,
        text=text,
        vision=vision,
        projector=((square, square), (square, out)) * (1 + deep),
        num_projector_parameters=(1 + deep) * one + norms,
        feature_width=square * (1 + deep),
    )
