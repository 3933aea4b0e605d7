"""Fixed maps of data into coordinates in which dependence is easy to learn: standard, normal scores, canonical."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Standard(nn.Module):
    """Columns less their mean over their standard deviation; a constant column becomes zero."""

    mean: Tensor
    scale: Tensor

    def __init__(self, x: Float[Tensor, "N D"]) -> None:
        super().__init__()
        scale = x.std(0)
        constant = scale <= 1e-12 * x.abs().amax(0)
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("scale", torch.where(constant, torch.inf, scale))

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Standardised columns."""
        return (x - self.mean) / self.scale


class NormalScores(nn.Module):
    """Columns made standard normal through their ranks in a sample: the copula's coordinates.

    The MI is the same for any increasing function of each column, and heavy tails do no harm after this one. Values
    between those of the sample are interpolated; those beyond it get the score of its ends.
    """

    def __init__(self, x: Float[Tensor, "N D"]) -> None:
        super().__init__()
        self.width = x.shape[1]
        for d, column in enumerate(x.T):
            values, counts = torch.unique(column, return_counts=True)
            middle = counts.cumsum(0).double() - counts.double() / 2  # the middle rank of equal values
            self.register_buffer(f"values_{d}", values)
            self.register_buffer(f"scores_{d}", torch.special.ndtri(middle / len(column)).to(x))

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Normal scores of each column."""
        columns = []
        for d in range(self.width):
            values, scores = self.get_buffer(f"values_{d}"), self.get_buffer(f"scores_{d}")
            if len(values) == 1:
                columns.append(torch.zeros_like(x[:, d]))
                continue
            right = torch.searchsorted(values, x[:, d].contiguous()).clamp(1, len(values) - 1)
            share = ((x[:, d] - values[right - 1]) / (values[right] - values[right - 1])).clamp(0, 1)
            columns.append(torch.lerp(scores[right - 1], scores[right], share))
        return torch.stack(columns, 1)


class Affine(nn.Module):
    """(x - centre) weight, with fixed numbers."""

    centre: Tensor
    weight: Tensor

    def __init__(self, centre: Float[Tensor, " D"], weight: Float[Tensor, "D K"]) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("weight", weight)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """The map, in double precision: what it subtracts may be large."""
        return (x - self.centre) @ self.weight


class AsGiven(nn.Module):
    """The same numbers, in the default precision."""

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The same numbers."""
        return x.to(torch.get_default_dtype())


def canonical(
    x: Float[Tensor, "N D"], x_prime: Float[Tensor, "N E"]
) -> tuple[Affine, Affine, Float[Tensor, " K"]]:
    """Canonical coordinates: white on either side, correlated in pairs only, the strongest pair first.

    Args:
        x: Shape (N, D).
        x_prime: Shape (N, E).

    Returns:
        The maps of either side and the canonical correlations; directions without variance are left out.
    """
    (centre, white), (centre_prime, white_prime) = _whitening(x), _whitening(x_prime)
    cross = ((x - centre) @ white).T @ ((x_prime - centre_prime) @ white_prime) / len(x)
    left, correlations, right = torch.linalg.svd(cross, full_matrices=True)
    return Affine(centre, white @ left), Affine(centre_prime, white_prime @ right.T), correlations


def _whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    centre = x.mean(0)
    _, spread, directions = torch.linalg.svd(x - centre, full_matrices=False)
    kept = spread > 1e-5 * spread.max().clamp_min(1e-30)
    kept[len(x) // 5 :] = False  # fewer directions than would fit the sample exactly
    return centre, directions[kept].T / spread[kept] * math.sqrt(len(x))
