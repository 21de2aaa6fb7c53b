"""The training loop: policy against its own start, exact over any number of workers and any micro-batch. No Ray here.

Shapes: N pairs in a split, B in a global batch, P in a micro-batch; K values per pair, the loss first.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.recipe import UserError
from pipeline.schema import MvcError
from pipeline.store import sha256_file, write_json
from training.config import ObjectiveSection, TrainSection
from training.data import DataState, PairReader, batches
from training.env import Env
from training.features import VisionFeatures, freeze_unseen
from training.logps import logps_of_features
from training.objectives import OBJECTIVES, Betas, Scores
from training.optimiser import adamw, learning_rate, sum_gradients
from training.packing import Ints
from training.plan import RECORD, base_sha256, num_rows
from training.vlm import ModelError, Vlm, load_vlm, save_vlm

Metrics = dict[str, float]


class DivergedError(UserError):
    """The loss or a gradient is no longer a number; the message says at which step and for which pairs."""

    exit_code = 1


def fit(section: TrainSection, env: Env) -> dict[str, Any]:
    """Finetunes the model of `section` on its data and writes the result to `section.out`; returns what svco.json says.

    The folder is complete when svco.json exists, which is written last.

    Raises:
        MvcError, ModelError: Data or model that cannot be used.
        DivergedError: The loss became NaN or infinite.
    """
    from transformers.utils import logging

    started_s = time.monotonic()
    logging.disable_progress_bar()  # its bars for reading and writing weights would run into ours
    return _Run(section, env).run(started_s)


class _Split:
    """The pairs of one split with their vision features and, once made, the reference's log-probabilities."""

    def __init__(self, reader: PairReader, section: TrainSection, vlm: Vlm, env: Env) -> None:
        options = section.train
        self.reader = reader
        room = options.max_cache_gb * 1e9 if options.cache_vision else 0
        self.features = VisionFeatures(self.reader, vlm, env, frozen=options.freeze_vision, max_cache_bytes=room)
        self.reference_N32 = torch.empty(0)


