"""The closed forms of the linear-Gaussian world: against each other, against brute force, and against the library."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import recparam as rp
from gaussian_world import GaussianWorld, mixed, standard
from recparam.priors import Prior


def worlds() -> list[GaussianWorld]:
    return [standard(1), GaussianWorld(mixed(5), 0.0, 0.5), GaussianWorld(mixed(20), 0.1)]


@pytest.mark.parametrize("world", worlds(), ids=lambda w: f"D{w.dim}")
def test_no_critic_exceeds_the_mutual_information(world: GaussianWorld) -> None:
    elbos = [world.rbf(scale) for scale in (0.1, 0.5, 1.0, 3.0)]
    elbos += [world.bilinear(scale * mixed(world.dim)) for scale in (0.0, 0.2, 1.0)]
    elbos += [world.joint_gaussian(rho) for rho in (-0.5, 0.0, 0.8)]
    assert max(elbos) <= world.mi()
    assert world.bilinear(torch.zeros(world.dim, world.dim, dtype=torch.float64)) == 0


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_the_mutual_information_is_the_textbook_one(dim: int) -> None:
    assert standard(dim).mi() == pytest.approx(-0.5 * dim * math.log(1 - 0.81), rel=1e-12)
    # an invertible W loses nothing
    assert GaussianWorld(mixed(dim), 0.0).mi() == pytest.approx(standard(dim).mi(), rel=1e-10)
    assert standard(dim, variance=0.1).mi() < standard(dim).mi()


@pytest.mark.parametrize("world", worlds(), ids=lambda w: f"D{w.dim}")
def test_chains_agree_with_pairs(world: GaussianWorld) -> None:
    assert world.total_correlation(2) == pytest.approx(world.mi(), rel=1e-10)
    if world.variance == 0:  # a Markov chain of latents
        assert world.total_correlation(3) == pytest.approx(2 * world.mi(), rel=1e-10)
    # P(z_1, z_2, z_3) = P(z_1, z_2) P(z_2, z_3) / P(z_2), and R(z_2) is counted once more than in two pairs
    trace = torch.trace(world.marginal)
    middle = float(0.5 * (trace - world.dim - torch.logdet(world.marginal)))
    assert world.joint_gaussian(0.6, steps=3) == pytest.approx(2 * world.joint_gaussian(0.6) + middle, rel=1e-10)
    assert world.joint_gaussian(0.6, steps=3) < world.total_correlation(3)


def test_the_log_marginal_is_above_the_elbo_and_is_that_of_quadrature() -> None:
    world = standard(1, variance=0.1)
    x, x_prime = world.sample(300, torch.Generator().manual_seed(0))
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite.hermgauss(60))
    log_ratio = _log_ratio(world, x + 0.2**0.5 * nodes, x_prime + 0.2**0.5 * nodes, 0.7)
    log_mass = (weights / math.pi**0.5).log()
    log_mass = log_mass[:, None] + log_mass
    by_quadrature = (log_ratio + log_mass).logsumexp((1, 2))
    torch.testing.assert_close(world.log_marginal(x, x_prime, 0.7), by_quadrature)
    elbo = (log_mass.exp() * log_ratio).sum((1, 2))
    assert bool((by_quadrature > elbo).all())
    error = float(elbo.std()) / len(elbo) ** 0.5
    assert abs(float(elbo.mean()) - world.joint_gaussian(0.7)) < 4 * error


def _log_ratio(world: GaussianWorld, z: Tensor, z_prime: Tensor, rho: float) -> Tensor:
    """log P(z, z') / R(z) R(z') in one dimension at all pairs of z (B, n) and z' (B, n)."""
    z, z_prime, variance = z[:, :, None], z_prime[:, None, :], float(world.marginal)
    quadratic = (z**2 - 2 * rho * z * z_prime + z_prime**2) / (1 - rho**2) - (z**2 + z_prime**2) / variance
    return -0.5 * quadratic - 0.5 * math.log(1 - rho**2) + math.log(variance)


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_the_well_specified_priors_reach_the_mutual_information(dim: int) -> None:
    world = standard(dim)
    assert world.joint_gaussian(0.9) == pytest.approx(world.mi(), rel=1e-10)
    # log P(z'|z) / R(z') = -(z' - z / rho)^2 rho^2 / 2 (1 - rho^2) + function of z': near an RBF, never above
    assert 0.95 * world.mi() < world.rbf(((1 - 0.81) / 0.9) ** 0.5) < world.mi()


