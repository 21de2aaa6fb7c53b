import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from pipeline.core.recipe import RecipeError
from pipeline.embedding.encoders import (
    ClipEncoder,
    ClipSection,
    Dinov2Encoder,
    Dinov2Section,
    Encoder,
    Encoders,
    EncodersSection,
    PixelsSection,
)
from pipeline.embedding.encoders import encoder_fingerprints as fingerprints
from pipeline.embedding.model_files import local_folder, model_files
from pipeline.embedding.pixels import PixelsEncoder, pixels_descriptor
from pipeline.embedding.preflight import check_encoders
from pipeline.embedding.similarity import cosine
from pipeline.embedding.stage import embed_images
from tests.pipeline.tiny_encoders import SIGLIP_TYPE, make_clip

OFF = PixelsSection(enabled=False)
TEXTS = ["a star", "Two stars, and a longer text than the model's context holds, which is cut", "x"]


def _noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(
        0, 255, (size[1] // 3 + 1, size[0] // 3 + 1, 3), np.uint8
    )
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _files_and_what_they_show() -> tuple[list[bytes], list[Image.Image]]:
    """Encoded pictures of many kinds, each with the RGB picture that a person sees, made without
    this project's decoder.
    """
    turned = Image.Exif()
    turned[0x0112] = 6
    data = [
        _bytes(_noise(0), "PNG"),
        _bytes(_noise(1, (61, 33)), "JPEG", quality=90),
        _bytes(_noise(2, (17, 90)), "PNG"),
        _bytes(_noise(3, (301, 199)), "JPEG", quality=80),
        _bytes(_noise(4, (50, 31)), "JPEG", exif=turned),
        _bytes(_noise(5).convert("L"), "PNG"),
        _bytes(_noise(6).quantize(16), "PNG"),
    ]
    shown = [ImageOps.exif_transpose(Image.open(io.BytesIO(one))).convert("RGB") for one in data]
    assert shown[4].size == (31, 50)
    glass = np.dstack(
        [np.asarray(_noise(7)), np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))]
    )
    alpha = glass[..., 3:] / 255
    shown.append(
        Image.fromarray((glass[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
    )
    return [*data, _bytes(Image.fromarray(glass), "PNG")], shown


def _encode(encoder: Encoder, files: list[bytes], places: list[int] | None = None) -> np.ndarray:
    places = list(range(len(files))) if places is None else places
    return embed_images(
        pa.chunked_array([pa.array(files, pa.large_binary())]),
        {"it": encoder},
        {"it": places},
        num_threads=2,
    )["it"]


def test_the_descriptor_sees_where_colours_and_edges_are() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
    other = Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8))
    edited = picture.copy()
    edited.paste((255, 0, 0), (10, 10, 18, 18))
    vectors = np.stack(
        [
            pixels_descriptor(image)
            for image in (picture, picture.resize((80, 60), 0), edited, other)
        ]
    )
    same, small_edit, different = cosine(vectors[[0, 0, 0]], vectors[[1, 2, 3]])
    assert vectors.shape == (4, 320)
    assert same > small_edit > 0.7 > different
    # A flat picture has no edges, and still a direction.
    assert np.isfinite(pixels_descriptor(Image.new("RGB", (5, 5), (127, 127, 127)))).all()


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    folder = make_clip(tmp_path_factory.mktemp("siglip"), SIGLIP_TYPE, preprocess)
    letters = Tokenizer(
        models.WordLevel(
            {"<pad>": 0, "<unk>": 1} | {chr(97 + n): n + 2 for n in range(26)}, unk_token="<unk>"
        )
    )
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip_folder", "siglip_folder"])
def test_clip_embeds_what_a_person_sees_as_open_clip_itself_does(
    kind: str, request: pytest.FixtureRequest
) -> None:
    import open_clip
    import torch

    folder = request.getfixturevalue(kind)
    files, shown = _files_and_what_they_show()
    encoder = ClipEncoder(ClipSection(model=str(folder), batch_images=4))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    with torch.inference_mode():
        images = (
            model.eval().encode_image(torch.stack([preprocess(image) for image in shown])).numpy()
        )
        texts = model.encode_text(tokens).numpy()
    assert (1 - cosine(_encode(encoder, files), images)).max() < 1e-3
    assert (1 - cosine(encoder.encode_texts(TEXTS), texts)).max() < 1e-3
    # The check means something: two different pictures are further apart than that.
    assert (1 - cosine(images[:-1], images[1:])).min() > 3e-3


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dinov2_embeds_what_a_person_sees_as_transformers_itself_does(
    dinov2_folder: Path, pooling: str
) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    files, shown = _files_and_what_they_show()
    encoder = Dinov2Encoder(
        Dinov2Section(model=str(dinov2_folder), pooling=pooling, batch_images=3)
    )
    pixels = AutoImageProcessor.from_pretrained(dinov2_folder)(images=shown, return_tensors="pt")[
        "pixel_values"
    ]
    with torch.inference_mode():
        states = (
            AutoModel.from_pretrained(dinov2_folder).eval()(pixel_values=pixels).last_hidden_state
        )
    direct = (states[:, 0] if pooling == "cls" else states[:, 1:].mean(dim=1)).numpy()
    assert (1 - cosine(_encode(encoder, files), direct)).max() < 1e-3
    assert (1 - cosine(direct[:-1], direct[1:])).min() > 3e-3


@pytest.mark.slow
def test_mean_pooling_leaves_registers_out(tmp_path: Path) -> None:
    import torch
    from transformers import BitImageProcessor, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    model = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**shape, num_register_tokens=4)
    ).eval()
    model.save_pretrained(tmp_path)
    BitImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(tmp_path)
    encoder = Dinov2Encoder(Dinov2Section(model=str(tmp_path), pooling="mean", batch_images=1))
    with torch.inference_mode():
        patches = model(pixel_values=encoder.prepare(_noise(0))[None]).last_hidden_state[:, 5:]
    assert patches.shape[1] == 4
    assert np.allclose(
        _encode(encoder, [_bytes(_noise(0), "PNG")]), patches.mean(dim=1).numpy(), atol=1e-6
    )