class _Run:
    def __init__(self, section: TrainSection, env: Env) -> None:
        self.section, self.env = section, env
        torch.manual_seed(section.seed)
        self.base_sha256 = base_sha256(section) if env.rank == 0 else None  # rank 0 writes the record
        self.vlm = load_vlm(section.base_model, device=env.device)
        # load_vlm leaves the model in evaluation mode, and so it stays: two responses share one pass over their prompt,
        # so dropout would not be what it is in separate passes, and the reference is computed without it.
        self.vlm.model.model.vision_tower.requires_grad_(not section.train.freeze_vision)
        if not section.train.freeze_vision:
            freeze_unseen(self.vlm)
        self.parameters = [p for p in self.vlm.model.parameters() if p.requires_grad]
        self.objective = OBJECTIVES[section.objective.name]
        self.betas = betas_of(section.objective)
        self.names = self._value_names()
        self.readers = _readers(section, self.vlm)
        self.splits = {name: _Split(reader, section, self.vlm, env) for name, reader in self.readers.items() if len(reader)}

    def run(self, started_s: float) -> dict[str, Any]:
        train, num_pairs = self.splits["train"], len(self.splits["train"].reader)
        num_steps = self.section.optim.num_steps(num_pairs)
        self._say_start(num_steps)
        for name, split in self.splits.items():
            # Before training the policy is the reference; these numbers never change again.
            split.reference_N32 = self._all_logps(split, f"reference, {name}")
            self._stop_if_base_is_broken(split)
        with _Log(Path(self.section.out), self.env) as log:
            start = self._validate(log, 0)
            ready_s = time.monotonic()
            final = self._train(train, num_steps, start, log)
            trained_s = time.monotonic()
        record = self._record(num_steps, start, final)
        record["seconds"] = {"total": round(trained_s - started_s, 2), "training": round(trained_s - ready_s, 2)}
        if self.env.rank == 0:
            save_vlm(self.vlm, self.section.out)
            write_json(Path(self.section.out) / RECORD, record)
        self.env.barrier()
        return record

    def _train(self, train: _Split, num_steps: int, start: Metrics, log: "_Log") -> Metrics:
        optim, every = self.section.optim, self.section.eval_every_steps
        optimizer = adamw(self.parameters, optim)
        source = batches(len(train.reader), optim.batch_pairs, DataState(self.section.seed))
        latest = start
        with self.env.progress("train", num_steps, "steps") as progress:
            for step, (batch_B, state) in zip(range(num_steps), source, strict=False):
                began_s = time.monotonic()
                rate = learning_rate(optim, step, num_steps)
                metrics, waited_s = self._step(train, batch_B, optimizer, rate, step)
                took_s = time.monotonic() - began_s
                speed = {"lr": rate, "pairs_per_s": round(len(batch_B) / took_s, 2), "data_wait_s": round(waited_s, 4)}
                log.write({"step": step + 1, "split": "train", "epoch": state.epoch, **metrics, **speed})
                progress.advance(1, loss=metrics["loss"], pairs_per_s=speed["pairs_per_s"])
                if step + 1 == num_steps or (every and (step + 1) % every == 0):
                    latest = self._validate(log, step + 1)
                    self.env.report({"step": step + 1, "loss": metrics["loss"], **{f"validation_{k}": v for k, v in latest.items()}})
        return latest

    def _step(self, split: _Split, batch_B: Ints, optimizer: torch.optim.Optimizer, rate: float, step: int) -> tuple[Metrics, float]:
        """One update; returns its metrics over the global batch, and the seconds spent waiting for data."""
        env, optim = self.env, self.section.optim
        optimizer.zero_grad()
        values_BK = torch.zeros(len(batch_B), len(self.names), device=env.device)
        waited_s = 0.0
        mine = np.arange(env.rank, len(batch_B), env.world_size)
        mine = mine[np.argsort(split.reader.lengths[batch_B[mine]], kind="stable")]  # equal lengths together: less padding
        for places in _chunks(mine, optim.micro_batch_pairs):
            pairs = batch_B[places]
            logps_P32, num_tokens_P2, wait_s = self._logps(split, pairs)
            waited_s += wait_s
            loss_P, values_PK = self._objective(logps_P32, split.reference_N32[torch.from_numpy(pairs)], num_tokens_P2)
            # Divided by the pairs of the whole step, so that summing over micro-batches and workers gives the mean.
            (loss_P.sum() / len(batch_B)).backward()
            values_BK[torch.from_numpy(places)] = values_PK
        env.all_reduce(values_BK)
        self._stop_if_diverged(values_BK[:, 0], [split.reader.pair_ids[pair] for pair in batch_B], f"step {step + 1}")
        sum_gradients(self.parameters, env)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, optim.clip_norm).item()
        if not math.isfinite(norm):
            raise DivergedError(f"step {step + 1}: the gradient is not finite ({norm}) though the loss is; lower optim.lr")
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        return {**self._mean(values_BK), "grad_norm": norm}, waited_s

    def _logps(self, split: _Split, pairs: Ints) -> tuple[Tensor, Tensor, float]:
        """The policy's log-probabilities of some pairs, their response lengths, and the seconds spent on data."""
        began_s = time.monotonic()
        packed = split.reader.packed(pairs).to(self.env.device)
        features_a_PNV, features_b_PNV = split.features.get(pairs)
        wait_s = time.monotonic() - began_s
        low = self.section.train.precision == "bfloat16"
        with torch.autocast(self.env.device.split(":")[0], torch.bfloat16, enabled=low):
            return logps_of_features(self.vlm.model, packed, features_a_PNV, features_b_PNV), packed.num_tokens_P2, wait_s

    def _objective(self, logps_P32: Tensor, reference_P32: Tensor, num_tokens_P2: Tensor) -> tuple[Tensor, Tensor]:
        scores = Scores(D_P32=logps_P32 - reference_P32, logps_P32=logps_P32, num_tokens_P2=num_tokens_P2)
        loss_P, values = self.objective(scores, self.betas)
        return loss_P, torch.stack([loss_P.detach(), *values.values()], dim=1)

    def _value_names(self) -> list[str]:
        zeros = torch.zeros(1, 3, 2)
        _, values = self.objective(Scores(D_P32=zeros, logps_P32=zeros, num_tokens_P2=torch.ones(1, 2)), self.betas)
        return ["loss", *values]

    def _mean(self, values_NK: Tensor) -> Metrics:
        means = values_NK.mean(dim=0).tolist()
        return {name: round(value, 6) if name != "loss" else value for name, value in zip(self.names, means, strict=True)}

    @torch.no_grad()
    def _all_logps(self, split: _Split, title: str = "") -> Tensor:
        """The log-probabilities of every pair under the model as it is now, [N, 3, 2]; without a title nothing is shown."""
        table_N32 = torch.zeros(len(split.reader), 3, 2, device=self.env.device)
        order = np.argsort(split.reader.lengths, kind="stable")
        with self.env.progress(title, len(order), "pairs") as progress:
            for index, pairs in enumerate(_chunks(order, self.section.optim.micro_batch_pairs)):
                if index % self.env.world_size == self.env.rank:
                    table_N32[torch.from_numpy(pairs)] = self._logps(split, pairs)[0].float()
                progress.advance(len(pairs))
        self.env.all_reduce(table_N32)
        return table_N32

    @torch.no_grad()
    def _validate(self, log: "_Log", step: int) -> Metrics:
        """Loss, margins and accuracies over all validation pairs; at step 0 the policy is the reference."""
        split = self.splits.get("validation")
        if split is None:
            return {}
        # At step 0 the policy is the reference, whose numbers are known.
        logps_N32 = split.reference_N32 if step == 0 else self._all_logps(split)
        num_tokens_N2 = split.reader.num_tokens_N2.to(self.env.device)
        values_NK = self._objective(logps_N32, split.reference_N32, num_tokens_N2)[1]
        self._stop_if_diverged(values_NK[:, 0], split.reader.pair_ids, f"validation after step {step}")
        metrics = self._mean(values_NK)
        log.write({"step": step, "split": "validation", **metrics})
        return metrics

    def _stop_if_base_is_broken(self, split: _Split) -> None:
        bad = _not_finite(split.reference_N32.flatten(1).sum(dim=1), split.reader.pair_ids)
        if bad:
            raise ModelError(
                f"model={self.section.model}: the base model's own log-probabilities of {bad} are not finite, before any training; "
                "its weights, or precision, do not work on these pairs, so choose another base"
            )

    def _stop_if_diverged(self, loss_B: Tensor, pair_ids: Sequence[str], when: str) -> None:
        bad = _not_finite(loss_B, pair_ids)
        if bad:
            raise DivergedError(f"{when}: the loss of {bad} is not finite; lower optim.lr")

    def _say_start(self, num_steps: int) -> None:
        counts = [_count(reader) for reader in self.readers.values()]
        held_out = f"{counts[1]} for validation" if "validation" in self.readers else "no validation split"
        trained = f"{sum(p.numel() for p in self.parameters):,} trained parameters"
        self.env.say(f"{counts[0]}, {held_out}; {num_steps} steps of {self.section.optim.batch_pairs} pairs; {trained}")
        if self.readers.keys() > self.splits.keys():
            self.env.say("no validation: all its pairs are longer than max_length_tokens; raise it, or build data with shorter texts")

    def _record(self, num_steps: int, start: Metrics, final: Metrics) -> dict[str, Any]:
        section = self.section
        return {
            "base_model": "base" if section.model == "tiny" else section.model,
            "base_sha256": self.base_sha256,
            "objective": section.objective.model_dump(),
            "data": section.data,
            "data_sha256": sha256_file(Path(section.data) / "manifest.json"),
            "pairs": {name: len(reader) for name, reader in self.readers.items()},
            "pairs_dropped_too_long": {name: reader.num_dropped for name, reader in self.readers.items()},
            "steps": num_steps,
            "workers": self.env.world_size,
            "start": start,
            "final": final,
            "recipe": section.model_dump(mode="json"),
        }


