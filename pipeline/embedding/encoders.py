"""Image encoders behind one small protocol: `pixels` (no weights), open_clip, DINOv2.

torch, open_clip and transformers load only when an encoder that needs them is opened. A picture is
prepared by itself, in any thread; prepared pictures are encoded in batches of a fixed size, the
last one padded, because an embedding depends on the batch size in its last bits but not on its
companions: so it does not depend on where a run was interrupted, nor on which of its chunk's images
were known before.
"""

# Shapes: N images or texts, D dimensions.

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from PIL import Image
from pydantic import Field

from pipeline.core.hub_models import without_reports
from pipeline.core.recipe import RecipeError, Section, fingerprint, whole_reason
from pipeline.embedding import pixels
from pipeline.embedding.model_files import HF_HUB, LOCAL_DIR, local_folder, model_files
from pipeline.embedding.pixels import Floats, PixelsEncoder

if TYPE_CHECKING:
    import torch

VERSION = 1  # of how models are run; the weight-free encoder has its own

Device = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")


class PixelsSection(Section):
    """The weight-free low-level descriptor; see `pipeline.embedding.pixels`."""

    enabled: bool = True


class ClipSection(Section):
    """An open_clip model; without fields, the paper's SigLIP.

    `model` is a name with a tag in `pretrained`, "hf-hub:org/name", a local folder in open_clip's
    layout (open_clip_config.json beside the weights), or "builtin:scenes-clip", which knows the
    built-in scenes and nothing else.
    """

    model: str = "ViT-SO400M-14-SigLIP-384"
    pretrained: str | None = "webli"  # plays no part where the model is a folder or hf-hub:
    device: str = Device
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_images: int = Field(default=32, gt=0)


class Dinov2Section(Section):
    """A DINOv2 model of transformers: a Hub id or a local folder.

    Pooling is not stated by the paper, so it is a choice.
    """

    model: str = "facebook/dinov2-large"
    revision: str | None = None
    pooling: Literal["cls", "mean"] = "cls"
    device: str = Device
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_images: int = Field(default=32, gt=0)


class EncodersSection(Section):
    """Which encoders run; one that is null leaves its scores null."""

    pixels: PixelsSection = PixelsSection()
    clip: ClipSection | None = None
    dinov2: Dinov2Section | None = None


class Encoder(Protocol):
    """Images to vectors, one row per image; rows need not have length 1."""

    batch_images: int

    def prepare(self, image: Image.Image) -> Any:
        """What the model takes in place of an RGB picture. Called from several threads."""

    def encode_images(self, prepared: Sequence[Any]) -> Floats:
        """The vectors of prepared pictures, [N, D]."""


@runtime_checkable
class TextEncoder(Protocol):
    """An encoder whose texts lie in the space of its images."""

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """The vectors of texts, [N, D]."""


class ClipEncoder:
    """An open_clip model: images and texts into one space, with the model's own preprocessing."""

    def __init__(self, section: ClipSection) -> None:
        import open_clip

        folder = local_folder(section.model)
        name = section.model if folder is None else f"{LOCAL_DIR}{folder}"
        tag = section.pretrained if folder is None and not name.startswith(HF_HUB) else None
        try:
            # Unlike `create_model_and_transforms`, this refuses a model without weights, which
            # would be random.
            with _without_foreign_code():
                model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=tag)
                tokenizer = open_clip.get_tokenizer(name)
        # open_clip raises many kinds for one fact: these weights cannot be had here
        except Exception as error:
            raise RecipeError(
                f"encoders.clip: cannot load {section.model!r} (pretrained {tag!r}):"
                f" {type(error).__name__}: {whole_reason(error)}"
            ) from error
        self.batch_images = section.batch_images
        self._section = section
        self._model: Any = model.eval().to(section.device)
        self._preprocess: Callable[[Image.Image], torch.Tensor] = preprocess
        self._tokenizer = tokenizer

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Resized, cropped and normalised pixels, [3, H, W]."""
        return self._preprocess(image)

    def encode_images(self, prepared: Sequence["torch.Tensor"]) -> Floats:
        """Image embeddings, [N, D], not normalised."""
        return _run(self._section, prepared, self._model.encode_image)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Text embeddings, [N, D], not normalised."""
        return _run(self._section, list(self._tokenizer(list(texts))), self._model.encode_text)


@contextlib.contextmanager
def _without_foreign_code() -> Iterator[None]:
    """Code that a model brings is an error to transformers, which would ask on a terminal.

    For calls through open_clip, which does not pass `trust_remote_code=False` on.
    """
    from transformers import dynamic_module_utils

    asked_s = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = asked_s


