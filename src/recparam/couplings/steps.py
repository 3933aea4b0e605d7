"""The step-length coupling: z' lies a known or learned distance from z, in any direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.base import Coupling
from recparam.couplings.scaled import check_same_width, not_initialised, positive_values
from recparam.ops import DistanceProfile, Score
from recparam.ops.precision import at_least_single
from recparam.utils.checks import check_positive
from recparam.utils.shown import number, shown


class StepLength(Coupling):
    """Each step has about the same length, and any direction.

        log f(z, z') = -(|z - z'| - r)^2 / (2 theta^2)

    r and theta are learned through their logarithms. |z - z'| has no derivative at z = z'; it is taken as zero there,
    so that latents that coincide neither give NaN nor are told where to go.

    Args:
        radius: Starting value of r in units of z, positive; None: the median length of the steps from z_i to z'_i.
        width: Starting value of theta in units of z, positive; None: half of r.

    Raises:
        ValueError: A radius or width that is not positive and finite.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> rp.StepLength(radius=2.0, width=0.5)(torch.zeros(2), torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
        tensor([-0., -2.], grad_fn=<MulBackward0>)
    """

    initialised_flag: Tensor

    def __init__(self, radius: float | None = None, *, width: float | None = None) -> None:
        super().__init__()
        for name, value in (("radius", radius), ("width", width)):
            if value is not None:
                check_positive(name, value)
        start = positive_values("radius", 1.0 if radius is None else radius)
        self.log_radius = nn.Parameter(start.log())
        self.log_width = nn.Parameter((positive_values("width", width) if width is not None else start / 2).log())
        self._width_given = width is not None
        self.register_buffer("initialised_flag", torch.tensor(radius is not None))

    @property
    def radius(self) -> Tensor:
        """r, a scalar in units of z."""
        return self.log_radius.exp()

    @property
    def width(self) -> Tensor:
        """theta, a scalar in units of z."""
        return self.log_width.exp()

    def extra_repr(self) -> str:
        """Radius and width, or what will set them."""
        if self.initialised:
            return shown(radius=self.radius, width=self.width)
        set_here = self.width if self._width_given else None
        return shown(not_initialised("radius" if self._width_given else "radius and width"), width=set_here)

    @property
    def initialised(self) -> bool:
        """Whether the radius was given or set from data."""
        return bool(self.initialised_flag)

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """r = the median of |z_i - z'_i|, and theta half of it unless it was given; once.

        Args:
            z: Shape (B, D).
            z_prime: Shape (B, D), row i a step from row i of z.

        Raises:
            ValueError: The median step is zero.
        """
        if self.initialised:
            return
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        value = torch.linalg.vector_norm(at_least_single(z) - at_least_single(z_prime), dim=-1).median()
        if not bool(torch.isfinite(value) & (value > 0)):
            raise ValueError(
                f"Expected latents that differ from z to z_prime, to set the radius; got a median step of "
                f"{float(value)}. Check the encoder, or give radius=."
            )
        self.log_radius.copy_(value.log())
        if not self._width_given:
            self.log_width.copy_((value / 2).log())
        self.initialised_flag.fill_(True)

    def _check_widths(self, width: int, width_prime: int) -> None:
        check_same_width(width, width_prime)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self._of_distance(torch.linalg.vector_norm(z - z_prime, dim=-1), z.shape[-1])

    def _of_distance(self, distance: Tensor, _width: int) -> Tensor:
        radius, width = self.radius.to(distance.dtype), self.width.to(distance.dtype)
        return -0.5 * ((distance - radius) / width).square()

    def score(self) -> Score:
        """The same function of every distance."""
        return DistanceProfile(self._of_distance)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """-(|z - z'| - r)^2 / (2 theta^2)."""
        radius, width = (number(self.radius), number(self.width)) if self.initialised else ("r", "theta")
        return f"-(|{context[-1]} - {z_prime}| - {radius})^2 / (2 {width}^2)"
