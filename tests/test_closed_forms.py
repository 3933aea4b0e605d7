"""Expectations in closed form: against quadrature and draws, their bounds, their noise, and where there are none."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recparam as rp
from gaussian_world import GaussianWorld, mixed
from recparam.couplings import Coupling
from recparam.model import Expectation
from recparam.priors import Kind, Prior, Side
from recparam.priors.closed_forms import Moments, expected_log_f, expected_score
from recparam.recognition import RecognitionModel, recognise

F64 = torch.float64
THETA = torch.tensor([[0.5, -0.4], [0.3, 0.6]], dtype=F64)

COUPLINGS: dict[str, Callable[[], Coupling]] = {
    "rbf": lambda: rp.GaussianRBF(lengthscale=0.8),
    "rbf per dimension": lambda: rp.GaussianRBF(lengthscale=torch.tensor([0.6, 1.5])),
    "bilinear": lambda: rp.Bilinear(2, theta=THETA),
    "one dimension": lambda: rp.OnDimensions(rp.GaussianRBF(lengthscale=0.7), [1], dims_prime=[0]),
    "sum": lambda: (
        rp.OnDimensions(rp.GaussianRBF(lengthscale=0.7), [1], dims_prime=[0])
        + rp.OnDimensions(rp.Bilinear(2, 1, theta=torch.tensor([[0.5], [-0.8]])), [0, 1], dims_prime=[1])
    ),
    "sum inside": lambda: rp.OnDimensions(
        rp.OnDimensions(rp.Bilinear(1), [0]) + rp.OnDimensions(rp.GaussianRBF(lengthscale=1.0), [1]), [1, 0]
    ),
}
MEAN, SCALE = torch.tensor([0.4, -0.7], dtype=F64), torch.tensor([0.5, 0.9], dtype=F64)
MEAN_PRIME, SCALE_PRIME = torch.tensor([-0.3, 0.8], dtype=F64), torch.tensor([0.7, 0.3], dtype=F64)


def line(mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Points and probabilities of a Gaussian: the trapezium rule, whose error for a smooth decaying f is rounding."""
    steps = torch.linspace(-12, 12, 241, dtype=F64)
    return mean + scale * steps, torch.softmax(-0.5 * steps.square(), 0)


def plane(mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    (a, mass_a), (b, mass_b) = (line(mean[d], scale[d]) for d in range(2))
    return torch.cartesian_prod(a, b), torch.cartesian_prod(mass_a, mass_b).prod(-1)


@pytest.mark.parametrize("name", COUPLINGS)
def test_quadrature(name: str) -> None:
    coupling = COUPLINGS[name]().double()
    points, mass = plane(MEAN_PRIME, SCALE_PRIME)
    z = torch.tensor([[0.0, 0.0], [1.5, -2.0], [0.3, 0.9]], dtype=F64)
    columns = torch.cat([MEAN_PRIME, SCALE_PRIME])[None]
    truth = (coupling(z[:, None], points[None]).exp() * mass).sum(-1)
    torch.testing.assert_close(expected_score(coupling, 2)(z, columns)[:, 0].exp(), truth, rtol=1e-10, atol=1e-10)
    given = expected_log_f(coupling, Moments(z, torch.zeros_like(z)), Moments(MEAN_PRIME, SCALE_PRIME.square()))
    torch.testing.assert_close(given, (coupling(z[:, None], points[None]) * mass).sum(-1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COUPLINGS)
def test_quadrature_over_both_latents(name: str) -> None:
    """log f is a quadratic: two points per dimension, a standard deviation either side, give its mean exactly."""
    coupling = COUPLINGS[name]().double()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 4)
    truth = coupling(MEAN + SCALE * signs[:, :2], MEAN_PRIME + SCALE_PRIME * signs[:, 2:]).mean()
    value = expected_log_f(coupling, Moments(MEAN, SCALE.square()), Moments(MEAN_PRIME, SCALE_PRIME.square()))
    torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COUPLINGS)
