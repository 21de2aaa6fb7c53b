"""The demonstration: the three jobs in a row, each with the command that a user would type."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.progress import say
from pipeline.core.recipe import UserError
from pipeline.core.storage import write_text

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def commands(out: Path, build: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(What happens, verb and arguments) of each job.

    `build` says what of, and the other two use the data set that it makes.
    """
    mvc, model, scores = out / "mvc", out / "model", out / "eval"
    return [
        ("1/3  an MVC data set", ["build", *build, f"out={mvc}"]),
        (
            "2/3  a tiny LLaVA is pretrained (it sees, but leans on language), then finetuned with"
            " S-VCO",
            ["train", "--recipe", "svco_tiny", f"data={mvc}", f"out={model}"],
        ),
        (
            "3/3  does it look at the image now? before and after, on pairs that it has never seen",
            ["eval", "--recipe", "eval_contrast", f"model={model}", f"data={mvc}", f"out={scores}"],
        ),
    ]


def build_from(photos: Path | None, out: Path) -> list[str]:
    """The build's arguments for a folder of photographs, or for built-in scenes.

    A folder has pairs.jsonl (pairs), or labels.jsonl (single photographs, of which pairs are made),
    or one folder per label with photographs in it; for the last a manifest is written into `out`.

    Raises:
        UserError: It has none of these.
    """
    if photos is None:
        return ["--recipe", "mvc_demo"]
    if (photos / "pairs.jsonl").is_file():
        return ["--recipe", "mvc_pairs", f"sources.0.path={photos / 'pairs.jsonl'}"]
    edits, manifest = ["--recipe", "mvc_edits"], photos / "labels.jsonl"
    if manifest.is_file():
        return [*edits, f"sources.0.path={manifest}"]
    lines = [
        {"image": str(path.relative_to(photos)), "label": path.parent.name}
        for path in sorted(photos.glob("*/*"))
        if path.suffix.lower() in IMAGE_ENDINGS
    ]
    if not lines:
        raise UserError(
            f"photos={photos}: expected pairs.jsonl, labels.jsonl, or one folder per label with"
            " photographs in it, and found none; docs/own-data.md shows each, the shortest as"
            ' lines of {"image": "rex.jpg", "label": "dog"} in labels.jsonl'
        )
    written = out / "labels.jsonl"
    write_text(written, "".join(json.dumps(line) + "\n" for line in lines))
    # Folders name no individuals, so each photograph counts as one: in few folds each label keeps
    # several of them.
    return [
        *edits,
        f"sources.0.path={written}",
        f"sources.0.root={photos}",
        "sources.0.num_folds=4",
        "validation.fraction=0.25",
    ]


def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value]...",
            help="Overrides of the data set's recipe, for example sources.0.num_pairs=500.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where everything goes [default: build/demo, or build/photos]."),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Your own: a folder with pairs.jsonl, or labels.jsonl, or one folder of photographs"
                " per label."
            )
        ),
    ] = None,
) -> None:
    """Run the whole product, on built-in data or on your photographs: offline, a few minutes on two
    CPU cores.
    """
    started_s = time.monotonic()
    out = out or Path("build/photos" if photos else "build/demo")
    build = [*build_from(photos and Path(os.path.abspath(photos)), out), *(overrides or [])]
    for title, arguments in commands(out, build):
        say(f"\n{title}\n$ svco {shlex.join(arguments)}")
        finished = subprocess.run([sys.executable, "-m", "svco", *arguments], check=False)
        if finished.returncode != 0:
            print(
                f"error: the command above ended with exit code {finished.returncode}; its last"
                " lines say why",
                file=sys.stderr,
            )
            raise SystemExit(finished.returncode)
    say(f"\nThe demonstration took {time.monotonic() - started_s:.0f} s. Open in a browser:")
    say(
        f"  {(out / 'eval' / 'report.html').absolute()}   pictures whose answer changed, scores"
        " before and after"
    )
    say(f"  {(out / 'mvc' / 'report.html').absolute()}   what became of every pair, and why")
