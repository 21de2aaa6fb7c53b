"""Which files a model consists of, found without loading any.

It is shipped with this package, in a local folder, or on the Hub.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from pipeline.core.recipe import is_hub_id
from pipeline.core.storage import sha256_file

BUILTIN, LOCAL_DIR, HF_HUB = "builtin:", "local-dir:", "hf-hub:"
_BUILTIN_FOLDER = Path(__file__).resolve().parent / "models"
# What decides an embedding: weights, configuration, and the vocabulary of a tokenizer.
_DECISIVE = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt")


def local_folder(model: str) -> Path | None:
    """The folder that `model` names, there or not; None for a name that names no folder.

    "builtin:scenes-clip"  ->  the folder shipped with this package, wherever a job has unpacked it
    "local-dir:PATH"       ->  PATH, as open_clip writes it
    "PATH"                 ->  PATH, where it is there or can be nothing else: "./x", "/x", "~/x"
    """
    if model.startswith(BUILTIN):
        return _BUILTIN_FOLDER / model.removeprefix(BUILTIN)
    if model.startswith(HF_HUB) or is_hub_id(model, needs_org=False):
        return None
    return Path(model.removeprefix(LOCAL_DIR)).expanduser()


def builtin_models() -> list[str]:
    """The names that "builtin:NAME" may stand for."""
    return sorted(path.name for path in _BUILTIN_FOLDER.iterdir() if path.is_dir())


def model_files(model: str) -> dict[str, str]:
    """The sha256 of each file of a local model that decides its embeddings.

    Empty for a name that stands for no folder. Goes into fingerprints, so that changed weights
    under the same path are noticed.
    """
    folder = local_folder(model)
    if folder is None or not folder.is_dir():
        return {}
    files = sorted(path for path in folder.iterdir() if path.suffix in _DECISIVE)
    return {
        path.name: _sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files
    }


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001
    """Weights are gigabytes, and one plan asks for their hashes more than once."""
    return sha256_file(path)


def folder_fault(folder: Path, needed: Sequence[str]) -> str:
    """What a model folder lacks of `needed` (glob patterns), in words; "" where it is complete."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    missing = [pattern for pattern in needed if not any(folder.glob(pattern))]
    return f"{folder} holds no {missing[0]}" if missing else ""
