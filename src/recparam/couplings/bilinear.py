"""The bilinear coupling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.base import Coupling
from recparam.ops import DotProduct, Score
from recparam.ops.precision import at_least_single
from recparam.utils.checks import check_count, check_finite, check_tensor
from recparam.utils.shown import shown


class Bilinear(Coupling):
    """The usual InfoNCE coupling.

    Equation: 8

        log f(z, z') = z^T theta z'

    Args:
        dim: Width D of z.
        dim_prime: Width D' of z'; None means D.
        theta: Initial matrix (D, D'); None means the identity.

    Raises:
        ValueError: A width below one, or a theta of another shape, not floating-point or not finite.
    """

    def __init__(self, dim: int, dim_prime: int | None = None, *, theta: Float[Tensor, "D D2"] | None = None) -> None:
        super().__init__()
        dim_prime = dim if dim_prime is None else dim_prime
        check_count("dim", dim)
        check_count("dim_prime", dim_prime)
        if theta is None:
            theta = torch.eye(dim, dim_prime)
        check_tensor("theta", theta)
        if not theta.is_floating_point():
            raise ValueError(f"Expected floating-point values in theta; got {theta.dtype}. Use theta.float().")
        check_finite("theta", theta)
        if theta.shape != (dim, dim_prime):
            raise ValueError(f"Expected theta of shape ({dim}, {dim_prime}); got {tuple(theta.shape)}.")
        self.theta = nn.Parameter(at_least_single(theta).detach().clone())

    def extra_repr(self) -> str:
        """The widths of theta."""
        return shown(dim=self.theta.shape[0], dim_prime=self.theta.shape[1])

    def _check_widths(self, width: int, width_prime: int) -> None:
        if (width, width_prime) != tuple(self.theta.shape):
            raise ValueError(
                f"Expected z and z_prime of widths {tuple(self.theta.shape)} for this Bilinear coupling; "
                f"got {width} and {width_prime}."
            )

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return ((z @ self.theta) * z_prime).sum(-1)

    def score(self) -> Score:
        """The dot product with theta between."""
        return DotProduct(weight=self.theta)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """z^T theta z'."""
        return f"{context[-1]}^T theta {z_prime}"