@pytest.mark.slow
def test_an_embedding_does_not_depend_on_its_companions(clip_folder: Path) -> None:
    encoder = ClipEncoder(ClipSection(model=f"local-dir:{clip_folder}", batch_images=4))
    files = [_bytes(_noise(seed), "PNG") for seed in range(7)]
    together = _encode(encoder, files)
    assert np.array_equal(together, np.concatenate([_encode(encoder, [file]) for file in files]))
    assert np.array_equal(together[[1, 3, 4, 5, 6]], _encode(encoder, files, [1, 3, 4, 5, 6]))
    alone = np.concatenate([encoder.encode_texts([text]) for text in TEXTS])
    assert np.array_equal(encoder.encode_texts(TEXTS), alone)


@pytest.mark.slow
def test_bfloat16_is_close_and_another_encoder(clip_folder: Path) -> None:
    files = [_bytes(_noise(seed), "PNG") for seed in range(5)]
    sections = [
        ClipSection(model=str(clip_folder), dtype=dtype) for dtype in ("float32", "bfloat16")
    ]
    exact, rough = (_encode(ClipEncoder(section), files) for section in sections)
    assert rough.dtype == np.float32 and not np.array_equal(exact, rough)
    assert cosine(exact, rough).min() > 0.999
    assert len({fingerprints(EncodersSection(clip=section))["clip"] for section in sections}) == 2


def test_the_defaults_are_the_papers_models() -> None:
    section = EncodersSection.model_validate({"clip": {}, "dinov2": {}})
    assert section.clip is not None and section.dinov2 is not None
    assert (section.clip.model, section.clip.pretrained) == ("ViT-SO400M-14-SigLIP-384", "webli")
    assert section.dinov2.model == "facebook/dinov2-large"


