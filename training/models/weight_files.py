"""Which tensors a model folder holds, read from the headers of its safetensors files.

Knows nothing of torch, nor of which tensors a model needs.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.recipe import UserError, first_line
from pipeline.core.storage import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LFS_POINTER = b"version https://git-lfs"
AGAIN = "download it again, or save it again with save_pretrained"
# How names of other layouts start, and what they are.
LAYOUTS = {
    "base_model.model.": "names of a model that peft wrapped: save it after merge_and_unload()",
    "model.mm_projector.": (
        "the layout of the original LLaVA code: take the converted model (llava-hf on the Hub)"
    ),
    "module.": "names of a model that DistributedDataParallel wrapped: save its .module",
    "_orig_mod.": "names of a model that torch.compile wrapped: save its _orig_mod",
}


class StoredTensor(NamedTuple):
    """A tensor as a header states it; types as safetensors calls them, such as "BF16"."""

    shape: tuple[int, ...]
    dtype: str


class Loading(NamedTuple):
    """How the tensors of files and of a model fit, by transformers' own renaming of both."""

    expected: frozenset[str]
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: frozenset[str]

    @classmethod
    def of(cls, info: Mapping[str, Any], expected: Iterable[str]) -> "Loading":
        """From what `from_pretrained` tells when it is asked for `output_loading_info`."""
        return cls(
            frozenset(expected),
            frozenset(info["missing_keys"]),
            frozenset(info["unexpected_keys"]),
            frozenset(name for name, *_ in info["mismatched_keys"]),
        )


def model_tensors(model: str | Path) -> dict[str, StoredTensor]:
    """The tensors of a model in a folder, in the Hub's cache, or on the Hub.

    Raises:
        UserError: They cannot be had, or are not whole; with the reason.
    """
    if Path(model).is_dir():
        return stored_tensors(Path(model))
    from huggingface_hub import HfApi, try_to_load_from_cache

    for name in (WEIGHTS, INDEX):
        cached = try_to_load_from_cache(str(model), name)
        if isinstance(cached, str):
            return stored_tensors(Path(cached).parent)
    try:
        files = HfApi().get_safetensors_metadata(str(model)).files_metadata.values()
    except Exception as error:  # the Hub's own, and the HTTP library's
        raise UserError(
            f"model {str(model)!r}: neither a folder here nor weights as safetensors that the Hub"
            f" gives ({type(error).__name__}: {first_line(error)})"
        ) from error
    return {
        name: StoredTensor(tuple(tensor.shape), str(tensor.dtype))
        for file in files
        for name, tensor in file.tensors.items()
    }


