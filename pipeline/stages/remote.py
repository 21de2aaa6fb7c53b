"""A remote `out` (s3://, gs://, hf:// ...): built in a local folder, then put there.

The manifest comes last, so that it says "complete".
"""

import json
from pathlib import Path
from typing import Any

from pipeline.core.manifest import Manifest
from pipeline.core.recipe import UserError, fingerprint
from pipeline.core.storage import cache_dir


def local_folder(out: str) -> Path:
    """Where the content of `out` is made: there, or for a URI in the cache."""
    return cache_dir() / "out" / fingerprint(out) if "://" in out else Path(out)


def _open(out: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(out)
    except (ValueError, ImportError) as error:
        raise UserError(f"out={out}: no such kind of storage here ({error})") from error
    return filesystem, str(root).rstrip("/")


def remote_manifest(out: str) -> Manifest:
    """The manifest behind a URI, or an empty one where there is none.

    Raises:
        UserError: The storage cannot be reached.
    """
    filesystem, root = _open(out)
    try:
        manifest: Manifest = json.loads(filesystem.cat_file(f"{root}/manifest.json"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"out={out}: cannot be read ({type(error).__name__}: {error}); check the address and"
            " the credentials"
        ) from error
    return manifest


def push(folder: Path, out: str) -> None:
    """Puts a finished folder behind a URI and removes stale shards there.

    The manifest goes away first and comes back last.

    Raises:
        UserError: The storage cannot be written.
    """
    filesystem, root = _open(out)
    names = list(json.loads((folder / "manifest.json").read_text())["files"])
    try:
        if filesystem.exists(f"{root}/manifest.json"):
            filesystem.rm_file(f"{root}/manifest.json")
        for name in [*names, "README.md", "report.html", "result.json", "manifest.json"]:
            filesystem.makedirs(f"{root}/{name}".rsplit("/", 1)[0], exist_ok=True)
            filesystem.put_file(str(folder / name), f"{root}/{name}")
        for part in ("data", "rejects"):
            for path in filesystem.glob(f"{root}/{part}/*.parquet"):
                if f"{part}/{path.rsplit('/', 1)[1]}" not in names:
                    filesystem.rm_file(path)
    except OSError as error:
        raise UserError(
            f"out={out}: cannot be written ({type(error).__name__}: {error}); run the same command"
            " again to go on"
        ) from error
