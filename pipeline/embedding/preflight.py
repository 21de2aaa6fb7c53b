"""Whether the models of a recipe can be had here, before any work and without weights."""

import difflib
import importlib.util
from pathlib import Path

from pipeline.core.hub_models import hub_fault
from pipeline.core.recipe import RecipeError
from pipeline.embedding.encoders import (
    ClipEncoder,
    ClipSection,
    Dinov2Encoder,
    EncodersSection,
    encoder_fingerprints,
)
from pipeline.embedding.model_files import (
    BUILTIN,
    HF_HUB,
    builtin_models,
    folder_fault,
    local_folder,
)

# as open_clip looks for them in a repository
_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_REMEDY = "fetch it once where there is a network, give a local folder, or leave this encoder out"


def check_encoders(section: EncodersSection, *, load: bool = True) -> None:
    """Makes sure that each model can be had: on disk, in the Hub's cache, or on the Hub.

    Imports open_clip, and so torch, where the section names one of its pretrained models.

    Args:
        load: Also whether weights that are files of the user's fit their model, which is known only
            by loading them: seconds here instead of an error after Ray has started and rows are in.

    Raises:
        RecipeError: One cannot; what was looked for, where, and what to do.
    """
    encoder_fingerprints(section)
    if section.clip is not None:
        fault = _clip_fault(section.clip)
        if fault:
            raise RecipeError(
                f"encoders.clip: cannot load {section.clip.model!r}: {fault}; {_REMEDY}"
                " (encoders.clip=null)"
            )
    if section.dinov2 is not None:
        folder = local_folder(section.dinov2.model)
        needed = ("config.json", "preprocessor_config.json", "*.safetensors")
        fault = (
            folder_fault(folder, needed)
            if folder
            else hub_fault(section.dinov2.model, needed[:1], section.dinov2.revision)
        )
        if fault:
            raise RecipeError(
                f"encoders.dinov2: cannot load {section.dinov2.model!r}: {fault}; {_REMEDY}"
                " (encoders.dinov2=null)"
            )
    if load:
        _load_own(section)


def _load_own(section: EncodersSection) -> None:
    """Loads each model of the user's files, and lets go of it."""
    clip, dinov2 = section.clip, section.dinov2
    if clip is not None and not clip.model.startswith(BUILTIN) and _is_own(clip):
        ClipEncoder(clip.model_copy(update={"device": "cpu"}))
    if dinov2 is not None and local_folder(dinov2.model) is not None:
        Dinov2Encoder(dinov2.model_copy(update={"device": "cpu"}))


def _is_own(section: ClipSection) -> bool:
    pretrained = section.pretrained
    return local_folder(section.model) is not None or (
        pretrained is not None and Path(pretrained).is_file()
    )


def _clip_fault(section: ClipSection) -> str:
    folder = local_folder(section.model)
    if (
        section.model.startswith(BUILTIN)
        and section.model.removeprefix(BUILTIN) not in builtin_models()
    ):
        return f"built in are {', '.join(BUILTIN + name for name in builtin_models())}"
    if folder is not None:
        weights = "*.safetensors" if any(folder.glob("*.safetensors")) else "*.bin"
        return folder_fault(folder, ("open_clip_config.json", weights))
    if section.model.startswith(HF_HUB):
        return hub_fault(section.model.removeprefix(HF_HUB), ("open_clip_config.json",))
    known = _open_clip_names()
    if section.model not in known:
        nearest = difflib.get_close_matches(section.model, known, n=1)
        return "open_clip has no such model" + (f", did you mean {nearest[0]!r}" if nearest else "")
    return _pretrained_fault(section)


def _open_clip_names() -> list[str]:
    spec = importlib.util.find_spec("open_clip")  # finds the package without importing it
    folders = spec.submodule_search_locations if spec else []
    return sorted(
        path.stem
        for folder in folders or []
        for path in (Path(folder) / "model_configs").glob("*.json")
    )


def _pretrained_fault(section: ClipSection) -> str:
    """Why the weights or the tokenizer of a named open_clip model cannot be had, or ""."""
    from open_clip import get_model_config, get_pretrained_cfg, list_pretrained_tags_by_model

    if section.pretrained and Path(section.pretrained).is_file():
        return ""
    source = get_pretrained_cfg(section.model, section.pretrained or "")
    if not source:
        tags = ", ".join(list_pretrained_tags_by_model(section.model)) or "none"
        return f"it has no weights called {section.pretrained!r} (known: {tags})"
    repo, _, file = source.get("hf_hub", "").rpartition("/")
    files = (file,) if file else _OPEN_CLIP_WEIGHTS
    tokenizer = get_model_config(section.model)["text_cfg"].get("hf_tokenizer_name")
    # a bare URL: open_clip keeps its own cache of those
    fault = hub_fault(repo, files) if repo else ""
    return fault or (
        hub_fault(tokenizer, ("tokenizer.json", "tokenizer_config.json")) if tokenizer else ""
    )
