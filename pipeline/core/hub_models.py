"""Whether a model on the Hub can be had here, before any of it is loaded."""

from collections.abc import Sequence


def hub_fault(repo: str, files: Sequence[str], revision: str | None = None) -> str:
    """Why none of `files` of a Hub repository can be had, in words; "" where one can."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if any(
        isinstance(try_to_load_from_cache(repo, file, revision=revision), str) for file in files
    ):
        return ""
    if constants.HF_HUB_OFFLINE:
        return f"{repo} is not in the Hub's cache on this disk, and HF_HUB_OFFLINE is set"
    try:
        HfApi().model_info(repo, revision=revision, timeout=10)
    # the HTTP library's own for "no network", which differ between versions, and the Hub's
    except Exception as error:
        return (
            f"{repo} is not in the Hub's cache on this disk, and the Hub does not give it"
            f" ({type(error).__name__})"
        )
    return ""
