"""The shape of the model that a recipe names: from its folder, from configurations kept here, or
from the Hub.

The kept ones leave out what a class gives by default; a test builds each and compares.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.core.storage import read_json
from training.estimate.model_shape import ModelShape, ShapeError, shape_of_config
from training.tiny.config import TinySection

_CLIP_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_SIGLIP_384 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}


def _llava_15(width: int, ffn: int, layers: int) -> dict[str, Any]:
    text = {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": layers,
    }
    return {
        "model_type": "llava",
        "text_config": text,
        "vision_config": _CLIP_336,
        "vision_feature_layer": -2,
    }


def _interleave(width: int, ffn: int, layers: int, heads: int) -> dict[str, Any]:
    text = {
        "model_type": "qwen2",
        "vocab_size": 152000,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return {
        "model_type": "llava",
        "text_config": text,
        "vision_config": _SIGLIP_384,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def _qwen25(
    width: int, ffn: int, layers: int, heads: int, kv: int, vocab: int, *, tied: bool
) -> dict[str, Any]:
    text = {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
    }
    return {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": tied,
        "text_config": text,
        "vision_config": {"hidden_size": 1280, "out_hidden_size": width},
    }


def _qwen3(width: int, ffn: int, vision: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    text = {
        "vocab_size": 151936,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": text,
        "vision_config": {**vision, "out_hidden_size": width},
    }


PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llava-hf/llava-1.5-7b-hf": _llava_15(4096, 11008, 32),
        "llava-hf/llava-1.5-13b-hf": _llava_15(5120, 13824, 40),
        "llava-hf/llava-interleave-qwen-7b-hf": _interleave(4096, 11008, 32, 32),
        "Qwen/Qwen2.5-VL-3B-Instruct": _qwen25(2048, 11008, 36, 16, 2, 151936, tied=True),
        "Qwen/Qwen2.5-VL-7B-Instruct": _qwen25(3584, 18944, 28, 28, 4, 152064, tied=False),
        "Qwen/Qwen3-VL-4B-Instruct": _qwen3(
            2560,
            9728,
            {
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "deepstack_visual_indexes": (5, 11, 17),
            },
            tied=True,
        ),
        "Qwen/Qwen3-VL-8B-Instruct": _qwen3(4096, 12288, {}, tied=False),
    }
)


def find_shape(model: str, tiny: TinySection, *, hub: bool = True) -> tuple[ModelShape, str]:
    """The shape of a recipe's model, and where it is known from.

    Args:
        hub: Whether the Hub may be asked for the configuration of a model that is neither here nor
            in `PUBLISHED`.

    Raises:
        ShapeError: It cannot be known, with the reason.
    """
    if model == "tiny":
        return shape_of_config(_tiny_config(tiny)), "the recipe"
    if (Path(model) / "config.json").is_file():
        source, config = f"{model}/config.json", read_json(Path(model) / "config.json")
    elif model in PUBLISHED:
        source, config = "the table of published models", dict(PUBLISHED[model])
    elif hub:
        source, config = "its config.json on the Hub", _from_hub(model)
    else:
        raise ShapeError(f"model={model}: no folder here, and not among {', '.join(PUBLISHED)}")
    try:
        return shape_of_config(config), source
    except ShapeError as error:
        raise ShapeError(f"model={model}: {error}") from error


def _from_hub(model: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found: dict[str, Any] = read_json(Path(hf_hub_download(model, "config.json")))
        return found
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ShapeError(
            f"model={model}: not a folder here, not in the table of published models, and the Hub"
            f" gave no config.json ({reason}); give a folder, or log in if the model is gated"
        ) from error


def _tiny_config(tiny: TinySection) -> dict[str, Any]:
    """As `training.tiny.model` makes it; its vocabulary may be smaller where the texts have fewer
    words.
    """
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": tiny.vision_dim,
        "intermediate_size": 2 * tiny.vision_dim,
        "num_hidden_layers": tiny.vision_layers,
        "image_size": tiny.image_px,
        "patch_size": tiny.patch_px,
        "num_attention_heads": max(1, tiny.vision_dim // 32),
    }
    text = {
        "model_type": "llama",
        "vocab_size": tiny.vocab_tokens,
        "hidden_size": tiny.text_dim,
        "intermediate_size": 2 * tiny.text_dim,
        "num_hidden_layers": tiny.text_layers,
        "num_attention_heads": max(1, tiny.text_dim // 32),
    }
    return {
        "model_type": "llava",
        "vision_config": vision,
        "text_config": text,
        "vision_feature_layer": -1,
    }
