"""Estimated base marginals: the log-density against closed forms, which way its Monte Carlo error goes, mixtures."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

import recparam as rp
from recparam.ops import NonFiniteError
from recparam.priors import Prior, Side

WEIGHT, THETA = 1.3, 0.9
SIDES: dict[Side, int] = {"upper": 32, "lower": 16}


class Normal:
    """The standard normal in one dimension: drawn at random, or its quantiles, which integrate almost exactly."""

    def __init__(self, *, quantiles: bool = False) -> None:
        self.quantiles = quantiles

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        if not self.quantiles:
            return torch.randn(n, 1, generator=generator, dtype=torch.float64)
        u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        return (math.sqrt(2) * torch.erfinv(2 * u - 1))[:, None]

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x[:, 0].square() + math.log(2 * math.pi))


def sampler(n: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.randn(n, 1, generator=generator, dtype=torch.float64)


def seeded(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def linear(weight: float) -> nn.Linear:
    net = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(net.weight, weight)
    return net


def rbf_model(*bases: object, num_samples: int = 4096, seed: int = 0, hold: bool = False) -> rp.RPM:
    """z = w x exactly, with an RBF coupling: everything about it is known."""
    marginal = rp.EstimatedMarginal(*bases, num_samples=num_samples, generator=seeded(seed), hold=hold)  # pyright: ignore[reportArgumentType]
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=THETA)).double()
    return rp.RPM(rp.Deterministic(linear(WEIGHT)), prior, marginal=marginal)


def log_normaliser(z: Tensor, squared: float = THETA**2) -> Tensor:
    """log E_{z' ~ N(0, w^2)} exp(-(z - z')^2 / 2 s) for s = `squared`."""
    total = squared + WEIGHT**2
    return 0.5 * math.log(squared / total) - 0.5 * z.square() / total


def closed_form(x: Tensor, x_prime: Tensor) -> Tensor:
    """log P(x, x') of `rbf_model`."""
    z, z_prime = WEIGHT * x[:, 0], WEIGHT * x_prime[:, 0]
    log_f = -0.5 * (z - z_prime).square() / THETA**2
    return Normal().log_prob(x) + Normal().log_prob(x_prime) + log_f - log_normaliser(z)


def points(count: int = 40) -> tuple[Tensor, Tensor]:
    return sampler(count, seeded(1)), sampler(count, seeded(2))


@torch.no_grad()
def test_the_log_density_is_the_closed_form() -> None:
    x, x_prime = (each.clamp(-2, 2) for each in points())  # where quantiles integrate well
    bound = rbf_model(Normal(quantiles=True), Normal(quantiles=True)).log_prob(x, x_prime)
    torch.testing.assert_close(bound.per_observation, closed_form(x, x_prime), atol=2e-4, rtol=0)
    assert bound.of == "log_prob" and bound.kind == "estimate" and str(bound).startswith("log P(x, x') ~")
    torch.testing.assert_close(bound.value, bound.per_observation.mean())
    torch.testing.assert_close(torch.stack(list(bound.terms.values())).sum(), bound.value)
    one = rbf_model(Normal(quantiles=True), Normal(quantiles=True)).log_prob(x[:1], x_prime[:1])
    torch.testing.assert_close(one.per_observation, bound.per_observation[:1])


@torch.no_grad()
def test_it_integrates_to_one() -> None:
    line = torch.linspace(-6, 6, 121, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    model = rbf_model(Normal(quantiles=True), Normal(quantiles=True), num_samples=2048, hold=True)
    log_p = model.log_prob(grid[:, :1], grid[:, 1:]).per_observation
    assert float(log_p.exp().sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=1e-4)
    # without the constant it is no density
    log_f = model.log_marginal(grid[:, :1], grid[:, 1:]).per_observation
    assert float(log_f.exp().sum() * (line[1] - line[0]) ** 2) > 10


@torch.no_grad()
def test_random_samples_agree_within_their_error() -> None:
    x, x_prime = points()
    z = WEIGHT * x[:, 0]
    # f^2 is an RBF of half the squared lengthscale
    variance = (log_normaliser(z, THETA**2 / 2) - 2 * log_normaliser(z)).exp() - 1
    value = rbf_model(Normal(), Normal(), num_samples=20_000).log_prob(x, x_prime).per_observation
    error = (value - closed_form(x, x_prime)) / (variance / 20_000).sqrt()
    assert float(error.abs().max()) < 4 and float(error.abs().max()) > 0.1


@torch.no_grad()
def test_the_monte_carlo_error_goes_the_way_the_side_says() -> None:
    """The excess of -log of a mean of M is about Var(f) / (2 M Z^2); the lower side is below, the upper above."""
    x, x_prime = (each.clamp(-1.5, 1.5) for each in points(24))
    truth, z = closed_form(x, x_prime), WEIGHT * x[:, 0]
    variance = (log_normaliser(z, THETA**2 / 2) - 2 * log_normaliser(z)).exp() - 1
    excess: dict[Side, list[Tensor]] = {"upper": [], "lower": []}
    for seed in range(150):
        for side, count in SIDES.items():
            model = rbf_model(Normal(), Normal(), num_samples=count, seed=seed)
            bound = model.log_prob(x, x_prime, side=side)
            assert bound.kind == side
            excess[side].append(bound.per_observation - truth)
    upper, lower = (torch.stack(excess[side]) for side in ("upper", "lower"))
    assert float(upper.mean()) > 3 * float(upper.mean(1).std()) / 150**0.5
    assert float(lower.mean()) < -3 * float(lower.mean(1).std()) / 150**0.5
    # exp(-excess) is the unbiased mean over its expectation: less that, which is one, the noise is small
    steady = (upper + (-upper).exp() - 1).mean()
    assert float(steady) == pytest.approx(float(variance.mean()) / 64, rel=0.2)


@torch.no_grad()
def test_a_parametric_prior_with_noisy_latents() -> None:
    """z = w x + noise of variance 1 - w^2, prior of correlation r: then x and x' are normal with correlation w^2 r."""
    weight, rho = 0.8, 0.7
    normal = Normal(quantiles=True)
    marginal = rp.EstimatedMarginal(normal, normal, num_samples=1024)
    recognition = rp.EpsilonGaussian(linear(weight), epsilon=1 - weight**2)
    model = rp.RPM(recognition, rp.JointGaussianPrior(1, correlation=rho).double(), marginal=marginal)
    x, x_prime = points(6)
    bounds = [model.log_prob(x, x_prime, num_samples=300, generator=seeded(k)) for k in range(10)]
    assert {bound.kind for bound in bounds} == {"estimate"}
    mean = torch.stack([bound.per_observation.exp() for bound in bounds])
    c = weight**2 * rho
    exponent = (x.square() - 2 * c * x * x_prime + x_prime.square())[:, 0] / (2 * (1 - c**2))
    truth = (-exponent).exp() / (2 * math.pi * math.sqrt(1 - c**2))
    error = mean.std(0) / 10**0.5
    assert bool(((mean.mean(0) - truth).abs() < 5 * error + 2e-3 * truth).all())
    assert float((error / truth).max()) < 0.05


def test_a_chain_of_three_has_three_constants() -> None:
    base = Normal(quantiles=True)
    model = rbf_model(base, base, base, num_samples=256)
    x = [sampler(4, seeded(k)) for k in range(3)]
    difference = model.log_prob(*x).per_observation - model.log_marginal(*x).per_observation
    torch.testing.assert_close(difference, sum(base.log_prob(each) for each in x))


@torch.no_grad()
def test_kinds_and_what_comes_of_the_batch() -> None:
    x, x_prime = points(30)
    model = rbf_model(sampler, sampler, num_samples=64)
    assert model.elbo(x, x_prime).kind == "estimate"
    assert model.elbo(x, x_prime, side="upper").kind == "upper"
    assert model.elbo(x, x_prime).ceiling is None
    batch = rp.RPM(model.recognition[0], model.prior).mutual_information(x, x_prime)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(model.mutual_information(x, x_prime).lower.value, batch.lower.value)


def test_gradients_reach_the_encoder_through_the_samples() -> None:
    x, x_prime = points(5)
    model = rbf_model(Normal(), Normal(), num_samples=256)
    bound = model.log_prob(x, x_prime)
    bound.value.backward()
    weight = next(model.recognition.parameters())
    by_hand = torch.tensor(WEIGHT, dtype=torch.float64, requires_grad=True)
    bank = sampler(256, seeded())  # of x; that of x' was drawn next
    generator = seeded()
    sampler(256, generator)
    bank = sampler(256, generator)
    score = -0.5 * (by_hand * (x - bank.T)).square() / THETA**2
    log_f = -0.5 * (by_hand * (x - x_prime)).square()[:, 0] / THETA**2
    (log_f - score.logsumexp(1) + math.log(256)).mean().backward()
    torch.testing.assert_close(weight.grad[0, 0], by_hand.grad)  # pyright: ignore[reportOptionalSubscript]


@torch.no_grad()
def test_a_held_bank_of_samples() -> None:
    x, x_prime = points(5)
    held = rbf_model(Normal(), Normal(), num_samples=50, hold=True)
    fresh = rbf_model(Normal(), Normal(), num_samples=50)
    assert held.log_prob(x, x_prime, side="upper").kind == "upper"
    torch.testing.assert_close(held.log_prob(x, x_prime).value, fresh.log_prob(x, x_prime).value)
    next(held.recognition.parameters()).mul_(2)
    with pytest.warns(UserWarning, match=r"bank of the EstimatedMarginal is older.*marginal\.refresh\(\)"):
        assert held.log_prob(x, x_prime, side="upper").kind == "estimate"
    assert isinstance(held.marginal, rp.EstimatedMarginal)
    held.marginal.refresh()
    next(fresh.recognition.parameters()).mul_(2)
    torch.testing.assert_close(held.log_prob(x, x_prime).value, fresh.log_prob(x, x_prime).value)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_mixtures_are_those_of_scikit_learn(kind: str) -> None:
    x = np.random.default_rng(0).normal(size=(300, 2)) @ np.array([[1.0, 0.7], [0.0, 0.5]])
    x[:150] += 3
    mixture = GaussianMixture(2, covariance_type=kind, random_state=0).fit(x)  # pyright: ignore[reportArgumentType]
    base = rp.GaussianMixtureBase(mixture, dtype=torch.float64)
    assert isinstance(base, rp.BaseDensity)
    inputs = torch.as_tensor(x).requires_grad_()
    log_p = base.log_prob(inputs)
    np.testing.assert_allclose(log_p.detach().numpy(), mixture.score_samples(x), rtol=1e-9)
    log_p.sum().backward()
    assert bool(torch.isfinite(inputs.grad).all())  # pyright: ignore[reportArgumentType]
    drawn = base.sample(20_000, seeded())
    assert torch.equal(drawn, base.sample(20_000, seeded()))
    reference, _ = mixture.sample(20_000)
    np.testing.assert_allclose(drawn.mean(0), reference.mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(reference.T), atol=0.15)
    assert float(base.log_prob(drawn).mean()) == pytest.approx(mixture.score_samples(reference).mean(), abs=0.05)


def test_a_fitted_mixture_beats_one_gaussian_on_new_data() -> None:
    def draw(n: int, seed: int) -> Tensor:
        generator = seeded(seed)
        return torch.randn(n, 1, generator=generator) * 0.3 + 2 * torch.randint(0, 2, (n, 1), generator=generator)

    train, test = draw(2000, 0), draw(2000, 1)
    one, two = (float(rp.GaussianMixtureBase.fit(train, components=k).log_prob(test).mean()) for k in (1, 2))
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.09) + math.log(2)
    assert two > one + 0.3 and two == pytest.approx(-entropy, abs=0.05)


def batch_model() -> rp.RPM:
    return rp.RPM(rp.Deterministic(linear(1.0)), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)).double())


