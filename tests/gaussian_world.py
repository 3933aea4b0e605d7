"""A world where every number is known: jointly Gaussian pairs, linear-Gaussian recognition.

x, x' in R^D are standard normal with correlation rho in every dimension, and

    z = W x + sqrt(v) e,   z' = W x' + sqrt(v) e',   so that (z, z') ~ N(0, [[S, C], [C^T, S]])

with S = W W^T + v I and C = rho W W^T. Everything below is float64, in nats, and less the constant of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import recparam as rp
from recparam.marginals import Encode, Marginal, Recognised, Scored
from recparam.marginals.bank import Bank, Queries
from recparam.marginals.joint import RecognitionJoint
from recparam.ops import Score
from recparam.recognition import RecognitionModel


@dataclass(frozen=True)
class GaussianWorld:
    """Pairs of dimension D, and the linear recognition model that reads them.

    Args:
        weight: W, shape (D, D), float64.
        variance: v, the variance of the recognition model; zero is a Dirac.
        rho: Correlation of x and x' in each dimension.
    """

    weight: Tensor
    variance: float
    rho: float = 0.9

    @property
    def dim(self) -> int:
        return self.weight.shape[0]

    @property
    def marginal(self) -> Tensor:
        """S, the covariance of z and of z'."""
        return self.weight @ self.weight.T + self.variance * torch.eye(self.dim, dtype=torch.float64)

    @property
    def cross(self) -> Tensor:
        """C, the covariance between z and z'."""
        return self.rho * self.weight @ self.weight.T

    def sample(self, size: int, generator: torch.Generator, *, steps: int = 2) -> list[Tensor]:
        """Draw a stationary chain x_1, ..., x_steps, each (size, D); a pair by default."""
        shape = (size, self.dim)
        chain = [torch.randn(shape, generator=generator, dtype=torch.float64)]
        for _ in range(steps - 1):
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            chain.append(self.rho * chain[-1] + (1 - self.rho**2) ** 0.5 * noise)
        return chain

    def recognition(self, *, full: bool = False) -> RecognitionModel:
        """The recognition model: a Dirac if v = 0, else EpsilonGaussian, or Gaussian if `full`."""
        net = nn.Linear(self.dim, 2 * self.dim if full else self.dim, dtype=torch.float64)
        with torch.no_grad():
            net.weight.zero_()
            net.bias.zero_()
            net.weight[: self.dim] = self.weight
            if full:
                net.bias[self.dim :] = torch.tensor(self.variance, dtype=torch.float64).log()
        if self.variance == 0:
            return rp.Deterministic(net)
        return rp.Gaussian(net) if full else rp.EpsilonGaussian(net, epsilon=self.variance)

    def mi(self) -> float:
        """MI of z and z': -1/2 sum_d log(1 - r_d^2), r_d their canonical correlations."""
        root = torch.linalg.cholesky(self.marginal)
        whitened = torch.linalg.solve_triangular(root, self.cross, upper=False)
        whitened = torch.linalg.solve_triangular(root, whitened.T, upper=False)
        return float(-0.5 * torch.log1p(-torch.linalg.svdvals(whitened).square()).sum())

    def rbf(self, lengthscale: float) -> float:
        """ELBO under the InfoNCE prior with an RBF coupling.

        E log f = -tr(S - C) / theta^2 and, with T = theta^2 I,
        log Z(z) = 1/2 log |T| / |T + S| - 1/2 z^T (T + S)^-1 z.
        """
        theta = lengthscale**2 * torch.eye(self.dim, dtype=torch.float64)
        log_f = -torch.trace(torch.linalg.solve(theta, self.marginal - self.cross))
        total = theta + self.marginal
        quadratic = torch.trace(torch.linalg.solve(total, self.marginal))
        log_z = 0.5 * (torch.logdet(theta) - torch.logdet(total) - quadratic)
        return float(log_f - log_z)

    def bilinear(self, theta: Tensor) -> float:
        """ELBO under the InfoNCE prior with a bilinear coupling.

        E log f = tr(theta C^T) and log Z(z) = 1/2 z^T theta S theta^T z.
        """
        log_f = torch.trace(theta @ self.cross.T)
        log_z = 0.5 * torch.trace(theta @ self.marginal @ theta.T @ self.marginal)
        return float(log_f - log_z)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """A and Sigma of the latents' own R(z'|z) = N(A z, Sigma)."""
        matrix = torch.linalg.solve(self.marginal, self.cross).T
        return matrix, self.marginal - matrix @ self.cross

    def linear_dynamics(self) -> float:
        """ELBO under the InfoNCE prior with f = R(z'|z).

        E log f is minus the entropy of N(0, Sigma), and Z(z) = int N(z'; 0, S) N(z'; A z, Sigma) dz' is the density of
        A z under N(0, S + Sigma). Since P(z'|z) is f times R(z') it counts R(z') twice, and falls short of the MI.
        """
        matrix, noise = self.dynamics()
        total = self.marginal + noise
        log_z = torch.logdet(total) + torch.trace(torch.linalg.solve(total, matrix @ self.marginal @ matrix.T))
        return float(0.5 * (log_z - torch.logdet(noise) - self.dim))

    def covariance(self, steps: int) -> Tensor:
        """Covariance of the latents (z_1, ..., z_steps) of a stationary chain."""
        signal, eye = self.weight @ self.weight.T, torch.eye(steps, dtype=torch.float64)
        noise = self.variance * torch.eye(self.dim, dtype=torch.float64)
        return torch.kron(_powers(self.rho, steps), signal) + torch.kron(eye, noise)

    def total_correlation(self, steps: int) -> float:
        """KL between the joint of a chain's latents and the product of its marginals; the MI for a pair."""
        return float(0.5 * (steps * torch.logdet(self.marginal) - torch.logdet(self.covariance(steps))))

    def joint_gaussian(self, correlation: float, *, steps: int = 2) -> float:
        """ELBO under the joint Gaussian prior: E log P(z_1, ..) - sum_j E log R(z_j), from covariances alone."""
        prior = torch.kron(_powers(correlation, steps), torch.eye(self.dim, dtype=torch.float64))
        log_prior = -0.5 * (torch.logdet(prior) + torch.trace(torch.linalg.solve(prior, self.covariance(steps))))
        log_marginal = -0.5 * (torch.logdet(self.marginal) + self.dim)
        return float(log_prior - steps * log_marginal)

    def log_marginal(self, x: Tensor, x_prime: Tensor, correlation: float) -> Tensor:
        """log E_{R(z|x) R(z'|x')}[ P(z, z') / R(z) R(z') ] under the joint Gaussian prior, shape (B,).

        With u = (z, z') ~ N(m, v I) and K the difference of the precisions of P and of R(z) R(z'), it is the
        logarithm of E exp(-u^T K u / 2) = |I + v K|^(-1/2) exp(-m^T K (I + v K)^-1 m / 2) and of their determinants.
        """
        prior = torch.kron(_powers(correlation, 2), torch.eye(self.dim, dtype=torch.float64))
        product = torch.block_diag(self.marginal, self.marginal)
        k = torch.linalg.inv(prior) - torch.linalg.inv(product)
        spread = torch.eye(2 * self.dim, dtype=torch.float64) + self.variance * k
        mean = torch.cat([x @ self.weight.T, x_prime @ self.weight.T], 1)
        quadratic = ((mean @ k @ torch.linalg.inv(spread)) * mean).sum(1)
        return -0.5 * (torch.logdet(prior) - torch.logdet(product) + torch.logdet(spread) + quadratic)

    def posterior(self, x: Tensor, x_prime: Tensor, correlation: float) -> tuple[Tensor, Tensor]:
        """P(z, z'|x, x') under the joint Gaussian prior with R(z) = N(0, S): mean (B, 2 D) and covariance (2 D, 2 D).

        Its precision is I / v + P^-1 - diag(S, S)^-1, its natural mean (W x, W x') / v.
        """
        prior = torch.kron(_powers(correlation, 2), torch.eye(self.dim, dtype=torch.float64))
        product = torch.block_diag(self.marginal, self.marginal)
        precision = torch.linalg.inv(prior) - torch.linalg.inv(product)
        precision += torch.eye(2 * self.dim, dtype=torch.float64) / self.variance
        covariance = torch.linalg.inv(precision)
        return torch.cat([x @ self.weight.T, x_prime @ self.weight.T], 1) @ covariance / self.variance, covariance


