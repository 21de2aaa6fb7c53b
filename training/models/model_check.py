"""Whether a model can be loaded and asked, found from configuration and headers before anything
starts.

Knows nothing of torch: where it is not loaded yet, and will not be, the check has a process of its
own.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.recipe import UserError

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
