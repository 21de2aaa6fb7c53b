#!/usr/bin/env python3
"""Finetunes a vision-language model on an MVC folder: the job behind `svco train`."""

import shutil
import threading
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline.core.cli import recipe_command, run_command
from pipeline.core.progress import say, summary_table
from pipeline.core.ray_pool import check_cuda, check_resources, ray_session, try_gpu
from pipeline.core.recipe import UserError, resolved_yaml
from pipeline.core.storage import only_one, write_json, write_text
from pipeline.core.training_record import RECORD, TrainingRecord, measured_rows
from training.config import TrainSection, WorkersSection
from training.run_plan import (
    ATTEMPT,
    CHECKPOINTS,
    METRICS,
    RECIPE,
    ROUNDED,
    RUN,
    TEMPLATE,
    TRAINING_RUN,
    Plan,
    check_base,
    plan_training,
    run_facts,
)
from training.runtime.driver_messages import follow


def train(plan: Plan) -> TrainingRecord:
    """Runs the plan unless it is done already; returns what svco.json says.

    Raises:
        UserError: Something that the user can mend.
    """
    if plan.finished is not None:
        say(f"{plan.out}: already trained with this recipe on this data; nothing to do")
        return plan.finished
    section, workers = plan.section, plan.section.workers
    known = check_base(section)
    if TEMPLATE in known:
        say(f"{section.model}: its template {known[TEMPLATE]}; serve what is trained likewise")
    if ROUNDED in known:
        say(f"{section.model}: {ROUNDED}, {known[ROUNDED]}")
    with only_one(plan.out, "out"), ray_session() if workers.num_workers else nullcontext():
        TRAINING_RUN.claim(
            plan.out,
            "An unfinished or finished run of training/train_svco.py, which may write here.\n",
        )
        _check_workers(workers)
        write_text(plan.out / RECIPE, resolved_yaml(section))
        # of a run whose weights are gone: what is made now is not finished
        (plan.out / RECORD).unlink(missing_ok=True)
        write_json(plan.out / CHECKPOINTS / RUN, run_facts(section))
        # Workers of a driver that was killed may live for some seconds more; they find another
        # name here than theirs and end.
        write_text(plan.out / CHECKPOINTS / ATTEMPT, uuid.uuid4().hex)
        say(
            f"training {section.model} with {section.objective.name} on {section.data} ->"
            f" {plan.out}"
        )
        if section.model == "tiny":
            from training.tiny.make import make_tiny

            shutil.copytree(
                make_tiny(Path(section.data), section.tiny), section.base_model, dirs_exist_ok=True
            )
        return _fit_with_ray(plan) if workers.num_workers else _fit_here(plan)


def _check_workers(workers: WorkersSection) -> None:
    """Before anything is made: what Ray Train would wait for, or tell in a traceback."""
    if not workers.num_workers:
        if workers.use_gpu:
            check_cuda()
        return
    number = workers.min_workers or workers.num_workers  # which start together or not at all
    cpus = number * workers.cpus_per_worker
    check_resources(gpus=number if workers.use_gpu else 0, cpus=cpus)
    if workers.use_gpu:
        try_gpu()


def _fit_here(plan: Plan) -> TrainingRecord:
    from training.runtime.environment import LocalEnv
    from training.trainer.loop import fit

    return fit(plan.section, LocalEnv(device="cuda" if plan.section.workers.use_gpu else "cpu"))


