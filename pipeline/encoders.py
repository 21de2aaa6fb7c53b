"""Image encoders behind one small protocol: `pixels` (no weights), open_clip, DINOv2.

An encoder is opened from its section of the recipe. torch, open_clip and transformers load only when one that needs
them is opened. Batches have a fixed size, the last one padded, because an embedding depends on the batch size in its
last bits but not on its companions: so a row's embedding does not depend on where a run was interrupted.
"""

# Shapes: N images or texts, D dimensions.

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from pipeline.recipe import RecipeError, Section

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]


class PixelsSection(Section):
    """The weight-free low-level descriptor; see `pixels_descriptor`."""

    enabled: bool = True


class ClipSection(Section):
    """An open_clip model. `model` is a name ("ViT-SO400M-14-SigLIP-384"), "hf-hub:org/name", or a local folder in
    open_clip's layout (open_clip_config.json beside the weights)."""

    model: str
    pretrained: str | None = None
    device: str = "cpu"
    batch_images: int = Field(default=32, gt=0)


class Dinov2Section(Section):
    """A DINOv2 model of transformers: a Hub id or a local folder. Pooling is not stated by the paper, so it is a choice."""

    model: str
    revision: str | None = None
    pooling: Literal["cls", "mean"] = "cls"
    device: str = "cpu"
    batch_images: int = Field(default=32, gt=0)


class EncodersSection(Section):
    """Which encoders run; one that is null leaves its scores null."""

    pixels: PixelsSection = PixelsSection()
    clip: ClipSection | None = None
    dinov2: Dinov2Section | None = None


class Encoder(Protocol):
    """Images to vectors, one row per image; rows need not have length 1."""

    name: str

    def encode_images(self, images: Sequence[Image.Image]) -> Floats: ...


class PixelsEncoder:
    """`pixels_descriptor` as an encoder."""

    name = "pixels"

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Descriptors, [N, 320]."""
        return np.stack([pixels_descriptor(image) for image in images])


def pixels_descriptor(image: Image.Image) -> Floats:
    """Low-level look of a picture in 320 numbers: where which colours and which edges are. No weights, no meaning.

    The picture is resized to 64 x 64 (box filter). Half of the descriptor are the mean R, G, B of an 8 x 8 grid, in
    [-0.5, 0.5] (192 numbers); the other half are, for each cell of a 4 x 4 grid, the gradient magnitude in 8 unsigned
    orientations (128 numbers). Each half is scaled to length 1 (a half that is all zero, as a flat picture's edges,
    stays zero but for a constant first entry), so both weigh the same in a cosine.
    """
    small = image.resize((64, 64), Image.Resampling.BOX)
    rgb = np.asarray(small, dtype=np.float32) / 255.0
    colours = rgb.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).ravel() - 0.5
    dy, dx = np.gradient(rgb.mean(axis=2))
    strength = np.hypot(dx, dy)
    bins = ((np.arctan2(dy, dx) % np.pi) / np.pi * 8).astype(np.int64) % 8
    cells = (np.arange(64) // 16)[:, None] * 4 + (np.arange(64) // 16)[None, :]
    edges = np.bincount((cells * 8 + bins).ravel(), weights=strength.ravel(), minlength=128).astype(np.float32)
    return np.concatenate([_unit(colours), _unit(edges)])


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    if length < 1e-6:
        vector = np.zeros_like(vector)
        vector[0] = 1.0
        return vector
    return vector / np.float32(length)


class ClipEncoder:
    """An open_clip model: images and texts into one space, with the model's own preprocessing."""

    name = "clip"

    def __init__(self, section: ClipSection) -> None:
        import open_clip
        import torch

        name = f"local-dir:{section.model}" if Path(section.model).is_dir() else section.model
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=section.pretrained)
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # open_clip raises many kinds for one fact: these weights cannot be had here
            raise RecipeError(
                f"encoders.clip: cannot load {section.model!r} (pretrained {section.pretrained!r}): {_first_line(error)}"
            ) from error
        self._section = section
        self._model = model.eval().to(section.device)
        self._preprocess: Callable[[Image.Image], torch.Tensor] = preprocess
        self._tokenizer = tokenizer

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Image embeddings, [N, D], not normalised."""
        import torch

        pixels = torch.stack([self._preprocess(image) for image in images])
        return _in_fixed_batches(pixels, self._section.batch_images, self._section.device, self._model.encode_image)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Text embeddings, [N, D], not normalised."""
        tokens = self._tokenizer(list(texts))
        return _in_fixed_batches(tokens, self._section.batch_images, self._section.device, self._model.encode_text)


class Dinov2Encoder:
    """A DINOv2 backbone of transformers with its own image processor."""

    name = "dinov2"

    def __init__(self, section: Dinov2Section) -> None:
        from transformers import AutoImageProcessor, AutoModel

        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(section.model, revision=section.revision)
            model = AutoModel.from_pretrained(section.model, revision=section.revision, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise RecipeError(f"encoders.dinov2: cannot load {section.model!r}: {_first_line(error)}") from error
        self._section = section
        self._model: Any = model.eval().to(section.device)

    def encode_images(self, images: Sequence[Image.Image]) -> Floats:
        """Class tokens or mean patch tokens after the last norm, [N, D]."""
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        return _in_fixed_batches(pixels, self._section.batch_images, self._section.device, self._pooled)

    def _pooled(self, pixels: "torch.Tensor") -> "torch.Tensor":
        states: torch.Tensor = self._model(pixel_values=pixels).last_hidden_state
        return states[:, 0] if self._section.pooling == "cls" else states[:, 1:].mean(dim=1)


def _in_fixed_batches(inputs: "torch.Tensor", size: int, device: str, forward: Callable[[Any], Any]) -> Floats:
    """`forward` over batches of exactly `size` rows; the last is padded by repeating its first row."""
    import torch

    rows = []
    with torch.inference_mode():
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            padding = batch[:1].expand(size - len(batch), *batch.shape[1:])
            rows.append(forward(torch.cat([batch, padding]).to(device))[: len(batch)].float().cpu())
    result: Floats = torch.cat(rows).numpy()
    return result


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def open_encoders(section: EncodersSection) -> list[Encoder]:
    """The enabled encoders, loaded.

    Raises:
        RecipeError: A model that cannot be loaded, with the reason.
    """
    encoders: list[Encoder] = []
    if section.pixels.enabled:
        encoders.append(PixelsEncoder())
    if section.clip is not None:
        encoders.append(ClipEncoder(section.clip))
    if section.dinov2 is not None:
        encoders.append(Dinov2Encoder(section.dinov2))
    if not encoders:
        raise RecipeError("encoders: every encoder is off; enable pixels, clip or dinov2")
    return encoders


def model_files(model: str) -> dict[str, str]:
    """The sha256 of each weight file of a local model folder; empty for a name that is not a local folder.

    Goes into the stage fingerprint, so that changed weights under the same path are noticed.
    """
    from pipeline.store import sha256_file

    folder = Path(model.removeprefix("local-dir:"))
    if not folder.is_dir():
        return {}
    wanted = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".json"))
    return {path.name: sha256_file(path) for path in wanted}
