"""Couplings of a distance: z' is likely to be near z, with tails of one kind or another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.scaled import ScaledCoupling
from recparam.ops import AbsoluteDistance, BlockScore, DistanceProfile, Score, SquaredDistance
from recparam.utils.checks import check_positive
from recparam.utils.shown import number, shown


class GaussianRBF(ScaledCoupling):
    """The Gaussian coupling: z' is likely to be near z.

    Equation: 27

        log f(z, z') = -1/2 sum_d (z_d - z'_d)^2 / theta_d^2

    The lengthscale theta is learned through its logarithm. Without a value it starts at the median distance
    between latents of different observations, so that the scale of z does not matter.

    Args:
        lengthscale: Starting value in units of z, positive: a float, or (D,) for one per dimension. None:
            set from the data by `initialise`, or by the first training batch.
        dim: With `lengthscale=None`, the width D for one lengthscale per dimension; None means one for all.

    Raises:
        ValueError: A lengthscale that is not positive and finite, or latents of different widths.
    """

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return -0.5 * ((z - z_prime) / self.lengthscale).square().sum(-1)

    def score(self) -> Score:
        """The scaled squared distance."""
        return SquaredDistance(lengthscale=self.lengthscale)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """-1/2 |z - z'|^2 / theta^2."""
        distance = self._over_scale(f"{context[-1]} - {z_prime}", "^2")
        return f"-1/2 {distance}" + ("" if self.log_lengthscale.ndim else "^2")


class Laplace(ScaledCoupling):
    """The Laplace coupling: most dimensions hardly change, some by much.

        log f(z, z') = -sum_d |z_d - z'_d| / b_d

    Args:
        lengthscale: Starting value of b, as in `GaussianRBF`; None: the median L1 distance between latents of
            different observations.
        dim: With `lengthscale=None`, the width D for one b per dimension; None means one for all.

    Raises:
        ValueError: A lengthscale that is not positive and finite, or latents of different widths.
    """

    def _norm(self) -> float:
        return 1.0

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return -((z - z_prime) / self.lengthscale).abs().sum(-1)

    def score(self) -> Score:
        """The scaled sum of absolute differences."""
        return AbsoluteDistance(self.lengthscale)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """-|z - z'|_1 / b."""
        return f"-{self._over_scale(f'{context[-1]} - {z_prime}', '_1')}"


class GeneralisedNormal(ScaledCoupling):
    """The generalised normal coupling, between a box (large p) and sharp peaks with long tails (p below one).

        log f(z, z') = -sum_d (|z_d - z'_d| / s_d)^p

    p = 2 is `GaussianRBF` of lengthscale s / sqrt(2), p = 1 is `Laplace`. p is learned through its logarithm;
    `coupling.log_power.requires_grad_(False)` keeps it. For p < 1 the derivative at z = z' is infinite and is taken
    as zero.

    Args:
        power: Starting value of p, positive.
        lengthscale: Starting value of s, as in `GaussianRBF`; None: from data, by distances of norm p.
        dim: With `lengthscale=None`, the width D for one s per dimension; None means one for all.

    Raises:
        ValueError: A power or lengthscale that is not positive and finite, or latents of different widths.
    """

    def __init__(
        self, power: float = 1.5, *, lengthscale: float | Float[Tensor, " D"] | None = None, dim: int | None = None
    ) -> None:
        super().__init__(lengthscale, dim=dim)
        check_positive("power", power)
        self.log_power = nn.Parameter(torch.tensor(float(power)).log())

    @property
    def power(self) -> Tensor:
        """p, a scalar."""
        return self.log_power.exp()

    def extra_repr(self) -> str:
        """The power, and the lengthscale."""
        return shown(super().extra_repr(), power=self.power)

    def _norm(self) -> float:
        return float(self.power.detach())

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        ratio = ((z - z_prime) / self.lengthscale).abs()
        apart = ratio > 0
        # Not |0|^p, whose derivatives in z and p are infinite or NaN.
        return -torch.where(apart, torch.where(apart, ratio, 1).pow(self.power), 0).sum(-1)

    def score(self) -> Score:
        """The same on blocks."""
        return BlockScore(self.on_pairs)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """-sum_d (|z_d - z'_d| / s_d)^p."""
        scale = number(self.lengthscale) if self.initialised else "s"
        return f"-sum_d |({context[-1]} - {z_prime}) / {scale}|_d^{number(self.power)}"


class StudentT(ScaledCoupling):
    """The multivariate Student-t coupling: now and then a jump, which costs little more than a long step.

        log f(z, z') = -(nu + D) / 2 log(1 + sum_d (z_d - z'_d)^2 / (nu s_d^2))

    nu is learned through its logarithm; `coupling.log_dof.requires_grad_(False)` keeps it.

    Args:
        dof: Starting value of nu, positive; one is the Cauchy distribution, infinity the Gaussian one.
        lengthscale: Starting value of s, as in `GaussianRBF`.
        dim: With `lengthscale=None`, the width D for one s per dimension; None means one for all.

    Raises:
        ValueError: A dof or lengthscale that is not positive and finite, or latents of different widths.
    """

    def __init__(
        self, dof: float = 3.0, *, lengthscale: float | Float[Tensor, " D"] | None = None, dim: int | None = None
    ) -> None:
        super().__init__(lengthscale, dim=dim)
        check_positive("dof", dof)
        self.log_dof = nn.Parameter(torch.tensor(float(dof)).log())

    @property
    def dof(self) -> Tensor:
        """nu, a scalar."""
        return self.log_dof.exp()

    def extra_repr(self) -> str:
        """The degrees of freedom, and the lengthscale."""
        return shown(super().extra_repr(), dof=self.dof)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm((z - z_prime) / self.lengthscale, dim=-1)
        return self._of_distance(distance, z_prime.shape[-1])

    def _of_distance(self, distance: Tensor, width: int) -> Tensor:
        dof = self.dof.to(distance.dtype)
        return -0.5 * (dof + width) * (distance.square() / dof).log1p()

    def score(self) -> Score:
        """The same function of every distance."""
        return DistanceProfile(self._of_distance, scale=self.lengthscale)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """-(nu + D)/2 log(1 + |z - z'|^2 / (nu s^2))."""
        nu, distance = number(self.dof), self._over_scale(f"{context[-1]} - {z_prime}", "^2")
        squared = distance if self.log_lengthscale.ndim else f"{distance}^2"
        return f"-({nu} + D)/2 log(1 + {squared} / {nu})"