def _powers(correlation: float, steps: int) -> Tensor:
    """correlation^|i - j|: the covariance of a stationary chain of unit variance."""
    index = torch.arange(steps, dtype=torch.float64)
    return torch.tensor(correlation, dtype=torch.float64) ** (index[:, None] - index).abs()


_ANY = Queries()


class KnownJoint(RecognitionJoint):
    """R whose marginals are the world's own, N(0, S), and not a mixture over the bank."""

    world: GaussianWorld

    def log_marginal(self, index: int, z: Tensor, *, queries: Queries = _ANY, keep_own: bool = True) -> Tensor:
        return MultivariateNormal(torch.zeros(self.world.dim).double(), self.world.marginal).log_prob(z)

    def log_expectation(
        self,
        index: int,
        score: Score,
        z: Tensor,
        *,
        queries: Queries = _ANY,
        keep_own: bool = True,
        half: Literal[0, 1] | None = None,
    ) -> Tensor:
        """log Z(z) of an RBF, as in `GaussianWorld.rbf`, from its value at distance one."""
        first = torch.eye(self.world.dim, dtype=torch.float64)[:1]
        theta = -0.5 / float(score(0 * first, first).detach()) * torch.eye(self.world.dim, dtype=torch.float64)
        total = theta + self.world.marginal
        quadratic = (z * torch.linalg.solve(total, z[..., None])[..., 0]).sum(-1)
        return 0.5 * (torch.logdet(theta) - torch.logdet(total) - quadratic)


class KnownMarginal(Marginal):
    """The exact marginals of the world, which no bank of finite size has."""

    def __init__(self, world: GaussianWorld) -> None:
        super().__init__()
        self.world = world

    def recognised(self, scored: Scored, *, encode: Encode) -> Recognised:
        bank = Bank(scored.distributions, scored.particles, source="data set")
        joint = KnownJoint(bank, situation="exact_sampled")
        joint.world = self.world
        return Recognised(scored.particles, joint, Queries(), scored.weights)


def mixed(dim: int) -> Tensor:
    """A well-conditioned W that mixes dimensions, the same at every call."""
    generator = torch.Generator().manual_seed(dim)
    noise = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.eye(dim, dtype=torch.float64) + 0.1 * noise / dim**0.5


def standard(dim: int, *, variance: float = 0.0, rho: float = 0.9) -> GaussianWorld:
    """The world whose latents, without noise, are the observations themselves."""
    return GaussianWorld(torch.eye(dim, dtype=torch.float64), variance, rho)
