"""Formulas of the couplings against those of others, and the kernel's values against dense loops."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import recparam as rp
from gaussian_world import GaussianWorld, mixed
from recparam.couplings import Coupling
from recparam.couplings.directions import log_von_mises_fisher
from recparam.ops import pairwise_infonce
from recparam.testing import COUPLINGS

DOUBLE = torch.float64


def ready(name: str, dim: int = 3, rows: int = 6) -> tuple[Coupling, Tensor, Tensor]:
    """A coupling in double precision, and a batch of contexts and latents with gradients."""
    torch.manual_seed(0)
    coupling = COUPLINGS[name](dim).double()
    z = torch.randn(rows, coupling.order * dim, dtype=DOUBLE)
    z_prime = z[:, -dim:] + 0.5 * torch.randn(rows, dim, dtype=DOUBLE)
    coupling.initialise(z, z_prime)
    with torch.no_grad():  # away from starting values that are zeros and ones
        for parameter in coupling.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=DOUBLE)
    return coupling, z.requires_grad_(), z_prime.requires_grad_()


@pytest.mark.parametrize("name", COUPLINGS)
def test_the_kernel_is_the_dense_loop(name: str) -> None:
    coupling, z, z_prime = ready(name)
    tensors = [z, z_prime, *coupling.parameters()]
    pairs = torch.stack([torch.stack([coupling(row, column) for column in z_prime]) for row in z])
    dense = pairs.diagonal() - (pairs.exp().sum(1) / len(z)).log()
    kernel = pairwise_infonce(coupling.score(), z, z_prime)
    torch.testing.assert_close(kernel, dense, rtol=0, atol=1e-9)
    weights = torch.linspace(-1, 2, len(z), dtype=DOUBLE)
    expected = torch.autograd.grad((weights * dense).sum(), tensors)
    for a, b in zip(torch.autograd.grad((weights * kernel).sum(), tensors), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


DENSITIES: dict[str, tuple[Callable[[], Coupling], Callable[[np.ndarray], np.ndarray]]] = {
    "laplace": (lambda: rp.Laplace(0.7), lambda d: scipy.stats.laplace.logpdf(d, scale=0.7).sum(-1)),
    "generalised normal": (
        lambda: rp.GeneralisedNormal(1.7, lengthscale=0.7),
        lambda d: scipy.stats.gennorm.logpdf(d, 1.7, scale=0.7).sum(-1),
    ),
    "sharp generalised normal": (
        lambda: rp.GeneralisedNormal(0.5, lengthscale=0.7),
        lambda d: scipy.stats.gennorm.logpdf(d, 0.5, scale=0.7).sum(-1),
    ),
    "student t": (
        lambda: rp.StudentT(2.5, lengthscale=0.7),
        lambda d: scipy.stats.multivariate_t.logpdf(d, np.zeros(3), 0.49 * np.eye(3), df=2.5),
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_couplings_of_a_distance_are_densities_up_to_a_constant(name: str) -> None:
    make, log_density = DENSITIES[name]
    z, z_prime = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    with torch.no_grad():
        difference = make().double()(z, z_prime).numpy() - log_density((z_prime - z).numpy())
    np.testing.assert_allclose(difference, difference[0], atol=1e-5)


def test_generalised_normals_hold_the_gaussian_and_the_laplace() -> None:
    z, z_prime = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    rbf, laplace = rp.GaussianRBF(0.7 / 2**0.5)(z, z_prime), rp.Laplace(0.7)(z, z_prime)
    torch.testing.assert_close(rp.GeneralisedNormal(2.0, lengthscale=0.7)(z, z_prime), rbf)
    torch.testing.assert_close(rp.GeneralisedNormal(1.0, lengthscale=0.7)(z, z_prime), laplace)


@pytest.mark.parametrize("dim", [2, 3, 10, 101])
@pytest.mark.parametrize("kappa", [1e-3, 0.1, 1.0, 10.0, 1e3, 1e5])
def test_the_von_mises_fisher_normaliser_is_scipy_s(dim: int, kappa: float) -> None:
    v = dim / 2 - 1
    value, slope = log_von_mises_fisher(kappa, dim)
    bessel, following = scipy.special.ive(v, kappa), scipy.special.ive(v + 1, kappa)
    if bessel > 1e-290:  # scipy's underflows, ours does not
        expected = v * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - math.log(bessel) - kappa
        assert value == pytest.approx(expected, rel=1e-10, abs=1e-9)
        if following > 1e-290:
            assert slope == pytest.approx(-following / bessel, rel=1e-8)
    if kappa == 1e-3:  # uniform: one over the area of the sphere, and as flat as I_{v+1} / I_v = kappa / D
        assert value == pytest.approx(math.lgamma(dim / 2) - math.log(2) - dim / 2 * math.log(math.pi), abs=1e-6)
        assert slope == pytest.approx(-kappa / dim, rel=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_von_mises_fisher_is_a_density_on_the_sphere(dim: int) -> None:
    angle = torch.linspace(0, math.pi, 4001, dtype=DOUBLE)
    z_prime = torch.nn.functional.pad(torch.stack([angle.cos(), angle.sin()], -1), (0, dim - 2))
    z = torch.nn.functional.pad(torch.tensor([3.0], dtype=DOUBLE), (0, dim - 1))  # of any length
    with torch.no_grad():
        density = rp.VonMisesFisher(dim, concentration=7.0).double()(z, z_prime).exp()
    area = 2 if dim == 2 else 2 * math.pi * angle.sin()
    assert float(torch.trapezoid(density * area, angle)) == pytest.approx(1, abs=1e-6)
    kappa = torch.tensor(3.0, dtype=DOUBLE)
    f = rp.VonMisesFisher(dim, concentration=3.0).double()
    (slope,) = torch.autograd.grad(f.log_normaliser, [f.log_concentration])
    near = [log_von_mises_fisher(float(kappa) * math.exp(h), dim)[0] for h in (-1e-5, 1e-5)]
    assert float(slope) == pytest.approx((near[1] - near[0]) / 2e-5, abs=1e-6)


def test_on_a_sphere_von_mises_fisher_cosine_and_rbf_are_one_prior() -> None:
    z, z_prime = nn.functional.normalize(torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    of_sphere = [rp.VonMisesFisher(3, concentration=4.0), rp.Cosine(0.25), rp.GaussianRBF(0.5)]
    first, *others = (rp.InfoNCEPrior(f).log_ratio(z, z_prime) for f in of_sphere)
    for other in others:
        torch.testing.assert_close(first, other, rtol=0, atol=1e-5)


def dynamics() -> tuple[rp.LinearDynamics, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix, root = torch.randn(2, 3, 3, generator=generator, dtype=DOUBLE)
    covariance = root @ root.T + 0.1 * torch.eye(3, dtype=DOUBLE)
    offset = torch.randn(3, generator=generator, dtype=DOUBLE)
    return rp.LinearDynamics(3, matrix=matrix, offset=offset, covariance=covariance), matrix, offset, covariance


def test_linear_dynamics_are_a_normal_density() -> None:
    f, matrix, offset, covariance = dynamics()
    z, z_prime = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    expected = MultivariateNormal(z @ matrix.T + offset, covariance).log_prob(z_prime)
    torch.testing.assert_close(f(z, z_prime), expected)
    torch.testing.assert_close(f.covariance, covariance)


def test_switching_is_a_mixture_density() -> None:
    f, *_ = dynamics()
    other = rp.LinearDynamics(3, covariance=torch.eye(3)).double()
    z, z_prime = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    mixture = rp.Switching([f, other], weights=[3.0, 1.0]).double()
    expected = 0.75 * f(z, z_prime).exp() + 0.25 * other(z, z_prime).exp()
    torch.testing.assert_close(mixture(z, z_prime).exp(), expected, rtol=1e-6, atol=0)


def test_linear_dynamics_in_the_gaussian_world() -> None:
    """Over many rows of a world that moves by f itself the ELBO is the known value, below the MI."""
    world = GaussianWorld(mixed(2), 0.0, 0.7)
    matrix, noise = world.dynamics()
    prior = rp.InfoNCEPrior(rp.LinearDynamics(2, matrix=matrix, covariance=noise))
    x = world.sample(3000, torch.Generator().manual_seed(0))
    bound = rp.RPM(world.recognition(), prior, marginal=rp.DatasetMarginal(*x)).eval().elbo(*x)
    assert abs(float(bound) - world.linear_dynamics()) < 4 * bound.standard_error
    assert world.linear_dynamics() < world.mi()


@pytest.mark.parametrize(
    "coupling",
    [
        rp.Laplace(0.5), rp.Laplace(torch.tensor([0.5, 0.2])), rp.GeneralisedNormal(0.5, lengthscale=0.5),
        rp.GeneralisedNormal(1.0, lengthscale=0.5), rp.GeneralisedNormal(3.0, lengthscale=0.5),
        rp.StudentT(1.0, lengthscale=0.5), rp.StepLength(0.5), rp.Groups(rp.StepLength(0.5), [[0], [1]]),
    ],
    ids=lambda f: f.formula(),
)  # fmt: skip
def test_gradients_are_finite_where_latents_coincide(coupling: Coupling) -> None:
    for rows, spread in ((4, 0.0), (4, 1e-30)):
        z = torch.full((rows, 2), spread, requires_grad=True)
        bank = torch.zeros(5, 2, requires_grad=True)
        coupling(z, bank[:4]).sum().backward()
        pairwise_infonce(coupling.score(), z, bank).sum().backward()
        for value in (z, bank, *coupling.parameters()):
            assert value.grad is not None and bool(torch.isfinite(value.grad).all())


def test_switching_finds_two_regimes() -> None:
    """Steps to the left or to the right by one: by likelihood, which needs the normalisers, both are learned."""
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(600, 1, generator=generator)
    right = torch.rand(600, 1, generator=generator) < 0.7
    z_prime = z + torch.where(right, 1.0, -1.0) + 0.1 * torch.randn(600, 1, generator=generator)
    sides = [
        rp.LinearDynamics(1, offset=torch.tensor([s]), covariance=0.25 * torch.eye(1)) for s in (-0.3, 0.3)
    ]
    mixture = rp.Switching(sides)
    optimiser = torch.optim.Adam(mixture.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (-mixture(z, z_prime).mean()).backward()
        optimiser.step()
    assert [math.sqrt(part.covariance.item()) for part in sides] == pytest.approx([0.1, 0.1], abs=0.02)
    assert mixture.weights[1].item() == pytest.approx(0.7, abs=0.05)
    assert [part.offset.item() for part in sides] == pytest.approx([-1, 1], abs=0.1)


def test_a_learned_critic_explains_what_a_distance_cannot() -> None:
    """z' = z^2: neither near z nor linear in it."""
    torch.manual_seed(0)
    z = torch.rand(128, 1) * 4 - 2
    z_prime = z.square() + 0.1 * torch.randn(128, 1)
    values = {}
    for coupling in (rp.SeparableCritic(1), rp.JointCritic(1), rp.GaussianRBF()):
        prior = rp.InfoNCEPrior(coupling)
        prior.initialise(z, z_prime)
        optimiser = torch.optim.Adam(prior.parameters(), lr=0.02)
        for _ in range(40):
            optimiser.zero_grad()
            (-prior.log_ratio(z, z_prime).mean()).backward()
            optimiser.step()
        values[type(coupling).__name__] = prior.log_ratio(z, z_prime).mean().item()
    assert min(values["SeparableCritic"], values["JointCritic"]) > values["GaussianRBF"] + 0.5


