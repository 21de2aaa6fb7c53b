"""Models of transformers and the Hub: whether one can be had here, and loading without noise."""

import contextlib
from collections.abc import Iterator, Sequence


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


@contextlib.contextmanager
def without_reports() -> Iterator[None]:
    """Keeps back transformers' table of what did not fit, which is told in one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