def test_normalisers_agree_with_brute_force() -> None:
    world = GaussianWorld(mixed(2), 0.1)
    z = torch.linspace(-8, 8, 129, dtype=torch.float64)
    grid = torch.cartesian_prod(z, z)
    log_mass = MultivariateNormal(torch.zeros(2, dtype=torch.float64), world.marginal).log_prob(grid)
    log_mass = log_mass - log_mass.logsumexp(0)
    generator = torch.Generator().manual_seed(0)
    theta = 0.4 * mixed(2)
    queries, positives = (x @ world.weight.T for x in world.sample(150, generator))
    noise = torch.randn(2, 150, 2, generator=generator, dtype=torch.float64)
    queries, positives = queries + 0.1**0.5 * noise[0], positives + 0.1**0.5 * noise[1]

    def monte_carlo(log_f: Tensor, log_f_grid: Tensor) -> tuple[float, float]:
        ratio = log_f - (log_f_grid + log_mass).logsumexp(-1)
        return float(ratio.mean()), float(ratio.std()) / len(ratio) ** 0.5

    rbf = monte_carlo(-0.5 * (queries - positives).square().sum(-1), -0.5 * torch.cdist(queries, grid).square())
    bilinear = monte_carlo(((queries @ theta) * positives).sum(-1), queries @ theta @ grid.T)
    assert abs(rbf[0] - world.rbf(1.0)) < 4 * rbf[1]
    assert abs(bilinear[0] - world.bilinear(theta)) < 4 * bilinear[1]


def library(world: GaussianWorld) -> list[tuple[str, Prior, float]]:
    eye = torch.eye(world.dim, dtype=torch.float64)
    matrix, noise = world.dynamics()
    dynamics = rp.LinearDynamics(world.dim, matrix=matrix, covariance=noise)
    return [
        ("rbf", rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.2)), world.rbf(1.2)),
        ("bilinear", rp.InfoNCEPrior(rp.Bilinear(world.dim, theta=0.4 * eye)), world.bilinear(0.4 * eye)),
        ("joint Gaussian", rp.JointGaussianPrior(world.dim, correlation=0.7), world.joint_gaussian(0.7)),
        ("optimal", rp.OptimalPrior(), world.mi()),
        ("linear dynamics", rp.InfoNCEPrior(dynamics), world.linear_dynamics()),
    ]


@pytest.mark.parametrize("case", range(5), ids=["rbf", "bilinear", "joint Gaussian", "optimal", "linear dynamics"])
def test_big_banks_enclose_the_truth(case: int) -> None:
    """With many rows in one dimension the two sides close on the closed form, which pins its value."""
    world = GaussianWorld(mixed(1), 0.3)
    _, prior, truth = library(world)[case]
    model = rp.RPM(world.recognition(), prior).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        pairs = [world.sample(500, generator) for _ in range(6)]
        sides = [[model.elbo(*p, side=s, generator=generator) for p in pairs] for s in ("lower", "upper")]
    lower, upper = (sum(float(b) for b in bounds) / 6 for bounds in sides)
    error = sides[1][0].standard_error / 6**0.5
    assert sides[0][0].kind == "lower"
    assert sides[1][0].kind == "upper"
    assert lower - 4 * error < truth < upper + 4 * error
    assert upper - lower < 0.1


def test_gaussian_recognition_with_that_variance_is_the_same_world() -> None:
    world = GaussianWorld(mixed(3), 0.3)
    batch = world.sample(50, torch.Generator().manual_seed(0))
    for name, prior, _ in library(world):
        values = []
        for full in (False, True):
            model = rp.RPM(world.recognition(full=full), prior).double()
            values.append(float(model.elbo(*batch, generator=torch.Generator().manual_seed(1))))
        assert values[0] == pytest.approx(values[1], rel=1e-12), name