def _fit_with_ray(plan: Plan) -> TrainingRecord:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from training.train_worker import train_worker

    workers, scratch = plan.section.workers, plan.out / ".ray"
    # of a run that was killed: Ray Train would take it up, but the loop does
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(exist_ok=True)
    messages = scratch / "messages.jsonl"
    scaling = ScalingConfig(
        num_workers=(
            workers.num_workers
            if workers.min_workers is None
            else (workers.min_workers, workers.num_workers)
        ),
        use_gpu=workers.use_gpu,
        resources_per_worker={
            "CPU": workers.cpus_per_worker,
            **({"GPU": 1} if workers.use_gpu else {}),
        },
    )
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "recipe": plan.section.model_dump(mode="json"),
            "messages": str(messages),
        },
        scaling_config=scaling,
        run_config=RunConfig(
            name="svco",
            storage_path=str(scratch),
            logging_config=LoggingConfig("ERROR"),
            callbacks=[_no_second_try()],
            # The loop goes on from its own last checkpoint in `out`.
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    say(f"starting {_workers(workers.num_workers)}")
    done = threading.Event()
    listener = threading.Thread(target=follow, args=(messages, done))
    listener.start()
    try:
        return trainer.fit().return_value
    except WorkerGroupError as error:
        raise _cause(error.worker_failures) from error
    except ControllerError as error:
        raise error.controller_failure from error
    finally:
        done.set()
        listener.join()
        shutil.rmtree(scratch, ignore_errors=True)


def _no_second_try() -> Any:
    """A callback that ends the run at an error that the user has to mend.

    Workers that start again would meet it again.
    """
    from ray.train import UserCallback

    class NoSecondTry(UserCallback):
        # called by keywords
        def after_exception(
            self, *, worker_exceptions: dict[int, Exception], **_context: Any
        ) -> None:
            error = _cause(worker_exceptions)
            if isinstance(error, UserError):
                # which Ray Train does not count as a failure of workers, so max_failures does not
                # apply
                raise error

    return NoSecondTry()


def _workers(number: int) -> str:
    return f"{number} Ray worker" + ("s" if number > 1 else "")


def _cause(failures: dict[int, Exception]) -> Exception:
    """What to tell of several workers' errors, without Ray's wrapping.

    One that the user can mend, else the lowest rank's.

    When one worker fails, the others lose their connection to it and fail as well, whatever their
    rank.
    """
    errors = [getattr(error, "cause", None) or error for _, error in sorted(failures.items())]
    return next((error for error in errors if isinstance(error, UserError)), errors[0])


def print_plan(plan: Plan) -> None:
    """What a run would do, without doing it."""
    section, optim = plan.section, plan.section.optim
    place = _workers(section.workers.num_workers) if section.workers.num_workers else "this process"
    rows = [
        ["model", section.model],
        *map(list, check_base(section, only_planned=True).items()),
        ["objective", section.objective.name],
        ["data", section.data],
        [
            "pairs",
            (
                f"{plan.num_pairs['train']:,} for training, {plan.num_pairs['validation']:,} for"
                " validation"
            ),
        ],
        [
            "steps",
            (
                f"{optim.num_steps(plan.num_pairs['train']):,} of {optim.batch_pairs} pairs,"
                f" {optim.micro_batch_pairs} in a pass"
            ),
        ],
        ["runs on", place + (" with a GPU each" if section.workers.use_gpu else "")],
        ["out", section.out + (" (finished)" if plan.finished else "")],
    ]
    summary_table("Plan", ["what", "value"], rows)


def print_result(plan: Plan, record: TrainingRecord) -> None:
    """Before and after on the held-out pairs, where the model is, and what to run next."""
    start, final, seconds = record["start"], record["final"], record["seconds"]
    if final:
        summary_table("Held-out pairs", ["", "before", "after"], measured_rows(start, final))
    say(
        f"{record['steps']} steps in {seconds['training']:.1f} s ({seconds['total']:.1f} s with"
        " loading and the reference)"
    )
    say(f"model   {plan.out}\nlog     {plan.out}/{METRICS}")
    on_gpu = " workers.use_gpu=true dtype=bfloat16" if plan.section.workers.use_gpu else ""
    say(
        "next    svco eval --recipe eval_contrast"
        f" model={plan.out} data={plan.section.data} out={plan.out}-eval{on_gpu}"
    )


def _train(section: TrainSection) -> None:
    plan = plan_training(section)
    print_result(plan, train(plan))


run = recipe_command(
    TrainSection,
    "svco_tiny",
    "Finetune a vision-language model on an MVC folder.",
    work=_train,
    show_plan=lambda section: print_plan(plan_training(section)),
)

if __name__ == "__main__":
    run_command(run)
