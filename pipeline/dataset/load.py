"""Published pairs as a `datasets.Dataset`: of a folder on this machine, or of the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.recipe import first_line
from pipeline.core.schema import MvcError, read_manifest

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

    if Path(folder_or_id).is_dir():
        read_manifest(folder_or_id)
    try:
        return datasets.load_dataset(folder_or_id, split=split)
    # of a missing split, a missing data set, and a Hub that cannot be reached
    except (ValueError, OSError) as error:
        raise MvcError(
            f"{folder_or_id}: split {split!r} cannot be loaded ({first_line(error)}); expected an"
            " MVC folder or the id of a data set on the Hub"
        ) from error