def test_sampling_and_prediction() -> None:
    x_prime = torch.linspace(-3, 3, 61)[:, None]
    turn = rp.LinearDynamics(1, matrix=-torch.eye(1), covariance=0.01 * torch.eye(1))
    for coupling in (turn, rp.Switching([turn, turn])):
        model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(coupling))
        predicted = model.predictive(torch.tensor([[2.0], [-1.0]]), x_prime)
        torch.testing.assert_close(predicted.mean(), torch.tensor([[-2.0], [1.0]]), rtol=0, atol=0.01)
        draws = predicted.sample(200, generator=torch.Generator().manual_seed(0)).latents
        torch.testing.assert_close(draws.mean(1), torch.tensor([[-2.0], [1.0]]), rtol=0, atol=0.05)
        grid = model.predict(torch.tensor([[2.0]]), x_prime)
        torch.testing.assert_close(grid @ x_prime, torch.tensor([[-2.0]]), rtol=0, atol=0.01)
        before = predicted.mean()
        with torch.no_grad():
            turn.matrix.fill_(1.0)
        assert torch.equal(predicted.mean(), before)  # of the model as it was
        with torch.no_grad():
            turn.matrix.fill_(-1.0)


def test_far_from_the_origin_features_are_formed_in_double_precision() -> None:
    """A network's features and whitened latents too large for single precision's products."""
    z, z_prime = torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(0))
    f = rp.LinearDynamics(2, covariance=1e-4 * torch.eye(2))
    exact = rp.LinearDynamics(2, covariance=1e-4 * torch.eye(2)).double()
    near = z + 0.01 * z_prime
    got = pairwise_infonce(f.score(), z + 100, near + 100)
    expected = pairwise_infonce(exact.score(), (z + 100).double(), (near + 100).double())
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-2)
    critic = rp.SeparableCritic(2)
    with torch.no_grad():
        critic.phi[2].weight *= 1e4
    assert bool(torch.isfinite(pairwise_infonce(critic.score(), z, z_prime)).all())


