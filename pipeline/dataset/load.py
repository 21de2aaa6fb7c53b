"""Published pairs as a `datasets.Dataset`: of a folder on this machine, or of the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.recipe import first_line
from pipeline.core.schema import MvcError, read_manifest
from pipeline.core.storage import cache_dir, sha256_file

if TYPE_CHECKING:
    from datasets import Dataset


def load_pairs(folder_or_id: str, split: str) -> "Dataset":
    """The pairs of one split: the columns of the contract, images decoded as they are read.

    Args:
        split: "train" or "validation".

    Raises:
        MvcError: No MVC folder and no data set on the Hub that can be read, or no such split.
    """
    import datasets

    kept_in = None
    if Path(folder_or_id).is_dir():
        read_manifest(folder_or_id)
        # `datasets` takes folders of one name for one data set; the manifest has every file's hash.
        content = sha256_file(Path(folder_or_id) / "manifest.json")
        kept_in = str(cache_dir() / "datasets" / content[:16])
    try:
        return datasets.load_dataset(folder_or_id, split=split, cache_dir=kept_in)
    # of a missing split, a missing data set, and a Hub that cannot be reached
    except (ValueError, OSError) as error:
        raise MvcError(
            f"{folder_or_id}: split {split!r} cannot be loaded ({first_line(error)}); expected an"
            " MVC folder or the id of a data set on the Hub"
        ) from error
