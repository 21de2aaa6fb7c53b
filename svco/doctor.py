"""`svco doctor`: what this machine has, and whether a model can be loaded, by its headers."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import doctor
from pipeline.core.hub_models import hub_fault
from pipeline.core.recipe import UserError
from pipeline.doctor import Finding


def check_model(model: str) -> Finding:
    """Whether a folder or Hub id is a model whose files hold all tensors of its class."""
    if not Path(model).is_dir():
        fault = hub_fault(model, ("config.json", "model.safetensors"))
        if fault:
            return Finding("problem", "model", fault, "give the folder of a model, or its Hub id")
    from training.models.vlm import check_model as look_at

    try:
        look_at(model, trained=False)
    except UserError as error:
        fact, _, remedy = str(error).rpartition("; ")
        return Finding("problem", "model", fact or remedy, remedy if fact else "")
    return Finding("OK", "model", f"{model}: its files hold all tensors that its class expects")


def run(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A model folder or Hub id, to look at as well."),
    ] = None,
) -> None:
    """Check versions, GPU, memory, Ray, Hub token and disk, and say what to do.

    It says what will not work, and looks only. With a model also whether its files are whole.
    """
    doctor.run(() if model is None else (check_model(str(Path(model).expanduser())),))