def test_formulas() -> None:
    mixture = rp.Switching([rp.LinearDynamics(1), rp.LinearDynamics(1)])
    shown = {
        "-1/2 |(z - z') / [0.5, 2]|^2": rp.GaussianRBF(torch.tensor([0.5, 2.0])),
        "-1/2 |z - z'|^2 / theta^2": rp.GaussianRBF(),
        "-|z - z'|_1 / 0.31": rp.Laplace(0.31),
        "-sum_d |(z - z') / 0.5|_d^1.5": rp.GeneralisedNormal(1.5, lengthscale=0.5),
        "-(3 + D)/2 log(1 + |z - z'|^2 / 0.5^2 / 3)": rp.StudentT(3.0, lengthscale=0.5),
        "2 cos(z, z') + log C_3(2)": rp.VonMisesFisher(3, concentration=2.0),
        "log(0.5 exp[log N(z'; A z + b, Sigma)] + 0.5 exp[log N(z'; A z + b, Sigma)])": mixture,
        "phi(z) . psi(z')": rp.SeparableCritic(2),
        "NN(z, z')": rp.JointCritic(2),
    }
    for text, coupling in shown.items():
        assert coupling.formula() == f"log f(z, z') = {text}"


EYE = torch.eye(2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rp.Laplace(-1.0), "lengthscale > 0"),
        (lambda: rp.Laplace(1.0)(torch.zeros(2), torch.zeros(3)), "same width; got 2 and 3"),
        (lambda: rp.GeneralisedNormal(0.0), "power > 0"),
        (lambda: rp.StudentT(-2.0), "dof > 0"),
        (lambda: rp.VonMisesFisher(1), "dim >= 2; got 1"),
        (lambda: rp.VonMisesFisher(2, concentration=0.0), "concentration > 0"),
        (lambda: rp.VonMisesFisher(2)(torch.zeros(3), torch.zeros(3)), "width 2.*got 3 and 3"),
        (lambda: rp.LinearDynamics(0), "dim >= 1"),
        (lambda: rp.LinearDynamics(2, matrix=torch.eye(3)), r"matrix of shape \(2, 2\)"),
        (lambda: rp.LinearDynamics(2, covariance=-EYE), "positive definite"),
        (lambda: rp.LinearDynamics(2, covariance=EYE + torch.tensor([[0.0, 0.5], [0.0, 0.0]])), "symmetric"),
        (lambda: rp.LinearDynamics(2, offset=torch.tensor([0.0, math.nan])), "offset"),
        (lambda: rp.LinearDynamics(2)(torch.zeros(4, 3), torch.zeros(4, 3)), "LinearDynamics; got 3 and 3"),
        (lambda: rp.Switching([rp.Cosine()]), "at least two"),
        (lambda: rp.Switching([rp.Cosine(), rp.Cosine()], weights=[1.0]), "2 positive weights"),
        (lambda: rp.Switching([rp.Cosine(), rp.Cosine()], weights=[1.0, 0.0]), "2 positive weights"),
        (lambda: rp.SeparableCritic(2, features=0), "features >= 1"),
        (lambda: rp.SeparableCritic(2, 3)(torch.zeros(2), torch.zeros(2)), r"\(2, 3\).*got 2 and 2"),
        (lambda: rp.JointCritic(2)(torch.zeros(3), torch.zeros(3)), r"\(2, 2\).*got 3 and 3"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
