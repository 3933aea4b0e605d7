"""Flows as base densities: a density that integrates to one, and fits better than a Gaussian."""

import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recparam as rp


def seeded(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def draw(n: int, seed: int) -> Tensor:
    """Two clumps a distance of 6 apart, far from the origin."""
    generator = seeded(seed)
    return 50 + 6 * torch.randint(0, 2, (n, 1), generator=generator) + torch.randn(n, 1, generator=generator)


@pytest.fixture(scope="module")
def base() -> rp.FlowBase:
    pytest.importorskip("zuko")
    return rp.FlowBase.fit(draw(1000, 0), transforms=1, steps=150, lr=0.03)


def test_it_is_a_density_that_fits(base: rp.FlowBase) -> None:
    assert isinstance(base, rp.BaseDensity)
    grid = torch.linspace(20, 90, 7001)[:, None]
    assert float(base.log_prob(grid).exp().sum() * 0.01) == pytest.approx(1, abs=1e-3)
    test = draw(4000, 1)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(2)  # of clumps that hardly overlap
    gaussian = rp.GaussianMixtureBase.fit(draw(1000, 0), components=1)
    value = float(base.log_prob(test).mean())
    assert -entropy - 0.15 < value < -entropy + 0.05
    assert value > float(gaussian.log_prob(test).mean()) + 0.15


def test_samples_follow_its_density(base: rp.FlowBase) -> None:
    drawn = base.sample(5000, seeded(2))
    assert torch.equal(drawn, base.sample(5000, seeded(2)))
    assert not torch.equal(drawn, base.sample(5000, seeded(3)))
    grid = torch.linspace(20, 90, 7001)[:, None]
    p = base.log_prob(grid).exp() * 0.01
    mean = float((p * grid[:, 0]).sum())
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.2)
    assert float(drawn.std()) == pytest.approx(float((p * (grid[:, 0] - mean) ** 2).sum().sqrt()), abs=0.15)
    assert float(base.log_prob(drawn).mean()) == pytest.approx(float((p * p.div(0.01).log()).sum()), abs=0.06)


def test_a_model_with_flows_has_a_log_density(base: rp.FlowBase) -> None:
    marginal = rp.EstimatedMarginal(base, base, num_samples=64, generator=seeded())
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
    model = rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=marginal)
    x = draw(5, 0)
    const = model.log_prob(x, x).per_observation - model.log_marginal(x, x).per_observation
    torch.testing.assert_close(const, 2 * base.log_prob(x))
    assert not base.log_prob(x).requires_grad
    assert model.sample(3, num_candidates=20).observations[0].shape == (3, 1)


def test_two_dimensions_seeds_and_state() -> None:
    pytest.importorskip("zuko")
    x = torch.randn(100, 2, generator=seeded(), dtype=torch.float64)
    state = torch.get_rng_state()
    first, again, other = (rp.FlowBase.fit(x, transforms=2, hidden=(8,), steps=3, seed=k) for k in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.log_prob(x), again.log_prob(x))
    assert not torch.equal(first.log_prob(x), other.log_prob(x))
    blank = rp.FlowBase(2, transforms=2, hidden=(8,)).double()
    blank.load_state_dict(first.state_dict())
    assert torch.equal(blank.log_prob(x), first.log_prob(x))


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: rp.FlowBase(0), "dim >= 1; got 0"),
    (lambda: rp.FlowBase.fit(torch.zeros(10, 1)), "differ in every column"),
    (lambda: rp.FlowBase.fit(torch.full((3, 1), torch.nan)), "finite values in x"),
    (lambda: rp.FlowBase.fit(draw(10, 0), steps=0), "steps >= 1; got 0"),
    (lambda: rp.FlowBase.fit(draw(10, 0), lr=0.0), "lr > 0"),
]


@pytest.mark.parametrize(("call", "words"), BAD)
def test_bad_input(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_without_zuko_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r"pip install 'recparam\[flows\]'"):
        rp.FlowBase(1)
