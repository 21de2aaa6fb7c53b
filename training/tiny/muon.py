"""How the tiny model's two stages learn.

By orthogonal steps for the matrices inside (Muon), by AdamW for everything else.

Minutes are too few for AdamW alone: half-way through 16,000 images, the tower named 91% of the
shapes in scenes never seen with these steps, and 48% with AdamW.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

# What a stage reports to: work units done, and facts to show.
Advance = Callable[[int, dict[str, float]], None]

_WARMUP_FRAC = 0.05
_MOMENTUM = 0.95


def shuffled_batches(num: int, batch: int) -> Iterator[Tensor]:
    """Batches of indices below `num`, without end; each index comes once before any comes again."""
    order = torch.empty(0, dtype=torch.long)
    while True:
        if len(order) < batch:
            order = torch.cat((order, torch.randperm(num)))
        yield order[:batch]
        order = order[batch:]


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values brought close to 1 (0.7 to 1.2), its vectors kept.

    Five Newton-Schulz steps x -> 3.4445 x - 4.775 x^3 + 2.0315 x^5 on each singular value x; the
    numbers are Muon's.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    even = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = even @ even.T
        even = 3.4445 * even + (2.0315 * square @ square - 4.775 * square) @ even
    return even.T if matrix.shape[0] > matrix.shape[1] else even


class Learner:
    """One stage's optimizer.

    Its rate rises for a twentieth of the stage and then falls to zero.

    Args:
        inside: Modules whose linear layers take orthogonal steps; the rest of them is AdamW's.
        heads: Modules of which AdamW moves everything.
        lr: About how much a step changes each entry, for either method.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". torch has
    it from 2.9 on, in bfloat16, which is several times slower on most CPUs.
    """

    def __init__(
        self,
        inside: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        self._lr, self._weight_decay = lr, weight_decay
        self._matrices = [
            layer.weight
            for module in inside
            for layer in module.modules()
            if isinstance(layer, nn.Linear)
        ]
        self._momenta = [torch.zeros_like(matrix) for matrix in self._matrices]
        # By identity: embeddings may be shared with the head.
        self._parameters = list(
            {id(p): p for module in (*inside, *heads) for p in module.parameters()}.values()
        )
        self._adamw = torch.optim.AdamW(
            [p for p in self._parameters if all(p is not matrix for matrix in self._matrices)],
            betas=(0.9, 0.95),
            weight_decay=weight_decay,
            fused=True,
        )

    def step(self, loss: Tensor, frac_done: float) -> float:
        """One update, after `frac_done` of the stage; returns the loss as a number."""
        rate = self._lr * min(1.0, (frac_done + 0.002) / _WARMUP_FRAC) * (1 - frac_done)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._move_matrices(rate)
        return loss.item()

    @torch.no_grad()
    def _move_matrices(self, rate: float) -> None:
        for matrix, momentum in zip(self._matrices, self._momenta, strict=True):
            if matrix.grad is None:
                continue
            momentum.lerp_(matrix.grad, 1 - _MOMENTUM)
            move = orthogonal(matrix.grad.lerp(momentum, _MOMENTUM))
            matrix.mul_(1 - rate * self._weight_decay)
            # The entries of an orthogonal matrix have a root mean square of 1 / sqrt(longer side).
            matrix.sub_(move, alpha=rate * max(matrix.shape) ** 0.5)