def test_a_fingerprint_follows_content_and_settings_but_neither_place_nor_device(
    tmp_path: Path,
) -> None:
    def print_of(folder: Path, **options: object) -> str:
        return fingerprints(
            EncodersSection(pixels=OFF, dinov2=Dinov2Section(model=str(folder), **options))
        )["dinov2"]

    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "README.md").write_text(folder.name)
    same = print_of(here)
    assert same == print_of(there) == print_of(here, device="cuda")
    changed = [
        print_of(here, pooling="mean"),
        print_of(here, batch_images=8),
        print_of(here, dtype="bfloat16"),
        print_of(here, revision="x"),
    ]
    (there / "model.safetensors").write_bytes(b"other weights")
    assert len({same, print_of(there), *changed}) == 6
    assert print_of(Path("org/name")) != print_of(Path("org/other"))
    with pytest.raises(RecipeError, match="every encoder is off"):
        fingerprints(EncodersSection(pixels=OFF))


def test_a_model_is_a_folder_only_where_it_can_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert local_folder("mine") == Path("mine") and local_folder("./nowhere") == Path("./nowhere")
    assert (
        local_folder("local-dir:x") == Path("x") and local_folder("facebook/dinov2-large") is None
    )
    assert local_folder("hf-hub:org/name") is None and local_folder("ViT-B-32") is None
    builtin = local_folder("builtin:scenes-clip")
    assert (
        builtin is not None
        and builtin.is_absolute()
        and "open_clip_model.safetensors" in model_files("builtin:scenes-clip")
    )


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (
            {"model": "./nowhere"},
            r"encoders\.clip: cannot load './nowhere': there is no folder nowhere; fetch it once",
        ),
        ({"model": "builtin:nothing"}, "built in are builtin:scenes-clip"),
        (
            {"model": "hf-hub:org/name"},
            "org/name is not in the Hub's cache on this disk, and HF_HUB_OFFLINE is set",
        ),
        (
            {"model": "ViT-SO400M-14-SigLIP-38"},
            "open_clip has no such model, did you mean 'ViT-SO400M-14-SigLIP-384'",
        ),
    ],
)
def test_a_clip_that_is_not_there_is_one_clear_line_before_any_work(
    clip: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match=message):
        check_encoders(EncodersSection(clip=ClipSection(**clip)))


def test_a_dinov2_that_is_not_there_is_one_clear_line_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        RecipeError,
        match=(
            r"encoders\.dinov2: cannot load 'facebook/dinov2-large': .* HF_HUB_OFFLINE is set;"
            r" .*dinov2=null"
        ),
    ):
        check_encoders(EncodersSection(dinov2=Dinov2Section()))
    with pytest.raises(RecipeError, match=r"holds no config\.json"):
        check_encoders(EncodersSection(dinov2=Dinov2Section(model=str(tmp_path))))


@pytest.mark.slow
def test_the_check_knows_open_clips_tags_and_passes_what_loads(
    clip_folder: Path, dinov2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match=r"it has no weights called 'webli' \(known: openai,"):
        check_encoders(EncodersSection(clip=ClipSection(model="ViT-B-32")))
    with pytest.raises(
        RecipeError, match="timm/ViT-SO400M-14-SigLIP-384 is not in the Hub's cache"
    ):
        check_encoders(EncodersSection(clip=ClipSection()))
    section = EncodersSection(
        clip=ClipSection(model=str(clip_folder)), dinov2=Dinov2Section(model=str(dinov2_folder))
    )
    check_encoders(section)
    opened = Encoders(section)
    assert {name: type(opened.open(name)) for name in opened.fingerprints} == {
        "pixels": PixelsEncoder,
        "clip": ClipEncoder,
        "dinov2": Dinov2Encoder,
    }
    assert opened.open("clip") is opened.open("clip")


