"""The schedule by hand; weight decay spares norms and biases."""

import pytest
import torch

from training.config import OptimSection
from training.runtime.environment import LocalEnv
from training.trainer.optimizer import adamw, learning_rate, sum_gradients


def test_the_rate_rises_to_its_peak_and_falls_along_half_a_cosine() -> None:
    optim = OptimSection(lr=8.0, warmup_frac=0.2)
    rates = [learning_rate(optim, step, 10) for step in range(10)]
    assert rates[:3] == [4.0, 8.0, 8.0]
    assert rates[6] == pytest.approx(4.0)  # half-way through the eight steps after the warm-up
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[9] == pytest.approx(8.0 * 0.5 * (1 - 0.9238795))  # cos(7 pi / 8) = -0.9238795


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_rate_is_defined_for_the_shortest_runs(num_steps: int) -> None:
    rates = [
        learning_rate(OptimSection(lr=1.0, warmup_frac=0.5), step, num_steps)
        for step in range(num_steps)
    ]
    assert all(0 < rate <= 1 for rate in rates)


def test_weight_decay_spares_parameters_of_one_dimension() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = adamw(list(model.parameters()), OptimSection(weight_decay=0.3))
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert (decay[id(model.weight)], decay[id(model.bias)]) == (0.3, 0.0)


def test_num_steps_counts_the_smaller_last_batch_and_max_steps_wins() -> None:
    assert OptimSection(batch_pairs=32, num_epochs=2).num_steps(65) == 6
    assert OptimSection(batch_pairs=32, num_epochs=2, max_steps=7).num_steps(65) == 7


class TwoWorkers(LocalEnv):
    """Adds what another worker with twice the numbers would."""

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor.mul_(3)


def test_gradients_are_summed_whatever_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    for bucket in (1, 5, 1000):
        monkeypatch.setattr("training.trainer.optimizer.GRADIENT_BUCKET", bucket)
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (3,), (2, 1))]
        for index, parameter in enumerate(parameters[:2]):
            parameter.grad = torch.full_like(parameter, index + 1.0)
        sum_gradients(parameters, TwoWorkers(world_size=2))
        assert [p.grad.flatten().tolist() for p in parameters] == [[3.0] * 4, [6.0] * 3, [0.0] * 2]