def test_draws(name: str, generator: torch.Generator) -> None:
    coupling = COUPLINGS[name]().double()
    noise = torch.randn(2, 100_000, 2, generator=generator, dtype=F64)
    z, z_prime = MEAN + SCALE * noise[0], MEAN_PRIME + SCALE_PRIME * noise[1]
    columns = torch.cat([MEAN_PRIME, SCALE_PRIME])[None]
    with torch.no_grad():
        log_f, f = coupling(z, z_prime), coupling(MEAN, z_prime).exp()
        value = expected_log_f(coupling, Moments(MEAN, SCALE.square()), Moments(MEAN_PRIME, SCALE_PRIME.square()))
        mean_f = expected_score(coupling, 2)(MEAN[None], columns).exp()
    for draws, exact in ((log_f, value), (f, mean_f)):
        assert abs(float(draws.mean() - exact)) < 4 * float(draws.std()) / len(draws) ** 0.5


# The option of the model


def gaussian(dim: int, variance: float) -> rp.Gaussian:
    """z = x plus noise of that variance, both of which can be learned."""
    net = nn.Linear(dim, 2 * dim, dtype=F64)
    with torch.no_grad():
        net.weight.copy_(torch.cat([torch.eye(dim), torch.zeros(dim, dim)]))
        net.bias.copy_(torch.cat([torch.zeros(dim), torch.full((dim,), math.log(variance), dtype=F64)]))
    return rp.Gaussian(net)


def pairs(size: int, dim: int, *, steps: int = 2) -> list[Tensor]:
    world = GaussianWorld(torch.eye(dim, dtype=F64), 0.1)
    return world.sample(size, torch.Generator().manual_seed(0), steps=steps)


@pytest.mark.parametrize("side", [None, "upper", "lower"])
@pytest.mark.parametrize("name", COUPLINGS)
def test_the_value_is_the_formula(name: str, side: Side) -> None:
    """Written out for the draws of z that the model makes, chain of three, without the kernel."""
    coupling, observations, variance, rows = COUPLINGS[name]().double(), pairs(6, 2, steps=3), 0.3, torch.arange(6)
    model = rp.RPM(gaussian(2, variance), rp.InfoNCEPrior(coupling))
    options = {"num_samples": 3, "side": side}
    bound = model.elbo(*observations, expectation="analytic", generator=torch.Generator().manual_seed(1), **options)
    latents = recognise(
        [model.encode(x) for x in observations], num_samples=3, generator=torch.Generator().manual_seed(1)
    ).latents
    total = torch.zeros(3, 6, dtype=F64)
    for t in (1, 2):
        z, after = latents[t - 1], Moments(observations[t], torch.full((6, 2), variance, dtype=F64))
        log_f = expected_log_f(coupling, Moments(z, torch.zeros_like(z)), after)
        score = expected_score(coupling, 2)
        scores = torch.stack([score(draw, torch.cat([after.mean, after.variance.sqrt()], -1)) for draw in z])
        if side is None:
            total = total + log_f - scores.logsumexp(-1) + math.log(6)
            continue
        others = rows[:, None] != rows
        means = [(scores.exp() * keep).sum(-1) / keep.sum(-1) for keep in (others, others & (rows % 2 == 0))]
        odd = others & (rows % 2 == 1)
        if side == "upper":
            total = total + log_f - means[0].log()
        else:
            total = total + log_f + 1 - means[1].log() - (scores.exp() * odd).sum(-1) / odd.sum(-1) / means[1]
    torch.testing.assert_close(bound.per_observation, total.mean(0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sum(bound.terms.values()), bound.value)


@pytest.mark.parametrize("name", ["rbf", "bilinear", "sum"])
def test_points_are_their_own_expectation(name: str) -> None:
    """Deterministic latents give the same value, and noise in z alone the same for the same draws."""
    observations, prior = pairs(8, 2), rp.InfoNCEPrior(COUPLINGS[name]()).double()
    point = rp.Deterministic(nn.Identity())
    for recognition in (point, [gaussian(2, 0.3), point]):
        for side in (None, "upper", "lower"):
            model = rp.RPM(recognition, prior)
            values = [
                model.elbo(*observations, side=side, expectation=e, generator=torch.Generator().manual_seed(0))
                for e in ("sampled", "analytic")
            ]
            torch.testing.assert_close(values[0].per_observation, values[1].per_observation, rtol=1e-10, atol=1e-10)
            assert values[0].kind == values[1].kind


@pytest.mark.parametrize(
    ("marginal", "kinds"),
    [
        ("batch", ("estimate", "upper", "lower")),
        ("data set", ("exact", "exact", "exact")),
        ("other data", ("estimate", "upper", "lower")),
    ],
)
def test_kinds(marginal: str, kinds: tuple[Kind, Kind, Kind]) -> None:
    observations = pairs(8, 2)
    banks = {"data set": observations, "other data": [x + 1 for x in observations]}
    bank = rp.DatasetMarginal(*banks[marginal]) if marginal in banks else None
    model = rp.RPM(gaussian(2, 0.3), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)), marginal=bank)
    for side, kind in zip((None, "upper", "lower"), kinds, strict=True):
        bound = model.elbo(*observations, side=side, expectation="analytic")
        assert bound.kind == kind
        kept = kind == "exact" or (marginal == "batch" and side is None)
        assert bound.ceiling == (pytest.approx(math.log(8)) if kept else None)
        assert not kept or float(bound) <= math.log(8)


