"""The training loop: exact over any number of workers and any micro-batch. No Ray here.

Shapes: N pairs in a split.
"""

import itertools
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.core.schema import MvcError
from pipeline.core.storage import write_json
from pipeline.core.training_record import RECORD, TrainingRecord
from training.config import TrainSection
from training.data.feature_store import stored_features
from training.data.pairs import DataState, PairReader, batches, pairs_of_run
from training.data.prefetch import prefetched
from training.data.reference_table import feature_facts
from training.data.vision_features import VisionFeatures
from training.estimate.advice import is_out_of_memory, out_of_memory
from training.models.packing import Ints
from training.models.unusable import TOO_LONG, words
from training.models.vlm import Vlm
from training.objectives.losses import Objective, Scores
from training.objectives.terms import ALL_CELLS
from training.run_plan import BEST, base_of_run, data_sha256, num_rows
from training.runtime.environment import LocalEnv
from training.trainer.checkpoint import Checkpoints, TrainState, latest, restore, run_folder
from training.trainer.export import export_model
from training.trainer.metrics_log import Log
from training.trainer.mfu import mfu_per_pair
from training.trainer.optimizer import adamw, learning_rate
from training.trainer.policy import (
    build_policy,
    check_frozen,
    parameter_table,
    trained_parts,
)
from training.trainer.reference import Reference
from training.trainer.samples import append_samples, sample_answers
from training.trainer.scoring import Scorer, Split
from training.trainer.step import (
    DivergedError,
    Measure,
    Metrics,
    Updater,
    stop_if_diverged,
)

__all__ = ["DivergedError", "fit"]


def fit(section: TrainSection, env: LocalEnv) -> TrainingRecord:
    """Finetunes the model of `section`, writes it to `section.out`, returns what svco.json says.

    Goes on from the last checkpoint in `section.out`, if there is one. The folder is complete when
    svco.json exists, which is written last.

    Raises:
        UserError: Data, a model or a table that cannot be used.
        DivergedError: The loss became NaN or infinite.
        UserError: The disk is full.
        OutOfMemoryInTrainingError: No memory left, with what to set.
    """
    started_s = time.monotonic()
    try:
        return _Run(section, env).run(started_s)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        room_gb = (
            torch.cuda.get_device_properties(env.device).total_memory / 1e9
            if env.device.startswith("cuda")
            else None
        )
        raise out_of_memory(section, error, budget_gb=room_gb) from error


