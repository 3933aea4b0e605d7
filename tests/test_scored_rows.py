"""Labels and values where the scored rows are not simply the bank's: subsets, weights, other encoders, other laws."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import recparam as rp
from recparam.bounds import infinite_infonce
from recparam.priors import ParametricPrior


class Times(nn.Module):
    """An encoder without parameters."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def two_clusters(**options: object) -> tuple[rp.RPM, torch.Tensor, torch.Tensor]:
    """Nine equal rows and a far one, with categorical latents that tell them apart; the MI is about 0.33 nats."""
    x = torch.tensor([[0.0]] * 9 + [[1.0]])
    net = nn.Linear(1, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-60.0], [60.0]]))
        net.bias.copy_(torch.tensor([30.0, -30.0]))
    marginal = rp.DatasetMarginal(x, x, **options)  # pyright: ignore[reportArgumentType]
    return rp.RPM(rp.Categorical(net), rp.OptimalPrior(), marginal=marginal), x, x


def test_the_mi_of_some_rows_or_of_rows_weighted_otherwise_is_an_estimate() -> None:
    model, x, x_prime = two_clusters()
    truth = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    whole = model.mutual_information(x, x_prime)
    assert whole.lower.kind == "exact" and float(whole.lower) == pytest.approx(truth, abs=1e-4)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    assert model.mutual_information(x[order], x_prime[order], rows=order).lower.kind == "exact"
    weights = torch.tensor([0.01 / 9] * 9 + [0.99])
    for part in (
        model.mutual_information(x, x_prime, weights=weights),
        model.mutual_information(x[9:], x_prime[9:], rows=torch.tensor([9])),
    ):
        assert {part.lower.kind, part.estimate.kind} == {"estimate"}
    assert model.decompose(x, x_prime, weights=weights).kl.kind == "estimate"
    assert model.decompose(x, x_prime).kl.kind == "exact"


def test_where_the_bank_becomes_the_batch_the_data_set_s_weights_stay() -> None:
    weights = torch.tensor([0.01 / 9] * 9 + [0.99])
    model, x, x_prime = two_clusters(weights=weights, hold=True)
    truth = -0.01 * math.log(0.01) - 0.99 * math.log(0.99)
    with_gradients = model.mutual_information(x, x_prime)
    assert with_gradients.lower.value.requires_grad
    assert float(with_gradients.lower) < truth + 1e-4


def test_a_held_bank_knows_another_encoder() -> None:
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    held, fresh = rp.DatasetMarginal(x, x, hold=True), rp.DatasetMarginal(x, x)
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
    with torch.no_grad():
        for factor in (1.0, 10.0):
            values = [
                float(rp.RPM(rp.Deterministic(Times(factor)), prior, marginal=m).elbo(x, x)) for m in (held, fresh)
            ]
            assert values[0] == pytest.approx(values[1])
        model = rp.RPM(rp.EpsilonGaussian(nn.Identity(), epsilon=1.0), rp.JointGaussianPrior(1), marginal=held)
        generator = torch.Generator()
        model.elbo(x, x, generator=generator.manual_seed(0))
        model.recognition[0].epsilon = 0.01  # pyright: ignore[reportArgumentType]
        changed = float(model.elbo(x, x, generator=generator.manual_seed(0)))
        held.refresh()
        assert changed == pytest.approx(float(model.elbo(x, x, generator=generator.manual_seed(0))))


def test_a_bank_of_base_samples_bounds_no_mi() -> None:
    """Independent pairs near 2 beside bases near 0: the ELBO's lower side is far above their MI of zero."""
    generator = torch.Generator().manual_seed(0)
    x, x_prime = (2 + 0.1 * torch.randn(50, 1, generator=generator) for _ in range(2))

    def base(count: int, generator: torch.Generator | None) -> torch.Tensor:
        return torch.randn(count, 1, generator=generator)

    prior = rp.InfoNCEPrior(rp.Bilinear(1, theta=torch.tensor([[0.5]])))
    marginal = rp.EstimatedMarginal(base, base, num_samples=500, generator=torch.Generator().manual_seed(1))
    model = rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=marginal)
    recognised = model._recognised((x, x_prime), {})
    value = infinite_infonce(prior.coupling, recognised, side="lower")
    assert float(value) > 0.5 and value.kind == "estimate"


def test_matching_with_other_weights_than_the_data_set_s_does_not_sum_to_one() -> None:
    """F is exact all the same; P_ij = w_i w_j F is the model's with the data set's own weights only."""
    x = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
    model = rp.RPM(rp.Deterministic(nn.Identity()), prior, marginal=rp.DatasetMarginal(x, x))
    weights = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    assert model.match(x, x).total == pytest.approx(1)
    assert model.match(x, x, weights=weights).total != pytest.approx(1, abs=0.05)
    model.marginal = rp.DatasetMarginal(x, x, weights=weights)
    assert model.match(x, x).total == pytest.approx(1)


def test_drawn_categories_refuse_a_gradient_they_would_lose() -> None:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    model = rp.RPM(
        [rp.Categorical(nn.Linear(2, 3)), rp.Gaussian(nn.Linear(2, 4))], rp.InfoNCEPrior(rp.Bilinear(3, 2))
    )
    with pytest.raises(ValueError, match="no gradient"):
        model.elbo(x, x)
    with torch.no_grad():
        assert math.isfinite(float(model.elbo(x, x)))


class Diagonal(ParametricPrior):
    """All mass on equal categories."""

    def log_prob(self, *latents: torch.Tensor) -> torch.Tensor:
        same = (latents[0] * latents[1]).sum(-1)
        return torch.where(same > 0.5, math.log(0.5), -math.inf)


def test_values_without_mass_take_no_part_in_the_elbo() -> None:
    """Where R underflows to zero the prior may be -inf."""
    net = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[200.0], [-200.0]]))
    x = torch.tensor([[1.0], [-1.0]])
    bound = rp.RPM(rp.Categorical(net), Diagonal()).elbo(x, x)
    assert float(bound) == pytest.approx(math.log(2), abs=1e-5)
    bound.value.backward()
    assert net.weight.grad is not None and bool(net.weight.grad.isfinite().all())


def test_sorted_pairs_do_not_lower_the_upper_bound() -> None:
    """Pairs of a group are a sample of all, in whatever order they come."""
    rho = 0.8
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 1200, 1))
    x_prime = rho * x + math.sqrt(1 - rho**2) * noise
    order = np.argsort(x[:, 0])

    def log_conditional(x: torch.Tensor, x_prime: torch.Tensor) -> torch.Tensor:
        variance = 1 - rho**2
        return (-0.5 * (x_prime - rho * x).square() / variance - 0.5 * math.log(2 * math.pi * variance)).sum(-1)

    mi = rp.estimate_mutual_information(
        x[order], x_prime[order], x_test=x[order], x_prime_test=x_prime[order], bank_size=100,
        log_conditional=log_conditional,
    )
    truth = -0.5 * math.log(1 - rho**2)
    assert mi.upper is not None and float(mi.upper) > truth - 3 * mi.upper.standard_error


@pytest.mark.parametrize("ask", ["elbo", "log_marginal", "mutual_information", "decompose", "match"])
def test_a_misspelt_keyword_is_an_error(ask: str) -> None:
    model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(1.0)))
    x = torch.randn(4, 2)
    with pytest.raises(TypeError, match="among weights, rows, labels, num_samples, generator; got weigths"):
        getattr(model, ask)(x, x, weigths=torch.ones(4))
