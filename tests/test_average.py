"""The average of states that a fit is judged by: its recursion in numbers, and that it leaves the model alone."""

from typing import cast

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import recparam as rp
from recparam.training.optimise import averaged


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def take(self, value: float, average: AveragedModel) -> None:
        """In place of a step of training."""
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(-value)
            self.seen += 1
        average.update_parameters(self)


def recursion(values: list[torch.Tensor], eta: float = 4.0) -> torch.Tensor:
    average = torch.zeros_like(values[0])
    for step, value in enumerate(values, start=1):
        weight = (eta + 1) / (eta + step)
        average = (1 - weight) * average + weight * value
    return average


def test_parameters_and_buffers_follow_the_recursion_and_counts_are_the_last() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    net = Net()
    average = averaged(net, eta=4.0)
    for value in values.tolist():
        net.take(value, average)
    wanted = recursion(list(values))
    found = cast(Net, average.module)
    assert torch.allclose(found.weight, wanted.expand(2), atol=1e-6)
    assert torch.allclose(found.mean, -wanted, atol=1e-6)
    assert found.seen == 50
    assert torch.equal(net.weight.detach(), values[-1].expand(2)) and net.mean == -values[-1]


def test_half_of_the_weight_lies_on_the_last_eighth_of_the_steps() -> None:
    # with eta = 4 the state of step t counts as t^4, so that those before s count as (s / T)^5
    steps, net = 1000, Net()
    average = averaged(net)
    for step in range(1, steps + 1):
        net.take(float(step <= 0.5 ** (1 / 5) * steps), average)
    assert abs(float(average.module.mean) + 0.5) < 0.01


def test_the_average_of_a_training_run_is_that_of_its_states() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(rp.GaussianRBF()))
    x = torch.randn(64, 3)
    model.initialise(x, x + 0.1)
    average, optimiser = averaged(model), torch.optim.Adam(model.parameters(), lr=1e-2)
    states: list[dict[str, torch.Tensor]] = []
    for _ in range(40):
        optimiser.zero_grad()
        (-model.elbo(x, x + 0.1 * torch.randn_like(x)).value).backward()
        optimiser.step()
        average.update_parameters(model)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    for name, found in average.module.state_dict().items():
        values = [state[name] for state in states]
        wanted = recursion(values) if found.is_floating_point() else values[-1]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert model.training and not average.training


@pytest.mark.parametrize("stopped", [0, 1, 5])
def test_an_average_that_is_resumed_is_the_same_to_the_last_bit(stopped: int) -> None:
    values = torch.randn(9, generator=torch.Generator().manual_seed(1)).tolist()
    net = Net()
    whole = averaged(net)
    for value in values[:stopped]:
        net.take(value, whole)
    again = averaged(Net())
    again.load_state_dict(whole.state_dict())
    for value in values[stopped:]:
        net.take(value, whole)
        again.update_parameters(net)
    for name, wanted in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], wanted), name
