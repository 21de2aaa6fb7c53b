"""One optimizer step: its loss is the mean over its pairs, whatever workers and micro-batches.

Shapes: B pairs in a global batch, P in a pass; K values per pair, the loss first.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.core.recipe import UserError
from training.config import TrainSection
from training.models.packing import Ints
from training.objectives.losses import Objective, Scores
from training.objectives.terms import ALL_CELLS, Cell
from training.runtime.environment import LocalEnv
from training.trainer.optimizer import sum_gradients
from training.trainer.policy import TrainablePolicy
from training.trainer.scoring import PackedBatch, Scorer, Split

Metrics = dict[str, float]


class DivergedError(UserError):
    """The loss or a gradient is no longer a number.

    The message says at which step and for which pairs.
    """

    exit_code = 1


class Measure:
    """An objective's loss and values of many pairs as one table, summed in one call."""

    def __init__(self, objective: Objective, cells: frozenset[Cell] = ALL_CELLS) -> None:
        self._objective = objective
        self.names = objective.value_names(cells)

    def __call__(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """The loss per pair, [P], and its values beside it, [P, K]."""
        loss_P, values = self._objective(scores)
        return (
            loss_P,
            torch.stack([loss_P.detach(), *(values[name] for name in self.names)], dim=1).float(),
        )

    def mean(self, values_BK: Tensor) -> Metrics:
        """The means by name."""
        means = values_BK.double().mean(dim=0).tolist()
        return {
            "loss": means[0],
            **{name: round(mean, 6) for name, mean in zip(self.names, means[1:], strict=True)},
        }


class Updater:
    """Makes optimizer steps."""

    def __init__(
        self,
        section: TrainSection,
        trained: TrainablePolicy,
        scorer: Scorer,
        objective: Objective,
        env: LocalEnv,
    ) -> None:
        self._optim, self._trained, self._scorer, self._env = section.optim, trained, scorer, env
        self._cells = objective.cells
        self._measure = Measure(objective, self._cells)

    def load(self, split: Split, batch_B: Ints) -> list[PackedBatch]:
        """This worker's passes of a step with the pairs `batch_B`.

        Runs no model: a thread of its own may do it.
        """
        num_passes = self._scorer.num_passes(len(batch_B)) if self._trained.sharded else None
        mine = batch_B[self._env.rank :: self._env.world_size]
        return [
            self._scorer.load(split, pairs, self._cells)
            for pairs in self._scorer.passes(split, mine, num_passes)
        ]

    def step(
        self,
        split: Split,
        batch_B: Ints,
        passes: Sequence[PackedBatch],
        optimizer: torch.optim.Optimizer,
        rate: float,
        number: int,
    ) -> Metrics:
        """One update with the pairs `batch_B`, the same for all workers; returns metrics over all.

        Args:
            passes: What `load` gave for them.

        Raises:
            DivergedError: The loss or the gradient is not finite; the weights are as before.
        """
        env = self._env
        optimizer.zero_grad()
        values_BK = torch.zeros(len(batch_B), 1 + len(self._measure.names), device=env.device)
        place_of = {int(pair): place for place, pair in enumerate(batch_B)}
        for loaded in passes:
            scores = self._scorer.run(split, loaded)
            if not len(loaded.pairs):  # only so that the other workers get their weights
                (scores.logps_P32.nan_to_num().sum() * 0).backward()
                continue
            loss_P, values_PK = self._measure(scores)
            # Divided by the pairs of the whole step, so that summing over micro-batches and workers
            # gives the mean.
            (loss_P.sum() / len(batch_B)).backward()
            values_BK[torch.tensor([place_of[int(pair)] for pair in loaded.pairs])] = values_PK
        env.all_reduce(values_BK)
        stop_if_diverged(
            values_BK,
            self._measure.names,
            [split.reader.pair_ids[pair] for pair in batch_B],
            f"step {number}",
        )
        norm = self._apply(optimizer, rate, number)
        return {**self._measure.mean(values_BK), "grad_norm": norm, "lr": rate}

    def _apply(self, optimizer: torch.optim.Optimizer, rate: float, number: int) -> float:
        parameters: list[Any] = self._trained.parameters
        if not self._trained.sharded:  # else FSDP2 has summed them
            sum_gradients(parameters, self._env)
        total: Any = torch.nn.utils.clip_grad_norm_(parameters, self._optim.clip_norm)
        norm = float(total.full_tensor() if self._trained.sharded else total)
        if not math.isfinite(norm):
            raise DivergedError(
                f"step {number}: the gradient is not finite ({norm}) though the loss is; lower"
                " optim.lr"
            )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        return norm


def stop_if_diverged(
    values_NK: Tensor, names: Sequence[str], pair_ids: Sequence[str], when: str
) -> None:
    """Raises DivergedError if the loss of a pair is not finite.

    It names the pairs, and the terms of which the loss is the sum.
    """
    bad = name_not_finite(values_NK[:, 0], pair_ids)
    if bad:
        fine = values_NK.isfinite().all(dim=0).tolist()
        terms = [
            name.removeprefix("loss_")
            for name, fine in zip(names, fine[1:], strict=True)
            if not fine and name.startswith("loss_")
        ]
        raise DivergedError(
            f"{when}: the loss of {bad} is not finite (terms:"
            f" {', '.join(terms) or 'only their sum'}); lower optim.lr"
        )


def name_not_finite(value_N: Tensor, pair_ids: Sequence[str]) -> str:
    """How many pairs have no number, and the first: "2 of 8 pairs (id, id)"; empty if none."""
    bad = [
        pair_id
        for pair_id, fine in zip(pair_ids, value_N.isfinite().tolist(), strict=True)
        if not fine
    ]
    some = ", ".join(bad[:4]) + (" ..." if len(bad) > 4 else "")
    return f"{len(bad)} of {len(pair_ids)} pairs ({some})" if bad else ""
