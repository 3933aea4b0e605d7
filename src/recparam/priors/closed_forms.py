"""Expectations of a coupling under diagonal Gaussian latents, as formulas instead of samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from recparam.couplings import Bilinear, Coupling, CouplingSum, GaussianRBF, Groups, OnDimensions
from recparam.ops import IntegratedDistance, IntegratedDotProduct, OnColumns, Score, SumOfScores
from recparam.recognition import gaussian_parameters


class Moments(NamedTuple):
    """A diagonal Gaussian: mean (..., D) and variance (..., D), zero for a point."""

    mean: Tensor
    variance: Tensor

    def at_mean(self) -> Moments:
        """The point at its mean."""
        return Moments(self.mean, torch.zeros_like(self.variance))

    @staticmethod
    def of(distribution: Distribution) -> Moments:
        """The moments of a diagonal Gaussian or a Dirac.

        Raises:
            ValueError: Another distribution.
        """
        mean, scale = gaussian_parameters(distribution).chunk(2, dim=-1)
        return Moments(mean, scale.square())


def expected_log_f(coupling: Coupling, z: Moments, z_prime: Moments) -> Float[Tensor, "*batch"]:
    """E[log f(z, z')] under independent diagonal Gaussians.

        RBF       log f(mu, mu') - 1/2 sum_d (s_d^2 + s'_d^2) / theta_d^2
        bilinear  mu^T theta mu'

    Args:
        coupling: `GaussianRBF`, `Bilinear`, `OnDimensions` or `Groups` of them, or their sum.
        z: Mean mu and variance s^2, shape (..., D).
        z_prime: Mean mu' and variance s'^2, shape (..., D').

    Returns:
        Shape (...), in nats.

    Raises:
        ValueError: A coupling without a closed form.
    """
    if isinstance(coupling, CouplingSum | Groups):
        return torch.stack([expected_log_f(part, z, z_prime) for part in coupling.parts]).sum(0)
    if isinstance(coupling, OnDimensions):
        z = Moments(*(part[..., coupling.dims] for part in z))
        return expected_log_f(coupling.coupling, z, Moments(*(part[..., coupling.dims_prime] for part in z_prime)))
    value = coupling(z.mean, z_prime.mean)
    if isinstance(coupling, GaussianRBF):
        return value - 0.5 * ((z.variance + z_prime.variance) / coupling.lengthscale.square()).sum(-1)
    if isinstance(coupling, Bilinear):
        return value
    raise ValueError(_message(coupling))


def expected_score(coupling: Coupling, width: int) -> Score:
    """log E[f(z, z')] over a diagonal Gaussian z', as a pairwise score.

        RBF       -1/2 sum_d [ (z_d - mu'_d)^2 / (theta_d^2 + s'_d^2) + log(1 + s'_d^2 / theta_d^2) ]
        bilinear  z^T theta mu' + 1/2 sum_e ((theta^T z)_e s'_e)^2

    Args:
        coupling: `GaussianRBF`, `Bilinear`, `OnDimensions` or `Groups` of them, or their sum on disjoint
            dimensions of z'.
        width: Width D' of z'.

    Returns:
        A score of rows z (A, D) and columns (mu', s') (M, 2 D').

    Raises:
        ValueError: A coupling without a closed form.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> score = expected_score(rp.GaussianRBF(lengthscale=1.0), 1)
        >>> score(torch.zeros(1, 1), torch.tensor([[0.0, 1.0]])).exp()  # 1 / sqrt(1 + 1)
        tensor([[0.7071]], grad_fn=<ExpBackward0>)
    """
    if isinstance(coupling, GaussianRBF):
        return IntegratedDistance(coupling.lengthscale)
    if isinstance(coupling, Bilinear):
        return IntegratedDotProduct(coupling.theta)
    if isinstance(coupling, OnDimensions):
        inner, means = expected_score(coupling.coupling, len(coupling.dims_prime)), coupling.dims_prime
        return OnColumns(inner, coupling.dims, means + [width + d for d in means])
    if isinstance(coupling, CouplingSum | Groups):
        read = [d for part in coupling.parts for d in _dims_prime(part, width)]
        if len(set(read)) < len(read):
            raise ValueError(
                "Expected a sum of couplings on disjoint dimensions of z' for expectation='analytic'; got parts of "
                f"{coupling} that share some. Use rp.OnDimensions(...), or expectation='sampled'."
            )
        return SumOfScores([expected_score(part, width) for part in coupling.parts])
    raise ValueError(_message(coupling))


def _dims_prime(coupling: Coupling, width: int) -> set[int]:
    """The dimensions of z' that a coupling reads."""
    if isinstance(coupling, OnDimensions):
        return {coupling.dims_prime[d] for d in _dims_prime(coupling.coupling, len(coupling.dims_prime))}
    if isinstance(coupling, CouplingSum | Groups):
        return {d for part in coupling.parts for d in _dims_prime(part, width)}
    return set(range(width))


def _message(coupling: Coupling) -> str:
    return (
        f"Expected a coupling with Gaussian integrals for expectation='analytic', rp.GaussianRBF or rp.Bilinear, "
        f"rp.OnDimensions or rp.Groups of them, or their sum; got {type(coupling).__name__}. Use expectation='sampled'."
    )
