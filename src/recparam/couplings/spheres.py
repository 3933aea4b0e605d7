"""The coupling of latents that are points on a sphere, or on several that have a concentration each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.base import Coupling
from recparam.couplings.scaled import median_distance, not_initialised
from recparam.ops import DotProduct, MappedSides, Score
from recparam.utils.checks import check_count, check_positive
from recparam.utils.shown import number, shown

_QUICKNESS = 10  # steps of log kappa, in steps of a weight


class Directions(Coupling):
    """Von Mises-Fisher couplings of one or several spheres: each direction of z' is near that of z.

        log f(z, z') = sum_k kappa_k cos(z_k, z'_k)

    z_k are `width` columns each, side by side; only their directions are read. The normalisers C_width(kappa_k) are
    left out, since they cancel in an InfoNCE prior: there this is `Groups` of `VonMisesFisher`.

    kappa_k is learned through a tenth of its logarithm. Where latents can be of any length, a network sharpens
    P(z'|z) by spreading them; directions have no length, so that kappa has to move as quickly as a network does.

    Args:
        dim: Width D of the latents.
        width: Columns of each sphere, at least 2, of which D is a multiple: 2 for circles. None: one sphere of D.
        concentration: Starting value of each kappa_k, positive. None: set from the data by `initialise`, or by the
            first training batch.

    Raises:
        ValueError: A width below two, of which D is no multiple, or a concentration that is not positive and finite.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> torus = rp.Directions(4, width=2, concentration=3.0)
        >>> torus.formula()
        "log f(z, z') = 3 cos(z[0,1], z'[0,1]) + 3 cos(z[2,3], z'[2,3])"
        >>> torus(torch.tensor([1.0, 0, 1, 0]), torch.tensor([1.0, 0, -1, 0]))
        tensor(0., grad_fn=<SumBackward1>)
    """

    _waits_for = "concentration"
    initialised_flag: Tensor

    def __init__(self, dim: int, *, width: int | None = None, concentration: float | None = None) -> None:
        super().__init__()
        width = dim if width is None else width
        check_count("width", width, least=2)
        check_count("dim", dim, least=width)
        if dim % width:
            raise ValueError(f"Expected dim as a multiple of width={width}; got {dim}. Use another number of latents.")
        given = concentration is not None
        if given:
            check_positive("concentration", concentration)
        self.dim, self.width = dim, width
        value = torch.full((dim // width,), float(concentration if given else 1.0))
        self.tenth_log_concentration = nn.Parameter(value.log() / _QUICKNESS)
        self.register_buffer("initialised_flag", torch.tensor(given))

    @property
    def concentration(self) -> Tensor:
        """kappa, one of each sphere, shape (D / width,)."""
        return (_QUICKNESS * self.tenth_log_concentration).exp()

    @property
    def spheres(self) -> tuple[int, ...]:
        """`width` columns of each."""
        return (self.width,) * (self.dim // self.width)

    @property
    def initialised(self) -> bool:
        """Whether the concentrations were given or set from data."""
        return bool(self.initialised_flag)

    def extra_repr(self) -> str:
        """Widths and concentrations, or what will set these."""
        several = None if self.width == self.dim else self.width
        if not self.initialised:
            return shown(not_initialised("concentration"), dim=self.dim, width=several)
        return shown(dim=self.dim, width=several, concentration=self.concentration)

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Median heuristic, that of `GaussianRBF` on the sphere: kappa = 1 / (median |u_i - u'_j|)^2, i != j; once.

        Args:
            z: Shape (B, D), B >= 2, of directions u.
            z_prime: Shape (B, D), of directions u'.

        Raises:
            ValueError: Fewer than two rows, or the median distance is zero.
        """
        if self.initialised:
            return
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        sides = zip(self._units(z).unbind(-2), self._units(z_prime).unbind(-2), strict=True)
        distances = torch.stack([median_distance(*both, per_dimension=False) for both in sides])
        self.tenth_log_concentration.copy_(-2 * distances.log() / _QUICKNESS)
        self.initialised_flag.fill_(True)

    def _check_widths(self, width: int, width_prime: int) -> None:
        if (width, width_prime) != (self.dim, self.dim):
            raise ValueError(
                f"Expected z and z_prime of width {self.dim} for this Directions coupling; got {width} and "
                f"{width_prime}."
            )

    def _units(self, z: Tensor) -> Tensor:
        """Directions on each sphere, (..., D / width, width)."""
        return nn.functional.normalize(z.unflatten(-1, (-1, self.width)), dim=-1)

    def _scaled(self, z: Tensor) -> Tensor:
        return (self._units(z) * self.concentration.to(z.dtype)[:, None]).flatten(-2)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return (self._scaled(z) * self._units(z_prime).flatten(-2)).sum(-1)

    def score(self) -> Score:
        """The dot product of unit vectors, those of z times kappa."""
        return MappedSides(DotProduct(), rows=self._scaled, columns=lambda bank: self._units(bank).flatten(-2))

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """kappa_1 cos(z_1, z'_1) + kappa_2 cos(z_2, z'_2) + ..."""
        z = context[-1]
        kappas = [number(k) if self.initialised else "kappa" for k in self.concentration]
        if len(kappas) == 1:
            return f"{kappas[0]} cos({z}, {z_prime})"
        columns = [",".join(map(str, range(start, start + self.width))) for start in range(0, self.dim, self.width)]
        return " + ".join(f"{k} cos({z}[{c}], {z_prime}[{c}])" for k, c in zip(kappas, columns, strict=True))
