"""Whether a model can be loaded and asked, found from configuration and headers before anything
starts.

Knows nothing of torch: where it is not loaded yet, and will not be, the check has a process of its
own. What was found whole is not looked at again while its files stay as they are.
"""

import contextlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.recipe import UserError, fingerprint
from pipeline.core.storage import cache_dir, read_json, write_json
from training.models.weight_files import base_of_adapter

VERSION = 1  # of the check
# Prints what is done to each chat template, or what is wrong, for a person, and ends with 2.
_CHECK = """
import sys
from pipeline.core.recipe import UserError
from training.models.vlm import check_model
try:
    for model in sys.argv[2:]:
        print(check_model(model, trained=sys.argv[1] == "trained"))
except UserError as error:
    print(error)
    sys.exit(2)
"""


def check_models(models: Sequence[str | Path], *, trained: bool, here: bool) -> list[str]:
    """What `vlm.check_model` returns for each.

    Args:
        trained: Whether it is what training starts from.
        here: Whether this process loads torch anyway.

    Raises:
        UserError: One cannot be used, with the reason.
    """
    records = {model: _record(model, trained) for model in models}
    said = {
        model: str(read_json(record)["said"])
        for model, record in records.items()
        if record is not None and record.is_file()
    }
    left = [model for model in records if model not in said]
    if left:
        said |= zip(left, _look(left, trained=trained, here=here), strict=True)
    for model in left:
        record = records[model]
        if record is not None:
            with contextlib.suppress(OSError):  # a cache that takes none costs another look
                write_json(record, {"model": str(model), "said": said[model]})
    return [said[model] for model in models]


def _record(model: str | Path, trained: bool) -> Path | None:
    """Where it is noted that a folder's files were found whole; None for a Hub id.

    Named by their sizes and times of change, and by who looked.
    """
    if not Path(model).is_dir():
        return None
    try:
        folders = {Path(model), Path(base_of_adapter(model) or model)}
        files = [
            (str(path), path.stat().st_size, path.stat().st_mtime_ns)
            for folder in sorted(folders)
            for path in sorted(folder.glob("*.*"))
        ]
    except (OSError, ValueError, KeyError, TypeError):  # which the check puts into words
        return None
    versions = [importlib.metadata.version(name) for name in ("transformers", "peft")]
    name = fingerprint(VERSION, trained, versions, files)
    return cache_dir() / "whole-models" / f"{name}.json"


def _look(models: Sequence[str | Path], *, trained: bool, here: bool) -> list[str]:
    if here or "torch" in sys.modules:
        from training.models.vlm import check_model

        return [check_model(model, trained=trained) for model in models]
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, "trained" if trained else "asked", *map(str, models)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    if done.returncode == 2 and done.stdout:
        raise UserError(done.stdout.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(f"the check of {', '.join(map(str, models))} failed:\n{done.stderr}")
    return done.stdout.splitlines()
