"""The average of states that a fit is judged by: its recursion in numbers, and that it leaves the model alone."""

import torch
from torch import nn

from recparam.training.average import Average


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def take(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.mean.fill_(-value)
            self.seen += 1


def averaged(values: list[float], eta: float) -> float:
    average = 0.0
    for step, value in enumerate(values, start=1):
        weight = (eta + 1) / (eta + step)
        average = (1 - weight) * average + weight * value
    return average


def test_parameters_and_buffers_follow_the_recursion_and_counts_are_the_last():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist()
    net = Net()
    average = Average(net, eta=4.0)
    for step, value in enumerate(values, start=1):
        net.take(value)
        average.update(step)
    wanted = averaged(values, 4.0)
    assert torch.allclose(average.state["weight"], torch.full((2,), wanted), atol=1e-6)
    assert torch.allclose(average.state["mean"], torch.tensor(-wanted), atol=1e-6)
    assert average.state["seen"] == 50


def test_half_of_the_weight_lies_on_the_last_eighth_of_the_steps():
    # with eta = 4 the state of step t counts as t^4, so that those before s count as (s / T)^5
    steps, net = 1000, Net()
    average = Average(net)
    for step in range(1, steps + 1):
        net.take(float(step <= 0.5 ** (1 / 5) * steps))
        average.update(step)
    assert abs(float(average.state["mean"]) + 0.5) < 0.01


def test_the_model_has_the_average_for_a_while_and_then_its_own_state_again():
    net = Net()
    average = Average(net)
    for step, value in enumerate((1.0, 3.0), start=1):
        net.take(value)
        average.update(step)
    wanted = averaged([1.0, 3.0], 4.0)
    with average.in_place():
        assert torch.allclose(net.weight, torch.full((2,), wanted))
        assert net.seen == 2
    assert torch.equal(net.weight.detach(), torch.full((2,), 3.0)) and net.mean == -3
    assert torch.allclose(average.state["weight"], torch.full((2,), wanted))


def test_an_average_that_goes_on_from_a_state_is_the_same_to_the_last_bit():
    values = torch.randn(9, generator=torch.Generator().manual_seed(1)).tolist()
    net = Net()
    whole = Average(net)
    for step, value in enumerate(values[:5], start=1):
        net.take(value)
        whole.update(step)
    again = Average(net)
    again.load(whole.state)
    for step, value in enumerate(values[5:], start=6):
        net.take(value)
        whole.update(step)
        again.update(step)
    assert torch.equal(again.state["weight"], whole.state["weight"])
