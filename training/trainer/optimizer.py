"""How weights are updated: AdamW, its learning rate, and gradients summed over the workers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.chunk_sizes import GRADIENT_BUCKET
from training.config import OptimSection
from training.runtime.environment import LocalEnv


def learning_rate(optim: OptimSection, step: int, num_steps: int) -> float:
    """The rate of step 0, 1, ..: a linear rise over the warmup, then half a cosine to 0."""
    num_warmup = math.ceil(optim.warmup_frac * num_steps)
    if step < num_warmup:
        return optim.lr * (step + 1) / num_warmup
    return (
        optim.lr
        * 0.5
        * (1 + math.cos(math.pi * (step - num_warmup) / max(1, num_steps - num_warmup)))
    )


def adamw(parameters: Sequence[Any], optim: OptimSection) -> torch.optim.Optimizer:
    """AdamW whose weight decay leaves out norms and biases, which have one dimension."""
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": optim.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=optim.lr,
        betas=(0.9, optim.adam_beta2),
        eps=1e-8,
        fused=True,
    )


def sum_gradients(parameters: Sequence[Any], env: LocalEnv) -> None:
    """Sums the gradients over the workers, some at a time; a worker without pairs adds zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if env.world_size == 1:
        return
    bucket: list[Tensor] = []
    for index, parameter in enumerate(parameters):
        bucket.append(parameter.grad)
        if sum(g.numel() for g in bucket) >= GRADIENT_BUCKET or index == len(parameters) - 1:
            flat = torch.cat([g.flatten() for g in bucket])
            env.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))
            bucket = []
