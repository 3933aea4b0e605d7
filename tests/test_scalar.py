"""Bounds and losses go where torch takes a scalar tensor, and the sign of their gradients is that of their value."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import Bound
from recparam.bounds.losses import Loss

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = X + 0.3 * torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


def scored(net: nn.Module) -> tuple[Bound, Loss]:
    f = rp.GaussianRBF(lengthscale=1.0)
    return rp.infonce(f, net(X), net(Y)), rp.losses.info_nce(f, net(X), net(Y))


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("which", [0, 1], ids=["bound", "loss"])
def test_arithmetic_is_that_of_the_value_and_returns_plain_tensors(which: int) -> None:
    number = scored(linear())[which]
    v, other = number.value, torch.tensor(0.5)
    cases: list[tuple[object, Tensor]] = [
        (-number, -v),
        (number + 1, v + 1),
        (1 + number, v + 1),
        (number + other, v + other),
        (other + number, v + other),
        (number - other, v - other),
        (other - number, other - v),
        (1 - number, 1 - v),
        (2 * number, 2 * v),
        (number * other, v * other),
        (other * number, v * other),
        (number / 2, v / 2),
        (number + number, 2 * v),
        (number - number, v - v),
        (sum([number, number]), 2 * v),
        (torch.stack([number, v]), torch.stack([v, v])),  # type: ignore[arg-type]
        (torch.exp(number), v.exp()),  # type: ignore[arg-type]
        (number < 100, v < 100),
        (number > other, v > other),
    ]
    for found, expected in cases:
        assert type(found) is Tensor and torch.equal(found, expected)


@pytest.mark.parametrize("which", [0, 1], ids=["bound", "loss"])
def test_numbers_and_formats(which: int) -> None:
    number = scored(linear())[which]
    assert float(number) == number.item() == number.value.item() == number.detach().item()
    assert f"{number:.3f}" == f"{number.value.item():.3f}" and f"{number:+.1e}" == f"{number.value.item():+.1e}"
    assert f"{number}" == str(number) and "nats" in str(number)
    assert not number.detach().requires_grad


STEPS: dict[str, tuple[Callable[[nn.Module], None], bool]] = {
    "(-bound).backward()": (lambda net: (-scored(net)[0]).backward(), False),
    "bound.backward(), maximize=True": (lambda net: scored(net)[0].backward(), True),
    "loss.backward()": (lambda net: scored(net)[1].backward(), False),
    "(loss + penalty).backward()": (lambda net: (scored(net)[1] + 0.0 * X.sum()).backward(), False),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_an_optimiser_raises_the_bound(name: str) -> None:
    backward, maximise = STEPS[name]
    net = linear()
    before = float(scored(net)[0])
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, maximize=maximise)
    backward(net)
    optimiser.step()
    assert float(scored(net)[0]) > before + 1e-3


def test_backward_of_a_number_is_that_of_its_value() -> None:
    for which in (0, 1):
        ours, plain = linear(), linear()
        number = scored(ours)[which]
        number.backward(retain_graph=True)
        number.backward()
        (2 * scored(plain)[which].value).backward()
        torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
        (found,) = torch.autograd.grad(scored(ours)[which], ours.weight)  # type: ignore[arg-type]
        torch.testing.assert_close(2 * found, plain.weight.grad)
