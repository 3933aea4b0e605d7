"""Couplings of directions, for latents on a sphere or read as if they were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recparam.couplings.base import Coupling
from recparam.couplings.scaled import check_same_width
from recparam.ops import DotProduct, MappedSides, Score
from recparam.utils.checks import check_count, check_positive
from recparam.utils.shown import number, shown


class Cosine(Coupling):
    """Cosine similarity over a learned temperature, as on a hypersphere.

        log f(z, z') = (z / |z|) . (z' / |z'|) / tau

    Args:
        temperature: Starting tau, positive; learned through its logarithm.

    Raises:
        ValueError: temperature is not positive and finite.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    @property
    def temperature(self) -> Tensor:
        """tau, a scalar."""
        return self.log_temperature.exp()

    def extra_repr(self) -> str:
        """The temperature."""
        return shown(temperature=self.temperature)

    def _check_widths(self, width: int, width_prime: int) -> None:
        check_same_width(width, width_prime)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        # not cosine_similarity, whose guard against zero norms is another than the score's
        unit, unit_prime = nn.functional.normalize(z, dim=-1), nn.functional.normalize(z_prime, dim=-1)
        return (unit * unit_prime).sum(-1) / self.temperature

    def score(self) -> Score:
        """The dot product of unit vectors over tau."""
        return DotProduct(scale=1 / self.temperature, normalise=True)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """cos(z, z') / tau."""
        return f"cos({context[-1]}, {z_prime}) / {number(self.temperature)}"


class VonMisesFisher(Coupling):
    """The von Mises-Fisher coupling: the direction of z' is near that of z.

        log f(z, z') = kappa cos(z, z') + log C_D(kappa)
        C_D(kappa) = kappa^(D/2 - 1) / ((2 pi)^(D/2) I_{D/2 - 1}(kappa))

    A density of the unit vector z' / |z'| with respect to the area of the sphere. The normaliser cancels in an InfoNCE
    prior, where this is `Cosine` with kappa = 1 / tau; in a `Switching` mixture it does not.

    Args:
        dim: Width D of the latents, at least 2.
        concentration: Starting value of kappa, positive; learned through its logarithm.

    Raises:
        ValueError: A width below two, or a concentration that is not positive and finite.
    """

    def __init__(self, dim: int, *, concentration: float = 10.0) -> None:
        super().__init__()
        check_count("dim", dim, least=2)
        check_positive("concentration", concentration)
        self.dim = dim
        self.log_concentration = nn.Parameter(torch.tensor(float(concentration)).log())

    @property
    def concentration(self) -> Tensor:
        """kappa, a scalar."""
        return self.log_concentration.exp()

    def extra_repr(self) -> str:
        """Width and concentration."""
        return shown(dim=self.dim, concentration=self.concentration)

    @property
    def log_normaliser(self) -> Tensor:
        """log C_D(kappa), in nats."""
        value = _LogNormaliser.apply(self.concentration, self.dim)
        assert isinstance(value, Tensor)
        return value

    def _check_widths(self, width: int, width_prime: int) -> None:
        if (width, width_prime) != (self.dim, self.dim):
            raise ValueError(
                f"Expected z and z_prime of width {self.dim} for this VonMisesFisher coupling; got {width} and "
                f"{width_prime}."
            )

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        unit, unit_prime = nn.functional.normalize(z, dim=-1), nn.functional.normalize(z_prime, dim=-1)
        return self.concentration * (unit * unit_prime).sum(-1) + self.log_normaliser

    def score(self) -> Score:
        """The dot product of unit vectors times kappa, and the normaliser."""
        return MappedSides(DotProduct(scale=self.concentration, normalise=True), constant=self.log_normaliser)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """kappa cos(z, z') + log C_D(kappa)."""
        kappa = number(self.concentration)
        return f"{kappa} cos({context[-1]}, {z_prime}) + log C_{self.dim}({kappa})"


class _LogNormaliser(torch.autograd.Function):
    """log C_D(kappa) of a scalar kappa, computed in double precision, and its derivative."""

    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dim: int) -> Tensor:
        value, ctx.slope = log_von_mises_fisher(float(kappa), dim)
        return kappa.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            raise NotImplementedError("The von Mises-Fisher normaliser has no second derivative (create_graph=True).")
        return upstream[0] * ctx.slope, None


def log_von_mises_fisher(kappa: float, dim: int) -> tuple[float, float]:
    """log C_D(kappa) and its derivative.

    With v = D/2 - 1, I_v(kappa) / kappa^v = sum_k t_k for t_k = 2^-v (kappa/2)^(2k) / (k! Gamma(k + v + 1)), terms
    that are all positive. They are summed outwards from the largest, in units of it, so that nothing overflows or
    cancels at any kappa; the derivative of -log of the sum is -2 E[k] / kappa under weights t_k.

    Args:
        kappa: Concentration, positive.
        dim: D, at least 2.
    """
    v, quarter = dim / 2 - 1, kappa * kappa / 4
    peak = int((math.sqrt(v * v + kappa * kappa) - v) / 2)
    total, first = 1.0, float(peak)  # sums of t_k and of k t_k over t_peak
    term, k = 1.0, peak
    while term > 1e-18:
        term *= quarter / ((k + 1) * (k + 1 + v))
        k += 1
        total, first = total + term, first + k * term
    term, k = 1.0, peak
    while k > 0 and term > 1e-18:
        term *= k * (k + v) / quarter
        k -= 1
        total, first = total + term, first + k * term
    log_peak = 2 * peak * math.log(kappa / 2) - math.lgamma(peak + 1) - math.lgamma(peak + v + 1) - v * math.log(2)
    value = -0.5 * dim * math.log(2 * math.pi) - log_peak - math.log(total)
    return value, -2 * first / total / kappa