def test_under_the_empirical_base_the_value_is_exact() -> None:
    """Its mean over draws of z is the ELBO, here an integral over z of a sum of integrals over z'."""
    observations, variance, coupling = pairs(12, 1), 0.3, rp.GaussianRBF(lengthscale=0.5).double()
    bank = rp.DatasetMarginal(*observations)
    model = rp.RPM(gaussian(1, variance), rp.InfoNCEPrior(coupling), marginal=bank)
    scale = torch.full((12, 1), variance**0.5, dtype=F64)
    elbo = 0.0
    with torch.no_grad():
        for x, x_prime in zip(*observations, strict=True):
            z, mass = line(x, scale[:1, 0])
            log_z = expected_score(coupling, 1)(z[:, None], torch.cat([observations[1], scale], -1)).logsumexp(-1)
            log_f = -0.5 * ((x - x_prime).square() + 2 * variance) / 0.25
            elbo += float(log_f - (mass * log_z).sum() + math.log(12)) / 12
        bound = model.elbo(
            *observations, expectation="analytic", num_samples=10_000, generator=torch.Generator().manual_seed(0)
        )
    assert float(bound) == pytest.approx(elbo, abs=0.02)


def critic(name: str, dim: int) -> Coupling:
    return (
        rp.GaussianRBF(lengthscale=0.6) if name == "rbf" else rp.Bilinear(dim, theta=0.5 * torch.eye(dim, dtype=F64))
    )


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("name", ["rbf", "bilinear"])
def test_directions(name: str, dim: int) -> None:
    """On either side of the ELBO, and under the MI where the own row is kept."""
    world, theta = GaussianWorld(mixed(dim), 0.2), 0.5 * torch.eye(dim, dtype=F64)
    elbo = world.rbf(0.6) if name == "rbf" else world.bilinear(theta)
    model = rp.RPM(world.recognition(), rp.InfoNCEPrior(critic(name, dim))).double()
    draws = torch.Generator().manual_seed(0)
    for side, below, limit in ((None, True, world.mi()), ("upper", False, elbo), ("lower", True, elbo)):
        with torch.no_grad():
            values = torch.tensor(
                [
                    float(model.elbo(*world.sample(32, draws), side=side, expectation="analytic", generator=draws))
                    for _ in range(25)
                ]
            )
        # The lower side of a soft critic is all but tight.
        errors = -3 if (name, side) == ("bilinear", "lower") else 2
        margin = errors * float(values.std()) / len(values) ** 0.5
        assert (float(values.mean()) + margin < limit) if below else (float(values.mean()) - margin > limit)


