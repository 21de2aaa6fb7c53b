"""Recipes: a YAML file plus `a.b=value` overrides becomes one frozen, validated value.

Knows nothing of what a recipe is for; each package declares its own shape from `Section`.
"""

import difflib
import hashlib
import json
import operator
import os
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

# Set by `ray job submit` for the entry point of a job (ray/_private/runtime_env/constants.py).
JOB_ENVIRONMENT_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"

_ROOT = Path(__file__).resolve().parents[2]
RECIPE_FOLDERS = (_ROOT / "recipes", _ROOT / "svco" / "recipes")  # of a checkout; of the wheel


class UserError(ValueError):
    """Something that the person who started a job can mend.

    A command shows its message alone and ends with `exit_code`.
    """

    exit_code = 2


class RecipeError(UserError):
    """A recipe, an override or a path in them cannot be used."""


MAX_REASON_CHARS = 2_000


def first_line(error: BaseException) -> str:
    """What an error says, on one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def whole_reason(error: BaseException) -> str:
    """All that an error says, on one line; after 2,000 characters it says how much was left out.

    For errors whose first line is a heading: "Error(s) in loading state_dict for CLIP:".
    """
    words = " ".join(str(error).split()) or type(error).__name__
    rest = len(words) - MAX_REASON_CHARS
    return words if rest <= 0 else f"{words[:MAX_REASON_CHARS]} ... ({rest:,} characters more)"


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __hash__(self) -> int:
        """By value, also where fields are lists and maps, which have no hash of their own."""
        return hash(self.model_dump_json())


S = TypeVar("S", bound=Section)


def load_recipe(
    recipe: str | Path, overrides: Sequence[str] | Mapping[str, object], shape: type[S]
) -> S:
    """A recipe with `overrides` applied, as a `shape`.

    Args:
        recipe: A YAML file, or the name of one in recipes/.
        overrides: "a.b=value", "list.0.key=value", as typed; or values by such keys.

    Raises:
        RecipeError: The file is missing or no mapping, an override has no "=", or a value is not
            allowed; the message names the key, what was given, what is allowed, and the nearest
            known key.
    """
    path = find_recipe(recipe)
    try:
        config = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {str(path)!r} is not valid YAML: {error}") from error
    if not isinstance(config, DictConfig):
        raise RecipeError(
            f"recipe {str(path)!r}: expected a mapping of keys at the top, got a list"
        )
    for override in overrides.items() if isinstance(overrides, Mapping) else overrides:
        _apply(config, override)
    try:
        return shape.model_validate(
            OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        )
    except MissingMandatoryValue as error:
        key = (error.full_key or "").replace("[", ".").replace("]", "")
        raise RecipeError(f"recipe {str(path)!r}: {key} is required; give {key}=VALUE") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"recipe {str(path)!r}: {error}") from error
    except ValidationError as error:
        said = "; ".join(_explain(item, shape) for item in error.errors())
        raise RecipeError(f"recipe {str(path)!r}: {said}") from error


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a recipe that comes with the toolkit.

    Raises:
        RecipeError: There is none.
    """
    path = Path(recipe).expanduser()
    if path.is_file():
        return path
    is_name = len(path.parts) == 1 and path.suffix in ("", ".yaml")
    ours = {file.stem: file for folder in RECIPE_FOLDERS for file in folder.glob("*.yaml")}
    if is_name and path.stem in ours:
        return ours[path.stem]
    nearest = difflib.get_close_matches(path.stem, ours, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise RecipeError(
        f"recipe {str(recipe)!r}: expected a YAML file, found none there, nor is it one of"
        f" {', '.join(sorted(ours))}{hint}"
    )


def _apply(config: DictConfig, override: str | tuple[str, object]) -> None:
    """Applies "a.b=value" as typed, or (key, value)."""
    if isinstance(override, str):
        key, equals, raw = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {override!r}: expected key=value, for example data.seed=1")
    try:
        # from_dotlist parses the value as OmegaConf's YAML does (1e-3 is a number); update reaches
        # into lists.
        if isinstance(override, str):
            value = OmegaConf.from_dotlist([f"value={raw}"])["value"]
        else:
            key, value = override
        OmegaConf.update(config, key, value, merge=True)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, IndexError, TypeError) as error:
        raise RecipeError(
            f"override {override!r} cannot be applied: {first_line(error)}"
        ) from error


