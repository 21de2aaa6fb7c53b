"""What an objective does on one pair with policy = reference, whatever its table says of it."""

import math
from collections.abc import Iterable

import torch

from training.objectives.losses import Objective, Scores
from training.objectives.terms import ALL_CELLS, Cell


def probe(cells: Iterable[Cell]) -> Scores:
    """One pair whose log-probabilities are known in `cells` and NaN elsewhere."""
    table_132 = torch.full((1, 3, 2), math.nan)
    for condition, response in cells:
        table_132[0, condition, response] = 0.0
    return Scores(D_P32=table_132, logps_P32=table_132, num_tokens_P2=torch.ones(1, 2))


def cells_by_trying(objective: Objective) -> frozenset[Cell]:
    """The cells that make the loss NaN when they are."""
    return frozenset(
        cell for cell in ALL_CELLS if objective(probe(ALL_CELLS - {cell}))[0].isnan().any()
    )


def names_by_trying(objective: Objective, cells: Iterable[Cell]) -> list[str]:
    """The names of the values that are no NaN when only `cells` are computed."""
    return [
        name for name, value_P in objective(probe(cells))[1].items() if not value_P.isnan().any()
    ]


def loss_at_start(objective: Objective) -> float | None:
    """The loss before training; None where the model's own likelihood counts."""
    scores = Scores(
        D_P32=torch.zeros(1, 3, 2),
        logps_P32=torch.full((1, 3, 2), math.nan),
        num_tokens_P2=torch.ones(1, 2),
    )
    loss = objective(scores)[0].item()
    return None if math.isnan(loss) else loss