class Dinov2Encoder:
    """A DINOv2 backbone of transformers with its own image processor."""

    def __init__(self, section: Dinov2Section) -> None:
        from transformers import AutoImageProcessor, AutoModel

        name = str(local_folder(section.model) or section.model)
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(
                name, revision=section.revision, trust_remote_code=False
            )
            with without_reports():
                model, loading = AutoModel.from_pretrained(
                    name,
                    revision=section.revision,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # told below, with what is missing
                )
        # transformers and safetensors raise many kinds for one fact, as open_clip does
        except Exception as error:
            raise RecipeError(
                f"encoders.dinov2: cannot load {section.model!r}: {type(error).__name__}:"
                f" {whole_reason(error)}"
            ) from error
        if misfit := _misfit(loading):
            raise RecipeError(
                f"encoders.dinov2: cannot load {section.model!r}: {misfit}; what is missing would"
                " be random numbers. Fetch the model again, or name one that is whole"
            )
        self.batch_images = section.batch_images
        self._section = section
        self._model: Any = model.eval().to(section.device)
        # The class token and, in some models, registers come before the patches.
        self._num_prefix = 1 + getattr(model.config, "num_register_tokens", 0)

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Resized, cropped and normalised pixels, [3, H, W]."""
        return self._processor(images=[image], return_tensors="pt")["pixel_values"][0]

    def encode_images(self, prepared: Sequence["torch.Tensor"]) -> Floats:
        """Class tokens or mean patch tokens after the last norm, [N, D]."""
        return _run(self._section, prepared, self._pooled)

    def _pooled(self, pixels: "torch.Tensor") -> "torch.Tensor":
        states: torch.Tensor = self._model(pixel_values=pixels).last_hidden_state
        return (
            states[:, 0]
            if self._section.pooling == "cls"
            else states[:, self._num_prefix :].mean(dim=1)
        )


def _misfit(loading: Mapping[str, Any]) -> str:
    """Which tensors a model has that its files do not, or in another size; "" where all fit."""
    sizes = [
        f"{name} is {list(there)} in the file and {list(needed)} in the model"
        for name, there, needed in sorted(loading["mismatched_keys"])
    ]
    others = {name for name, *_ in loading["mismatched_keys"]}
    missing = sorted(set(loading["missing_keys"]) - others)
    words = [f"{len(missing)} tensors are missing ({', '.join(missing)})"] if missing else []
    return whole_reason(ValueError("; ".join(words + sizes))) if words or sizes else ""


def _run(
    section: ClipSection | Dinov2Section,
    inputs: Sequence["torch.Tensor"],
    forward: Callable[[Any], Any],
) -> Floats:
    """`forward` over batches of exactly `batch_images`; the last repeats its first input."""
    import torch

    size, device = section.batch_images, section.device
    autocast = torch.autocast(
        device.split(":")[0], torch.bfloat16, enabled=section.dtype == "bfloat16"
    )
    rows = []
    with torch.inference_mode(), autocast:
        for start in range(0, len(inputs), size):
            batch = list(inputs[start : start + size])
            padding = batch[:1] * (size - len(batch))
            rows.append(
                forward(torch.stack(batch + padding).to(device))[: len(batch)].float().cpu()
            )
    return torch.cat(rows).numpy()


class Encoders:
    """The encoders that a section asks for, by name; each is loaded when first needed."""

    def __init__(self, section: EncodersSection) -> None:
        self._section = section
        self._open = functools.cache(self._load)
        self.fingerprints = encoder_fingerprints(section)

    def open(self, name: str) -> Encoder:
        """One encoder, loaded.

        Raises:
            RecipeError: It cannot be loaded, with the reason.
        """
        return self._open(name)

    def _load(self, name: str) -> Encoder:
        if name == "clip" and self._section.clip is not None:
            return ClipEncoder(self._section.clip)
        if name == "dinov2" and self._section.dinov2 is not None:
            return Dinov2Encoder(self._section.dinov2)
        assert name == "pixels" and self._section.pixels.enabled, f"{name} is off"
        return PixelsEncoder()


def encoder_fingerprints(section: EncodersSection) -> dict[str, str]:
    """What each enabled encoder's vectors depend on: equal fingerprints, equal vectors.

    Hashed are the code's version, model, tag, revision, the files of a local model, pooling,
    arithmetic and batch size (which moves the last bits); not the device. A Hub name without a
    revision means whatever the Hub holds: pin it where that matters.

    Raises:
        RecipeError: Every encoder is off.
    """
    fingerprints = (
        {"pixels": fingerprint("pixels", pixels.VERSION)} if section.pixels.enabled else {}
    )
    for name in ("clip", "dinov2"):
        part = getattr(section, name)
        if part is not None:
            described = part.model_dump(mode="json", exclude={"device"})
            files = model_files(part.model)
            if files:  # what lies in the folder counts, not where the folder lies
                described |= {"model": None, "pretrained": None}
            fingerprints[name] = fingerprint(name, VERSION, described, files)
    if not fingerprints:
        raise RecipeError("encoders: every encoder is off; enable pixels, clip or dinov2")
    return fingerprints
