"""Couplings of a distance: z' is likely to be near z, with tails of one kind or another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recparam.couplings.base import ScaledCoupling
from recparam.ops import Score, SquaredDistance


class GaussianRBF(ScaledCoupling):
    """The Gaussian coupling: z' is likely to be near z.

    Equation: 27

        log f(z, z') = -1/2 sum_d (z_d - z'_d)^2 / theta_d^2

    The lengthscale theta is learned through its logarithm. Without a value it starts at the median distance
    between latents of different observations, so that the scale of z does not matter.

    Args:
        lengthscale: Starting value in units of z, positive: a float, or (D,) for one per dimension. None:
            set from the data by `initialise`, or by the first batch seen.
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
