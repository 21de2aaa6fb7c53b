#!/usr/bin/env python3
"""The one command: `svco VERB ...` runs a job of the data set factory, the trainer or the
evaluation.
"""

import importlib
import sys

# Verb -> (module with main(), what it does). Modules load only when their verb is called.
VERBS = {
    "demo": ("eval.demo", "everything on built-in data, offline, in minutes on a laptop CPU"),
    "build": ("pipeline.build_mvc", "build an MVC data set from a recipe"),
    "sweep": ("pipeline.selection.sweep", "show how many pairs other thresholds would keep"),
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
        "compute the reference model's log-probabilities of an MVC data set once, for all runs",
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
        "pipeline.doctor",
        "versions, GPU, memory, Ray, Hub, disk: what will not work, and what to do",
    ),
}


def usage() -> str:
    """The help text."""
    lines = [f"  {verb:<15}{what}" for verb, (_, what) in VERBS.items()]
    return "\n".join(
        [
            "usage: svco VERB [--recipe FILE] [key=value ...]",
            "",
            *lines,
            "",
            "svco VERB --help tells what a verb takes.",
        ]
    )


def main() -> None:
    """Runs the verb in sys.argv with the remaining arguments."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    verb = arguments[0]
    if verb not in VERBS:
        print(
            f"error: {verb!r} is no verb of svco; expected one of {', '.join(VERBS)}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    sys.argv = [f"svco {verb}", *arguments[1:]]
    importlib.import_module(VERBS[verb][0]).main()


if __name__ == "__main__":
    main()