def _readers(section: TrainSection, vlm: Vlm) -> dict[str, PairReader]:
    """The pairs of each split that is there; of validation none may be left, of training some must be."""
    names = [name for name in ("train", "validation") if name == "train" or num_rows(section.data, name)]
    limit = section.max_length_tokens
    readers = {name: PairReader(section.data, name, vlm, max_length_tokens=limit) for name in names}
    if not len(readers["train"]):
        num_pairs = readers["train"].num_dropped
        raise MvcError(f"{section.data}: all {num_pairs} pairs of 'train' are longer than max_length_tokens={limit}; raise it")
    return readers


def _count(reader: PairReader) -> str:
    dropped = f" ({reader.num_dropped:,} too long and left out)" if reader.num_dropped else ""
    return f"{len(reader):,} pairs{dropped}"


def _not_finite(value_N: Tensor, pair_ids: Sequence[str]) -> str:
    """How many pairs have no number, and the first of them: "2 of 8 pairs (id, id)"; empty if all have one."""
    bad = [pair_id for pair_id, fine in zip(pair_ids, value_N.isfinite().tolist(), strict=True) if not fine]
    some = ", ".join(bad[:4]) + (" ..." if len(bad) > 4 else "")
    return f"{len(bad)} of {len(pair_ids)} pairs ({some})" if bad else ""


class _Log:
    """metrics.jsonl: one line per step and per validation, written at once, by rank 0 alone."""

    def __init__(self, out: Path, env: Env) -> None:
        self._file = (out / "metrics.jsonl").open("w", encoding="utf-8") if env.rank == 0 else None

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, line: Mapping[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def betas_of(section: ObjectiveSection) -> Betas:
    """The inverse temperatures of a recipe's objective."""
    return Betas(**{name.removeprefix("beta_"): value for name, value in section.model_dump().items() if name != "name"})


def _chunks(items: Ints, size: int) -> list[Ints]:
    return [items[start : start + size] for start in range(0, len(items), size)]
