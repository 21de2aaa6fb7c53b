"""Tiny random encoders saved as real ones are: open_clip's folder, and transformers' DINOv2."""

import json
from pathlib import Path

CLIP_TYPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
# As the paper's ViT-SO400M-14-SigLIP-384, but small: a timm tower with attention pooling, a text
# tower that sees all ways.
SIGLIP_TYPE = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 48,
        "timm_model_name": "test_vit",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 64,
        "width": 64,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "hf_tokenizer_name": "in this folder",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}


def make_clip(folder: Path, config: dict, preprocess: dict) -> Path:
    """A random open_clip model, saved as open_clip's own local folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    shape = {key: value for key, value in config.items() if key != "custom_text"}
    model = (open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP)(**shape)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    return folder