def optimal() -> rp.RPM:
    marginal = rp.EstimatedMarginal(sampler, sampler)
    prior: Prior = rp.OptimalPrior()
    return rp.RPM(rp.EpsilonGaussian(linear(1.0), epsilon=0.1), prior, marginal=marginal)


x, x_prime = points(4)
wide = x.expand(4, 2)
nan = x.clone()
nan[1] = torch.nan


class Wrong(Normal):
    """Its log-density is a column."""

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x)[:, None]


BAD: list[tuple[str, Callable[[], object], str]] = [
    (
        "a batch asked for a log-density",
        lambda: batch_model().log_prob(x, x_prime),
        r"EstimatedMarginal.*a marginal without log_prob asked for a log-density \(BatchMarginal\)",
    ),
    (
        "a sampler asked for a log-density",
        lambda: rbf_model(Normal(), sampler).log_prob(x, x_prime),
        "a marginal without log_prob asked for a log-density .the base of x_prime only samples",
    ),
    ("a batch asked for samples", lambda: batch_model().sample(), "EstimatedMarginal.*asked for samples"),
    ("no samples", lambda: rbf_model(Normal(), Normal(), num_samples=0), "num_samples >= 1; got 0"),
    ("one base", lambda: rp.EstimatedMarginal(Normal()), "at least two bases .*got 1"),
    ("too few rows", lambda: rp.EstimatedMarginal(sampler, lambda n, generator: x), "base of x_prime with 1024 rows"),
    ("NaN", lambda: rp.EstimatedMarginal(sampler, lambda n, generator: nan, num_samples=4), "base of x_prime; got 1"),
    ("a column of densities", lambda: rbf_model(Normal(), Wrong()).log_prob(x, x_prime), r"x_prime of shape \(4,\)"),
    ("width", lambda: rbf_model(Normal(), Normal()).log_prob(wide, wide), r"x as its base draws it.*\(1,\).*\(2,\)"),
    ("dtype", lambda: rbf_model(Normal(), Normal()).elbo(x.float(), x_prime), r"x as its base.*float64.*float32"),
    ("three", lambda: rbf_model(Normal(), Normal()).elbo(x, x, x), "2 observations, as there are bases; got 3"),
    ("rows", lambda: rbf_model(Normal(), Normal()).elbo(x, x, rows=torch.arange(4)), "rows=None with EstimatedM"),
    ("the optimal prior", lambda: optimal().elbo(x, x_prime), "bank of pairs.*EstimatedMarginal"),
    ("components", lambda: rp.GaussianMixtureBase.fit(x, components=0), "components >= 1; got 0"),
    ("more components than rows", lambda: rp.GaussianMixtureBase.fit(x, components=5), "at least as many.*5; got 4"),
    ("mixture, NaN", lambda: rp.GaussianMixtureBase.fit(nan), "finite values in x"),
    ("not fitted", lambda: rp.GaussianMixtureBase(GaussianMixture()), "fitted mixture"),
]


@pytest.mark.parametrize(("call", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, NonFiniteError), match=words):
        call()
