"""The shape of the model that a recipe names: from the known models, its folder, or the Hub.

known_models.json holds of each known model the configuration that it was published with, without
what its class gives by default, and the shape that `remember` read from that class: so a plan for
it loads neither torch nor transformers. A test reads each shape again and compares.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.recipe import first_line
from pipeline.core.storage import read_json
from training.estimate.model_shape import ModelShape, ShapeError, shape_of_config
from training.tiny.config import TinySection

KNOWN_FILE = Path(__file__).with_name("known_models.json")
PUBLISHED = "the table of published models"


@functools.cache
def known_models() -> Mapping[str, Mapping[str, Any]]:
    """By its name on the Hub: a model's `config` and `shape`."""
    return dict(read_json(KNOWN_FILE))


def known_shape(model: str) -> ModelShape:
    """The shape of a known model."""
    return ModelShape.model_validate(known_models()[model]["shape"])


def remember(model: str, config: Mapping[str, Any] | None = None) -> None:
    """Writes a model and its shape into known_models.json; a run from a checkout keeps it.

    Args:
        config: What its config.json says; None: ask the Hub.
    """
    config = dict(_from_hub(model) if config is None else config)
    entry = {"config": config, "shape": shape_of_config(config).model_dump(mode="json")}
    lines = (
        f"{json.dumps(name)}: {json.dumps(known)}"
        for name, known in sorted({**known_models(), model: entry}.items())
    )
    KNOWN_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    known_models.cache_clear()


def find_shape(model: str, tiny: TinySection, *, hub: bool = True) -> tuple[ModelShape, str]:
    """The shape of a recipe's model, and where it is known from.

    Args:
        hub: Whether the Hub may be asked for the configuration of a model that is neither here nor
            among the known ones.

    Raises:
        ShapeError: It cannot be known, with the reason.
    """
    if model == "tiny":
        from training.tiny.model import untrained_config

        # Its vocabulary may be smaller where the texts have fewer words.
        return shape_of_config(untrained_config(tiny, tiny.vocab_tokens).to_dict()), "the recipe"
    if (Path(model) / "config.json").is_file():
        source, config = f"{model}/config.json", read_json(Path(model) / "config.json")
    elif model in known_models():
        return known_shape(model), PUBLISHED
    elif hub:
        source, config = "its config.json on the Hub", _from_hub(model)
    else:
        raise ShapeError(
            f"model={model}: no folder here, and not among {', '.join(known_models())}"
        )
    try:
        return shape_of_config(config), source
    except ShapeError as error:
        raise ShapeError(f"model={model}: {error}") from error


def _from_hub(model: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return dict(read_json(Path(hf_hub_download(model, "config.json"))))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ShapeError(
            f"model={model}: not a folder here, not in the table of published models, and the Hub"
            f" gave no config.json ({first_line(error)}); give a folder, or log in if the model is"
            " gated"
        ) from error
