"""The demonstration: the three jobs in a row on built-in data, each with the command that a user would type."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline.progress import say

ROOT = Path(__file__).resolve().parent.parent


def commands(out: Path) -> list[tuple[str, list[str]]]:
    """(what happens, arguments after `python`) of each job; the first data set is made, then used by the other two."""
    mvc, model, scores = out / "mvc", out / "model", out / "eval"
    return [
        ("1/3  scenes become an MVC data set", ["pipeline/build_mvc.py", "--recipe", "recipes/mvc_demo.yaml", f"out={mvc}"]),
        (
            "2/3  a tiny LLaVA is pretrained (it sees, but leans on language), then finetuned with S-VCO",
            ["training/train_svco.py", "--recipe", "recipes/svco_tiny.yaml", f"data={mvc}", f"out={model}"],
        ),
        (
            "3/3  does it look at the image now? before and after, on scenes that it has never seen",
            ["eval/run_eval.py", "--recipe", "recipes/eval_contrast.yaml", f"model={model}", f"data={mvc}", f"out={scores}"],
        ),
    ]


def run(out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("build/demo")) -> None:
    """Run the whole product on built-in data: offline, a few minutes on two CPU cores."""
    started_s = time.monotonic()
    out = Path(os.path.abspath(out))
    # The commands run at the project's root; shown as a user would type them there.
    out = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    for title, arguments in commands(out):
        say(f"\n{title}\n$ python {shlex.join(arguments)}")
        finished = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False)
        if finished.returncode != 0:
            print(f"error: the command above ended with exit code {finished.returncode}; its last lines say why", file=sys.stderr)
            raise SystemExit(finished.returncode)
    say(f"\nThe demonstration took {time.monotonic() - started_s:.0f} s. Open {ROOT / out / 'eval' / 'report.html'} in a browser.")


def main() -> None:
    """The entry point of `svco demo`."""
    typer.run(run)