class _Run:
    def __init__(self, section: TrainSection, env: LocalEnv) -> None:
        self.section, self.env, self.out = section, env, Path(section.out)
        torch.manual_seed(section.seed)
        self.base_sha256 = base_of_run(section)
        self.trained = build_policy(section, env.device, env.world_size)
        self.vlm: Vlm = self.trained.vlm
        check_frozen(self.vlm.model, trained_parts(section))
        self.objective = Objective(
            section.objective.name, section.objective, section.objective.plus
        )
        self.readers = _readers(section, self.vlm)
        self.splits = {
            name: self._split(reader) for name, reader in self.readers.items() if len(reader)
        }
        self.scorer = Scorer(section, self.trained, env)
        self.reference = Reference(section, self.base_sha256, self.trained, self.scorer, env)
        self.optimizer = adamw(self.trained.parameters, section.optim)
        self.checkpoints = Checkpoints(self.out, env, section.checkpoint.num_to_keep)
        self.measure_all = Measure(self.objective)

    def _split(self, reader: PairReader) -> Split:
        use = self.section.train
        stored = None
        if self.section.reference is not None and use.freeze_vision:
            facts = feature_facts(self.base_sha256 or self.section.model, self.vlm, use.weights)
            stored = stored_features(Path(self.section.reference), reader, facts)
        features = VisionFeatures(
            reader,
            self.vlm,
            self.env,
            frozen=use.freeze_vision,
            max_cache_bytes=use.max_cache_gb * 1e9 if use.cache_vision else 0,
            stored=stored,
            pairs=self._pairs_used(reader),
        )
        return Split(reader, features, torch.empty(0))

    def run(self, started_s: float) -> TrainingRecord:
        num_steps = self.section.optim.num_steps(len(self.splits["train"].reader))
        self._say_start(num_steps)
        last = latest(self.out)
        for name, split in self.splits.items():
            split.reference_N32 = self._reference(name, split)
        state = TrainState(step=0, data=DataState(self.section.seed))
        if last is not None:
            state = restore(last, self.trained, self.optimizer, self.env)
            self.env.say(f"going on after step {state.step} of {num_steps}")
        with Log(self.section, self.env, None if last is None else state.step) as log:
            if last is None:
                start = self._validate(log, 0)
                state = replace(state, start=start, latest=start)
            ready_s = time.monotonic()
            state = self._train(num_steps, state, log)
            trained_s = time.monotonic()
        if self.section.checkpoint.keep_best and state.best_step is not None:
            restore(run_folder(self.out) / BEST, self.trained, self.optimizer, self.env)
            self.env.say(
                f"keeping the model of step {state.best_step}, whose validation loss was the lowest"
            )
        seconds = {
            "total": round(trained_s - started_s, 2),
            "training": round(trained_s - ready_s, 2),
        }
        record = self._record(num_steps, state, seconds)
        export_model(self.trained, self.section, record, self.env)
        if self.env.rank == 0:
            write_json(self.out / RECORD, record)
            shutil.rmtree(run_folder(self.out), ignore_errors=True)
        self.env.barrier()
        return record

    def _train(self, num_steps: int, state: TrainState, log: Log) -> TrainState:
        section, train = self.section, self.splits["train"]
        updater = Updater(section, self.trained, self.scorer, self.objective, self.env)
        mfu = mfu_per_pair(section, self.vlm, train, self.env.device, self.env.world_size)
        rest = itertools.islice(
            batches(len(train.reader), section.optim.batch_pairs, state.data),
            num_steps - state.step,
        )
        with (
            self.env.progress("train", num_steps, "steps") as progress,
            prefetched(rest, lambda batch: (*batch, updater.load(train, batch[0]))) as ahead,
        ):
            progress.advance(state.step)
            for step in range(state.step + 1, num_steps + 1):
                began_s = time.monotonic()
                batch_B, data, passes = next(ahead)
                wait_s = time.monotonic() - began_s
                metrics = updater.step(
                    train,
                    batch_B,
                    passes,
                    self.optimizer,
                    learning_rate(section.optim, step - 1, num_steps),
                    step,
                )
                took_s = time.monotonic() - began_s
                num_tokens = self.env.world_size * sum(batch.num_tokens for batch in passes)
                pairs_per_s = round(len(batch_B) / took_s, 2)
                line = {
                    "step": step,
                    "split": "train",
                    "epoch": data.epoch,
                    **metrics,
                    "pairs_per_s": pairs_per_s,
                    "tokens_per_s": round(num_tokens / took_s, 1),
                    "data_wait_s": round(wait_s, 4),
                    **({} if mfu is None else {"mfu": round(pairs_per_s * mfu, 4)}),
                    **_memory(self.env.device),
                }
                log.write(line)
                progress.advance(1, loss=metrics["loss"], pairs_per_s=pairs_per_s)
                state = replace(state, step=step, data=data)
                if step == num_steps or (
                    section.eval_every_steps and step % section.eval_every_steps == 0
                ):
                    state = self._evaluate(log, state, metrics["loss"])
                every = section.checkpoint.every_steps
                if every and step % every == 0 and step < num_steps:
                    self.checkpoints.save(self.trained, self.optimizer, state)
        return state

    def _evaluate(self, log: Log, state: TrainState, loss: float) -> TrainState:
        metrics = self._validate(log, state.step)
        held_out = {f"validation_{name}": value for name, value in metrics.items()}
        self.env.report({"step": state.step, "loss": loss, **held_out})
        state = replace(state, latest=metrics)
        if metrics and (state.best_loss is None or metrics["loss"] < state.best_loss):
            state = replace(state, best_step=state.step, best_loss=metrics["loss"])
            if self.section.checkpoint.keep_best:
                self.checkpoints.save(self.trained, self.optimizer, state, as_best=True)
        return state

    def _pairs_used(self, reader: PairReader) -> Ints:
        """The pairs of a split that the run looks at."""
        num_pairs, optim = len(reader), self.section.optim
        if reader.split != "train":
            return np.arange(num_pairs)
        num_steps = optim.num_steps(num_pairs)
        return pairs_of_run(num_pairs, optim.batch_pairs, num_steps, self.section.seed)

    def _reference(self, name: str, split: Split) -> torch.Tensor:
        """The reference's numbers of the pairs and cells that the run uses."""
        cells = self.objective.reference_cells if name == "train" else ALL_CELLS
        return self.reference.fill(name, split, self._pairs_used(split.reader), cells)

    @torch.no_grad()
    def _validate(self, log: Log, step: int) -> Metrics:
        """Loss, margins and accuracies over all validation pairs."""
        split = self.splits.get("validation")
        if split is None:
            return {}
        # At step 0 the policy is the reference, whose numbers are known.
        logps_N32 = split.reference_N32 if step == 0 else self.scorer.table(split)
        _, values_NK = self.measure_all(
            Scores(
                D_P32=logps_N32 - split.reference_N32,
                logps_P32=logps_N32,
                num_tokens_P2=split.reader.num_tokens_N2.to(self.env.device),
            )
        )
        stop_if_diverged(
            values_NK,
            self.measure_all.names,
            split.reader.pair_ids,
            f"validation after step {step}",
        )
        metrics = self.measure_all.mean(values_NK)
        log.write({"step": step, "split": "validation", **metrics})
        self._sample(log, split, step)
        return metrics

    def _sample(self, log: Log, split: Split, step: int) -> None:
        options = self.section.log
        if self.env.rank or self.trained.sharded or not options.num_samples:
            return  # sharded weights could be gathered by all workers together only
        with self.scorer.autocast():
            samples = sample_answers(
                split.reader,
                self.vlm,
                num_pairs=options.num_samples,
                max_new_tokens=options.sample_tokens,
            )
        append_samples(self.out, step, samples)
        for sample in samples:
            text = f"{sample['question']}\n\na: {sample['answer_a']}\n\nb: {sample['answer_b']}"
            log.write_text(f"sample/{sample['pair_id']}", text, step)

    def _say_start(self, num_steps: int) -> None:
        counts = [_count(reader) for reader in self.readers.values()]
        held_out = (
            f"{counts[1]} for validation" if "validation" in self.readers else "no validation split"
        )
        num_trained = sum(parameter.numel() for parameter in self.trained.parameters)
        self.env.say(
            f"{counts[0]}, {held_out}; {num_steps} steps of {self.section.optim.batch_pairs} pairs;"
            f" {num_trained:,} trained parameters"
        )
        for split, reader in self.readers.items():
            for line in reader.left_out.first():
                self.env.say(f"left out of {split}: {line}")
        self.env.say(
            "; ".join(
                f"{part}: {moving} of {total} trained"
                for part, total, moving in parameter_table(self.vlm.model)
            )
        )
        if self.readers.keys() > self.splits.keys():
            self.env.say(
                "no validation: all its pairs are longer than max_length_tokens or the original"
                " length of the model's rope; raise it, or build data with shorter texts"
            )

    def _record(
        self, num_steps: int, state: TrainState, seconds: dict[str, float]
    ) -> TrainingRecord:
        section = self.section
        return {
            "base_model": "base" if section.model == "tiny" else section.model,
            "base_sha256": self.base_sha256,
            "objective": section.objective.model_dump(),
            "data": section.data,
            "data_sha256": data_sha256(section),
            "pairs": {name: len(reader) for name, reader in self.readers.items()},
            "pairs_dropped_too_long": {
                name: reader.left_out.counts.get(TOO_LONG, 0)
                for name, reader in self.readers.items()
            },
            "pairs_left_out": {
                name: reader.left_out.counts for name, reader in self.readers.items()
            },
            "steps": num_steps,
            "best_step": state.best_step,
            "workers": self.env.world_size,
            "start": state.start,
            "final": state.latest,
            "recipe": section.model_dump(mode="json"),
            "seconds": seconds,
        }


def _readers(section: TrainSection, vlm: Vlm) -> dict[str, PairReader]:
    """The pairs of each split that is there; some of training must be left."""
    limit = section.max_length_tokens
    readers = {
        name: PairReader(section.data, name, vlm, max_length_tokens=limit)
        for name in ("train", "validation")
        if name == "train" or num_rows(section.data, name)
    }
    if not len(readers["train"]):
        left_out = readers["train"].left_out
        if TOO_LONG not in left_out.counts:
            raise MvcError(
                f"{section.data}: all {len(left_out)} pairs of 'train' are longer than the original"
                " length of the model's rope; build data with shorter texts, or take another base"
            )
        raise MvcError(
            f"{section.data}: all {len(left_out)} pairs of 'train' are longer than"
            f" max_length_tokens={limit}; raise it"
        )
    return readers


def _count(reader: PairReader) -> str:
    left_out = words(reader.left_out.counts)
    return f"{len(reader):,} pairs" + (f" ({left_out} and left out)" if left_out else "")


def _memory(device: str) -> dict[str, float]:
    """The most GPU memory that this worker has held, in GB."""
    return (
        {"memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2)}
        if device.startswith("cuda")
        else {}
    )