def floating_types(model: str | Path) -> frozenset[str]:
    """The types of a model's floating-point tensors, such as "BF16"; the model as above."""
    return frozenset(
        tensor.dtype for tensor in model_tensors(model).values() if "F" in tensor.dtype
    )


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors that transformers would read from a model's folder, by name.

    Raises:
        UserError: No safetensors, a file that is cut off or missing, or an index that is wrong.
    """
    if (folder / WEIGHTS).is_file():
        return _tensors_of(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        others = sorted(
            path.name
            for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.ckpt")
            for path in folder.glob(pattern)
        )
        held = f"only {', '.join(others[:3])}" if others else "none"
        raise UserError(
            f"model {str(folder)!r}: expected a whole Hugging Face model folder with weights in"
            f" {WEIGHTS} or {INDEX}, found {held}; save the model with save_pretrained"
        )
    index = read_json(folder / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{folder / INDEX}: expected a weight_map of tensors to files; {AGAIN}")
    files = sorted(set(map(str, weight_map.values())))
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise UserError(
            f"model {str(folder)!r}: {len(absent)} of the {len(files)} files that {INDEX} names are"
            f" not there ({_some(absent)}); {AGAIN}"
        )
    return {name: tensor for file in files for name, tensor in _tensors_of(folder / file).items()}


def adapter_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder of adapters, by name.

    Raises:
        UserError: No safetensors, or a file that is cut off.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"adapters {str(folder)!r}: expected their weights in {ADAPTER_WEIGHTS}, found none;"
            " save them with save_pretrained"
        )
    return _tensors_of(folder / ADAPTER_WEIGHTS)


def _tensors_of(file: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            slices = ((name, opened.get_slice(name)) for name in opened.keys())  # noqa: SIM118
            tensors = {
                name: StoredTensor(tuple(part.get_shape()), str(part.get_dtype()))
                for name, part in slices
            }
    except (SafetensorError, OSError) as error:
        with file.open("rb") as opened_again:
            is_pointer = opened_again.read(len(LFS_POINTER)) == LFS_POINTER
        raise UserError(
            f"{file}: {file.stat().st_size:,} bytes that are no whole safetensors file"
            f" ({'a pointer of Git LFS' if is_pointer else error});"
            f" {'git lfs pull' if is_pointer else AGAIN}"
        ) from error
    if not tensors:
        raise UserError(f"{file}: holds no tensor; {AGAIN}")
    return tensors


def base_of_adapter(path: str | Path) -> str | None:
    """The model that the adapters in a folder belong to; None if it holds none.

    The folder itself where the whole model lies beside them, as transformers reads it.
    """
    folder = Path(path)
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    if (folder / "config.json").is_file():
        return str(folder)
    stated = read_json(folder / ADAPTER_CONFIG)
    base = stated.get("base_model_name_or_path") if isinstance(stated, dict) else None
    if not base:
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: expected base_model_name_or_path, the model that the"
            " adapters belong to, got none; write its folder or Hub id there"
        )
    return str(base)


def refuse_integers(model: str | Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises UserError if weights are stored in integers, of which config.json says nothing."""
    packed = [
        name
        for name, tensor in tensors.items()
        if name.endswith("weight")
        and tensor.dtype[:1] in ("I", "U", "B")
        and tensor.dtype != "BF16"
    ]
    if packed:
        raise UserError(
            f"model {str(model)!r} cannot be used: {len(packed):,} of its weights are stored as"
            f" integers ({_some(packed)}), and its config.json does not say how they were"
            " quantized; give the model that it was made from"
        )


def refuse_misfit(model: str | Path, loading: Loading) -> None:
    """Raises UserError unless every tensor of a model came from its files, and each was used."""
    facts = [
        _fact(loading.missing, f"of {len(loading.expected):,} tensors missing"),
        _fact(loading.unexpected, "unexpected"),
        _fact(loading.mismatched, "of another shape than config.json says"),
    ]
    if any(facts):
        raise UserError(
            f"model {str(model)!r}: its files do not hold the tensors that it has:"
            f" {', '.join(filter(None, facts))}; {_remedy(loading.unexpected)}"
        )


def refuse_misfit_of_adapters(adapters: str | Path, base: str, loading: Loading) -> None:
    """Raises UserError unless all tensors of adapters have their place in the base.

    Modules that the file does not mention keep adapters that do nothing.
    """
    there = {_adapted(name) for name in loading.expected - loading.missing - loading.mismatched}
    torn = {name for name in loading.missing if ".lora_" not in name or _adapted(name) in there}
    facts = [
        _fact(torn, "missing"),
        _fact(loading.unexpected, "unexpected"),
        _fact(loading.mismatched, f"of another shape than the base and {ADAPTER_CONFIG} say"),
    ]
    if not any(facts) and loading.expected == loading.missing:
        facts = ["none fits"]
    if any(facts):
        raise UserError(
            f"adapters {str(adapters)!r} do not fit their base {base!r}: of their tensors"
            f" {', '.join(filter(None, facts))}; name the base that they were trained on in"
            f" {ADAPTER_CONFIG}, or save them again with save_pretrained"
        )


def _adapted(name: str) -> str:
    """The module that an adapter's tensor belongs to."""
    return name.partition(".lora_")[0]


def _fact(names: Collection[str], what: str) -> str:
    return f"{len(names):,} {what} ({_some(names)})" if names else ""


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


def _remedy(unexpected: Iterable[str]) -> str:
    """What to do, by the layout that the names of unexpected tensors give away."""
    return next(
        (
            f"they have {remedy}"
            for name in unexpected
            for start, remedy in LAYOUTS.items()
            if name.startswith(start) or f".{start}" in name
        ),
        AGAIN,
    )