@pytest.mark.parametrize("side", [None, "upper"])
@pytest.mark.parametrize("name", ["rbf", "bilinear"])
def test_the_average_inside_the_logarithm_lowers_the_value(name: str, side: Side) -> None:
    """By Jensen's inequality, whatever the rows; far beyond what the draws explain."""
    model, observations = rp.RPM(gaussian(5, 0.5), rp.InfoNCEPrior(critic(name, 5))).double(), pairs(16, 5)
    values: dict[Expectation, Tensor] = {}
    with torch.no_grad():
        for how in ("sampled", "analytic"):
            draws = [torch.Generator().manual_seed(seed) for seed in range(60)]  # the same z for both
            bounds = [model.elbo(*observations, side=side, expectation=how, generator=draw) for draw in draws]
            values[how] = torch.stack([bound.terms["minus_log_Z"] for bound in bounds])
    fall = values["sampled"] - values["analytic"]
    assert float(fall.mean()) > 3 * float(fall.std()) / len(fall) ** 0.5


@pytest.mark.parametrize(("name", "factor"), [("rbf", 2.0), ("bilinear", 2.5)])
def test_gradients_are_less_noisy(name: str, factor: float) -> None:
    """One draw of z a row, 64 rows in two dimensions, noise of variance 0.1; see docs/theory.md."""
    theta = 0.5 * torch.eye(2, dtype=F64)
    coupling = rp.GaussianRBF(lengthscale=0.46) if name == "rbf" else rp.Bilinear(2, theta=theta)
    model, observations = rp.RPM(gaussian(2, 0.1), rp.InfoNCEPrior(coupling)).double(), pairs(64, 2)

    def variance(expectation: Expectation) -> float:
        draws = torch.Generator().manual_seed(0)
        gradients = []
        for _ in range(60):
            value = model.elbo(*observations, expectation=expectation, generator=draws).value
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]))
        return float(torch.stack(gradients).var(0).sum())

    assert variance("sampled") > factor * variance("analytic")


X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
NOISY, TABLE = rp.EpsilonGaussian(nn.Identity(), epsilon=0.1), rp.Categorical(nn.Identity())
CASES: dict[str, tuple[RecognitionModel, Prior, tuple[str, ...]]] = {
    "parametric prior": (NOISY, rp.JointGaussianPrior(2), ("JointGaussianPrior", "rp.InfoNCEPrior", "'sampled'")),
    "optimal prior": (NOISY, rp.OptimalPrior(), ("OptimalPrior", "'sampled'")),
    "cosine": (NOISY, rp.InfoNCEPrior(rp.Cosine()), ("Cosine", "rp.Bilinear", "'sampled'")),
    "cosine inside": (NOISY, rp.InfoNCEPrior(rp.OnDimensions(rp.Cosine(), [0])), ("Cosine", "'sampled'")),
    "shared dimensions": (NOISY, rp.InfoNCEPrior(rp.Bilinear(2) + rp.GaussianRBF(lengthscale=1.0)), ("disjoint",)),
    "categorical": (TABLE, rp.InfoNCEPrior(rp.Bilinear(2)), ("OneHotCategorical", "rp.Gaussian", "'sampled'")),
}


@pytest.mark.parametrize("name", CASES)
def test_where_there_is_no_closed_form(name: str) -> None:
    recognition, prior, words = CASES[name]
    with pytest.raises(ValueError, match="Expected") as caught:
        rp.RPM(recognition, prior).elbo(X, X, expectation="analytic")
    assert all(word in str(caught.value) for word in words)
