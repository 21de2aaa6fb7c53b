"""The S-VCO toolkit from Python: build pairs, finetune on them, measure whether the model looks.

    import svco

    mvc = svco.build("mvc_pairs", out="build/mvc", overrides={"sources.0.path": "PAIRS.jsonl"})
    model = svco.train("svco_tiny", out="build/model", overrides={"data": mvc})
    both = {"model": model, "data": mvc}
    scores = svco.evaluate("eval_contrast", out="build/eval", overrides=both)

A recipe is a YAML file, or the name of one that comes with the toolkit; overrides are its keys, as
on the command line. What is there already from the same recipe is not made again. Importing this
loads neither torch nor Ray.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

    from eval.ask import Opinion

__version__ = "0.1.0"
__all__ = ["ask", "build", "evaluate", "load_pairs", "losses", "reference", "train"]


def __getattr__(name: str) -> Any:
    """`svco.losses`, the objectives as functions of log-ratios, once somebody asks for it."""
    if name == "losses":
        import importlib

        return importlib.import_module("training.objectives.losses")
    raise AttributeError(f"module 'svco' has no attribute {name!r}")


def build(
    recipe: str | Path, *, out: str | Path, overrides: Mapping[str, object] | None = None
) -> Path:
    """Builds an MVC folder; returns it (of a build to a URI, the local copy).

    Raises:
        UserError: Something that the user can mend.
    """
    from pipeline import build_mvc
    from pipeline.config import BuildSection
    from pipeline.core.recipe import load_recipe
    from pipeline.stages.plan import plan_build

    plan = plan_build(load_recipe(recipe, _with_out(overrides, out), BuildSection))
    build_mvc.build(plan)
    return plan.out


def train(
    recipe: str | Path, *, out: str | Path, overrides: Mapping[str, object] | None = None
) -> Path:
    """Finetunes a model on an MVC folder; returns the folder of the model.

    Raises:
        UserError: Something that the user can mend.
    """
    from pipeline.core.recipe import load_recipe
    from training import train_svco
    from training.config import TrainSection
    from training.run_plan import plan_training

    plan = plan_training(load_recipe(recipe, _with_out(overrides, out), TrainSection))
    train_svco.train(plan)
    return plan.out


def reference(
    recipe: str | Path, *, out: str | Path, overrides: Mapping[str, object] | None = None
) -> Path:
    """Computes a reference model's log-probabilities once, for all runs; returns their folder.

    Raises:
        UserError: Something that the user can mend.
    """
    from pipeline.core.recipe import load_recipe
    from training.config import TrainSection
    from training.make_reference import make_reference
    from training.run_plan import plan_reference

    plan = plan_reference(load_recipe(recipe, _with_out(overrides, out), TrainSection))
    make_reference(plan)
    return plan.out


def evaluate(
    recipe: str | Path, *, out: str | Path, overrides: Mapping[str, object] | None = None
) -> Path:
    """Measures whether a model looks at the image; returns the folder of scores.json and the page.

    Raises:
        UserError: Something that the user can mend.
    """
    from eval import run_eval
    from eval.config import EvalSection
    from eval.plan import plan_evaluation
    from pipeline.core.recipe import load_recipe

    plan = plan_evaluation(load_recipe(recipe, _with_out(overrides, out), EvalSection))
    run_eval.evaluate(plan)
    return plan.out


def ask(
    model: str | Path,
    images: "Sequence[str | Path | Image]",
    question: str,
    *,
    answers: tuple[str, str] | None = None,
    max_new_tokens: int = 64,
    device: str = "auto",
) -> "Opinion":
    """What a model says about each of two images, and how likely it finds each of two answers.

    Args:
        images: Two, as files or PIL images.
        answers: To image a and image b; without them the model's own two are judged.

    Raises:
        UserError: Images, a question or a model that cannot be used.
    """
    from eval.ask import ask as ask_model
    from eval.ask import device_of, models_of, rgb_images

    return ask_model(
        models_of(str(model)).after,
        rgb_images(images),
        question,
        answers,
        device=device_of(device),
        max_new_tokens=max_new_tokens,
    )


def load_pairs(folder_or_id: str | Path, split: str = "train") -> "Dataset":
    """The pairs of an MVC folder or of a data set on the Hub, images decoded as they are read.

    Raises:
        UserError: No MVC folder, or no such split.
    """
    from pipeline.dataset.load import load_pairs as load

    return load(str(folder_or_id), split)


def _with_out(overrides: Mapping[str, object] | None, out: str | Path) -> dict[str, object]:
    given = {**(overrides or {}), "out": out}
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
