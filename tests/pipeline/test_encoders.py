import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.encoders import (
    ClipEncoder,
    ClipSection,
    Dinov2Encoder,
    Dinov2Section,
    EncodersSection,
    PixelsSection,
    open_encoders,
    pixels_descriptor,
)
from pipeline.recipe import RecipeError
from pipeline.similarity import cosine

SOLID = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green", "yellow", "white")]


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 40, 3), np.uint8))


def test_the_descriptor_sees_where_colours_and_edges_are() -> None:
    picture = _noise(0)
    edited = picture.copy()
    edited.paste((255, 0, 0), (10, 10, 18, 18))
    vectors = np.stack([pixels_descriptor(image) for image in (picture, picture.resize((80, 60), 0), edited, _noise(1))])
    same, small_edit, other = cosine(vectors[[0, 0, 0]], vectors[[1, 2, 3]])
    assert vectors.shape == (4, 320)
    assert same > small_edit > 0.7 > other
    # A flat picture has no edges, and still a direction.
    assert np.isfinite(pixels_descriptor(Image.new("RGB", (5, 5), (127, 127, 127)))).all()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random open_clip model, saved as open_clip's own local folder."""
    open_clip = pytest.importorskip("open_clip")
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2, saved as transformers' own local folder."""
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**shape)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_open_clip_from_a_local_folder_equals_the_model_itself(clip_folder: Path) -> None:
    import open_clip
    import torch

    encoder = ClipEncoder(ClipSection(model=str(clip_folder), batch_images=4))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    with torch.inference_mode():
        direct = model.eval().encode_image(torch.stack([preprocess(image) for image in SOLID])).numpy()
    assert np.abs(encoder.encode_images(SOLID) - direct).max() < 1e-5
    assert encoder.encode_texts(["a star", "two stars", "x"]).shape == (3, 16)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dinov2_from_a_local_folder_equals_the_model_itself(dinov2_folder: Path, pooling: str) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    encoder = Dinov2Encoder(Dinov2Section(model=str(dinov2_folder), pooling=pooling, batch_images=2))
    pixels = AutoImageProcessor.from_pretrained(dinov2_folder)(images=SOLID, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states = AutoModel.from_pretrained(dinov2_folder).eval()(pixel_values=pixels).last_hidden_state
    direct = states[:, 0] if pooling == "cls" else states[:, 1:].mean(dim=1)
    assert np.abs(encoder.encode_images(SOLID) - direct.numpy()).max() < 1e-5


@pytest.mark.slow
def test_an_embedding_does_not_depend_on_its_companions(clip_folder: Path) -> None:
    encoder = ClipEncoder(ClipSection(model=f"local-dir:{clip_folder}", batch_images=4))
    pictures = [_noise(seed) for seed in range(6)]
    together = encoder.encode_images(pictures)
    alone = np.concatenate([encoder.encode_images([picture]) for picture in pictures])
    assert np.array_equal(together, alone)


@pytest.mark.slow
def test_a_model_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    off = PixelsSection(enabled=False)
    with pytest.raises(RecipeError, match=r"encoders\.clip: cannot load 'local-dir:nowhere'"):
        open_encoders(EncodersSection(pixels=off, clip=ClipSection(model="local-dir:nowhere")))
    with pytest.raises(RecipeError, match=r"encoders\.dinov2: cannot load './nowhere'"):
        open_encoders(EncodersSection(pixels=off, dinov2=Dinov2Section(model="./nowhere")))
    with pytest.raises(RecipeError, match="every encoder is off"):
        open_encoders(EncodersSection(pixels=off))
