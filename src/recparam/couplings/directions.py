"""Couplings of directions, for latents on a sphere or read as if they were."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recparam.couplings.base import Coupling, check_same_width, number
from recparam.ops import DotProduct, Score
from recparam.ops.checks import check_positive


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