def _explain(item: Any, shape: type[Section]) -> str:
    """One validation error as a sentence: key, what came, what is allowed, nearest known key."""
    location: tuple[int | str, ...] = item["loc"]
    said = str(item["msg"]).removeprefix("Value error, ")
    if not location:
        # a check of the whole recipe, which names the keys that it is about; all the others would
        # hide them
        return said
    parents, named = _walk(location[:-1], shape)
    known = sorted({name for parent in parents for name in parent.model_fields})
    key = ".".join([*named, str(location[-1])])
    if item["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f", did you mean {nearest[0]!r}?" if nearest else ""
        return f"{key}: unknown key{hint} (known here: {', '.join(known)})"
    if item["type"] == "missing":
        return f"{key}: required, but not given"
    return f"{key}: {said}, got {item['input']!r}"


def _walk(
    location: Iterable[int | str], shape: type[Section]
) -> tuple[list[type[Section]], list[str]]:
    """The sections that a validation path leads to, and the path as the user wrote it.

    That is without the tags of unions.
    """
    models, named = [shape], []
    for step in map(str, location):
        fields = [model.model_fields[step] for model in models if step in model.model_fields]
        tagged = [
            model
            for model in models
            if "kind" in model.model_fields
            and step in typing.get_args(model.model_fields["kind"].annotation)
        ]
        if fields:
            models = [model for field in fields for model in _sections_in(field.annotation)]
        elif tagged:  # the tag of a discriminated union, which is no key of the recipe
            models = tagged
            continue
        named.append(step)
    return models, named


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _sections_in(argument)]


def fingerprint(*parts: object) -> str:
    """16 hex digits that change with any of `parts` (sections, dicts, texts, numbers)."""
    canonical = json.dumps(
        parts,
        default=operator.methodcaller("model_dump", mode="json"),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def resolved_yaml(section: Section) -> str:
    """The whole recipe with every default filled in, as YAML."""
    return yaml.safe_dump(
        section.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
    )


def absolute_path(path: str, what: str) -> str:
    """`path` made absolute; a URI such as s3://bucket/key stays as it is.

    Inside a Ray job the working directory is a temporary copy: what is relative there would be
    missing or lost.

    Raises:
        RecipeError: A relative path inside a Ray job.
    """
    if "://" in path:
        return path
    local = Path(path).expanduser()
    if not local.is_absolute() and in_ray_job():
        raise RecipeError(
            f"{what}={path}: a Ray job runs in a temporary copy of the folder, so a relative path"
            f" is lost there; give the absolute form, for example {what}=/data/{path.lstrip('./')}"
            f" or s3://bucket/{path.lstrip('./')}"
        )
    return str(Path(os.path.abspath(local)))


_HUB_NAME = re.compile(r"(?P<org>[\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)


def has_hub_form(text: str, *, needs_org: bool = True) -> bool:
    """Whether a text is of the form ORG/NAME, or NAME alone where that is allowed."""
    match = _HUB_NAME.fullmatch(text)
    return match is not None and (match["org"] is not None or not needs_org)


def is_hub_id(text: str, *, needs_org: bool = True) -> bool:
    """Whether what may be a path or the id of a Hub repository is the latter.

    What lies on this disk comes before what the Hub calls so, and a revision is no part of an id.

        "org/name"  ->  True, unless there is a file or folder of that name
        "./org/name", "/org/name", "~/name", "s3://org/name", "org\\name"  ->  False
        "org/name@main"  ->  False

    Args:
        needs_org: Whether a name without "/" is a path, even where nothing is called so.
    """
    return has_hub_form(text, needs_org=needs_org) and not Path(text).exists()


def in_ray_job() -> bool:
    """Whether this process is the entry point of a submitted Ray job."""
    return JOB_ENVIRONMENT_VARIABLE in os.environ
