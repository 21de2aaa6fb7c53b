"""The one command: `svco VERB ...` runs a job of the factory, the trainer or the evaluation."""

import difflib
import importlib
import sys
from collections.abc import Callable
from typing import Any

import svco

# Verb -> (module with run(), what it does). Modules load only when their verb is called.
VERBS = {
    "demo": ("eval.demo", "everything on built-in data, offline, in minutes on a laptop CPU"),
    "build": ("pipeline.build_mvc", "build an MVC data set from a recipe"),
    "sweep": ("pipeline.sweep", "show how many pairs other thresholds would keep"),
    "report": ("pipeline.report.page", "make the page of an MVC folder again"),
    "rewrite-audit": (
        "pipeline.rewrite.review_page",
        "make a page of rewrites for a person to judge",
    ),
    "validate": ("pipeline.dataset.validate", "check an MVC folder against schema and manifest"),
    "publish": (
        "pipeline.hub.publish",
        "push an MVC folder or a finetuned model to the Hugging Face Hub",
    ),
    "export": ("pipeline.dataset.export", "write an MVC folder in another format"),
    "reference": (
        "training.make_reference",
        "compute the reference model's log-probabilities of a data set once, for all runs",
    ),
    "plan": (
        "training.plan_cli",
        "memory, time and cost of a training run, before anything starts",
    ),
    "train": ("training.train_svco", "finetune a vision-language model on an MVC data set"),
    "eval": ("eval.run_eval", "measure whether a model looks at the image"),
    "compare": (
        "eval.compare.cli",
        "compare finished evaluations: scores, intervals, which differences are significant",
    ),
    "ask": (
        "eval.ask",
        "what a model says about each of two images, and how sure it is of the other's answer",
    ),
    "doctor": (
        "svco.doctor",
        "versions, GPU, memory, Ray, Hub, disk: what will not work, and what to do",
    ),
}


def usage() -> str:
    """The help text."""
    return "\n".join(
        [
            "usage: svco VERB [--recipe NAME] [key=value ...]",
            "",
            *(f"  {verb:<15}{what}" for verb, (_, what) in VERBS.items()),
            "",
            "svco help VERB tells what a verb takes; svco --version, which toolkit this is.",
        ]
    )


def command_of(verb: str) -> Callable[..., Any]:
    """The typed function behind a verb."""
    return importlib.import_module(VERBS[verb][0]).run


def main() -> None:
    """Runs the verb in sys.argv with the remaining arguments."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    verb, *rest = arguments
    if verb in ("-V", "--version"):
        print(f"svco-toolkit {svco.__version__}")
        return
    if verb not in VERBS:
        nearest = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        print(
            f"error: {verb!r} is no verb of svco{hint} (expected one of {', '.join(VERBS)})",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from pipeline.core.cli import run_command

    sys.argv = [f"svco {verb}", *rest]
    run_command(command_of(verb))