@pytest.mark.slow
def test_a_model_without_weights_is_never_run_with_random_ones(
    clip_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(
        (clip_folder / "open_clip_config.json").read_bytes()
    )
    with pytest.raises(RecipeError, match=r"encoders\.clip: cannot load"):
        ClipEncoder(ClipSection(model=str(tmp_path)))
    with pytest.raises(RecipeError, match=r"encoders\.clip: cannot load"):
        check_encoders(EncodersSection(clip=ClipSection(model=str(tmp_path))))
    with pytest.raises(RecipeError, match=r"encoders\.clip: cannot load 'RN50'"):
        ClipEncoder(ClipSection(model="RN50", pretrained=None))


def _with_code(folder: Path, written: Path, config: dict[str, object]) -> Path:
    """A folder that names code of its own, which would leave a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text(f"open({str(written)!r}, 'w').write('ran')\n")
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_code_that_an_encoder_brings_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "n")
    written = tmp_path / "written"
    names = ("AutoConfig", "AutoModel", "AutoImageProcessor")
    stated = {
        "model_type": "mine",
        "image_processor_type": "Mine",
        "tokenizer_class": "Mine",
        "auto_map": {
            **dict.fromkeys(names, "mine.Mine"),
            "AutoTokenizer": ["mine.Mine", "mine.Mine"],
        },
    }
    folder = _with_code(tmp_path / "dinov2", written, stated)
    with pytest.raises(RecipeError, match=r"encoders\.dinov2: cannot load .+custom code"):
        Dinov2Encoder(Dinov2Section(model=str(folder)))
    clip = make_clip(tmp_path / "clip", SIGLIP_TYPE, {})
    _with_code(clip, written, stated)
    with pytest.raises(RecipeError, match=r"encoders\.clip: cannot load .+custom code"):
        ClipEncoder(ClipSection(model=f"local-dir:{clip}"))
    assert not written.exists()
    assert not asked


def changed(folder: Path, copy: Path, file: str, change: Callable[[dict], dict]) -> Path:
    """A copy of a model whose tensors are others."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, copy)
    save_file(change(load_file(folder / file)), copy / file, metadata={"format": "pt"})
    return copy


def narrower(tensors: dict, name: str) -> dict:
    return {key: value[:, :7].clone() if key == name else value for key, value in tensors.items()}


@pytest.mark.slow
def test_weights_of_another_model_are_refused_with_names_and_sizes_before_any_work(
    clip_folder: Path, dinov2_folder: Path, tmp_path: Path
) -> None:
    weights = "open_clip_model.safetensors"
    wide = changed(
        clip_folder, tmp_path / "wide", weights, lambda all_: narrower(all_, "visual.proj")
    )
    with pytest.raises(RecipeError) as caught:
        check_encoders(EncodersSection(clip=ClipSection(model=str(wide))))
    told = str(caught.value)
    assert "size mismatch for visual.proj" in told and "[32, 7]" in told and "\n" not in told
    check_encoders(EncodersSection(clip=ClipSection(model=str(wide))), load=False)
    less = changed(
        clip_folder,
        tmp_path / "less",
        weights,
        lambda all_: {key: value for key, value in all_.items() if "ln_final" not in key},
    )
    with pytest.raises(RecipeError, match=r"Missing key.* \"ln_final.weight\", \"ln_final.bias\""):
        check_encoders(EncodersSection(clip=ClipSection(model=str(less))))
    name = "layernorm.weight"
    without = changed(
        dinov2_folder,
        tmp_path / "without",
        "model.safetensors",
        lambda all_: {key: value for key, value in all_.items() if key != name},
    )
    with pytest.raises(RecipeError, match=r"1 tensors are missing \(layernorm.weight\)"):
        check_encoders(EncodersSection(dinov2=Dinov2Section(model=str(without))))
    other = changed(
        dinov2_folder,
        tmp_path / "other",
        "model.safetensors",
        lambda all_: {key: v[:1].clone() if key == name else v for key, v in all_.items()},
    )
    with pytest.raises(RecipeError, match=r"layernorm.weight is \[1\] in the file and \[\d+\] in"):
        Dinov2Encoder(Dinov2Section(model=str(other)))
