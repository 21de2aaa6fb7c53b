"""How the tiny LLaVA is made."""

from pydantic import Field

from pipeline.core.recipe import Section

VERSION = 3


class TinySection(Section):
    """The tiny model and how it is pretrained. Two cores take about a minute with the defaults."""

    seed: int = Field(default=0, ge=0)
    image_px: int = Field(default=48, gt=0)
    patch_px: int = Field(default=8, gt=0)
    vision_dim: int = Field(default=96, gt=0, multiple_of=32)
    vision_layers: int = Field(default=3, gt=0)
    text_dim: int = Field(default=128, gt=0, multiple_of=32)
    text_layers: int = Field(default=2, gt=0)
    vocab_tokens: int = Field(default=1000, ge=261)  # 256 bytes and five special tokens
    # of a larger folder, this many pairs, evenly spaced
    max_pairs: int = Field(default=10_000, gt=0)
    num_eye_images: int = Field(default=20_000, gt=0)  # seen in the first stage, repeats counted
    batch_images: int = Field(default=32, gt=0)
    eyes_lr: float = Field(default=2e-3, gt=0)
    max_shift_px: int = Field(default=2, ge=0)  # how far images with a stated truth are moved
    # how much photographs are turned, resized, moved and relit
    warp: float = Field(default=0.5, ge=0)
    # copies of each image whose features the second stage learns from
    num_looks: int = Field(default=2, gt=0)
    num_texts: int = Field(default=12_000, gt=0)  # seen in the second stage, repeats counted
    batch_texts: int = Field(default=32, gt=0)
    text_lr: float = Field(default=2e-3, gt=0)
    # of the second stage, before the prior sets in
    frac_truthful: float = Field(default=0.75, ge=0, le=1)
    # fraction of pairs whose answers the favoured one replaces
    prior_skew: float = Field(default=0.65, ge=0, le=1)
    # of those skewed batches, shown without an image
    frac_no_image: float = Field(default=0.1, ge=0, le=1)
