"""Worlds whose latents are known: z uniform on a sphere or in a box, z' near it, and observations that mix either."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

from recparam.couplings.directions import log_von_mises_fisher

_SLOPE = 0.2  # of the leaky ReLU in the mixing
_TRIED = 200  # random matrices, of which a layer takes one of the best-conditioned quarter
_LAYERS = 3
_GRID = 2001  # points per side of the box, where R(z') is computed


@dataclass(frozen=True)
class World:
    """How z and z' are drawn: z uniform, z' around it.

    On the sphere R(z') is uniform too, so that the world is P(z'|z) = R(z') f / Z(z) exactly. In the box it is uniform
    away from the faces only: z' is drawn around z but inside the box, and is found next to a face less often.

    Args:
        space: "sphere", the unit vectors of R^n, or "box", [0, 1]^n.
        dim: n.
        conditional: "von-mises-fisher" on the sphere; in the box "laplace" or "normal", truncated to it.
        scale: kappa of the former; b, or the standard deviation, of the latter.
    """

    space: str
    dim: int
    conditional: str
    scale: float

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Float[Tensor, "N n"], Float[Tensor, "N n"]]:
        """Independent pairs (z, z')."""
        if self.space == "sphere":
            z = unit(torch.randn(count, self.dim, generator=generator))
            return z, near_on_sphere(z, self.scale, generator)
        z = torch.rand(count, self.dim, generator=generator)
        share = torch.rand(count, self.dim, generator=generator)
        return z, truncated(z, share, self.conditional, self.scale)

    def log_ratio(self, z: Float[Tensor, "N n"], z_prime: Float[Tensor, "N n"]) -> Float[Tensor, " N"]:
        """log P(z'|z) - log R(z') in nats, in double precision; its mean over pairs is the mutual information."""
        z, z_prime = z.double(), z_prime.double()
        if self.space == "sphere":
            log_area = math.log(2) + 0.5 * self.dim * math.log(math.pi) - math.lgamma(0.5 * self.dim)
            log_c, _ = log_von_mises_fisher(self.scale, self.dim)
            return self.scale * (z * z_prime).sum(1) + log_c + log_area
        law = _law(self.conditional)(z, self.scale)
        log_p = law.log_prob(z_prime) - (law.cdf(torch.ones_like(z)) - law.cdf(torch.zeros_like(z))).log()
        return (log_p - self._log_base(z_prime)).sum(1)

    def _log_base(self, places: Tensor) -> Tensor:
        """log R(z'_d) of each dimension of the box: the mean over z of P(z'_d|z), between points of a grid."""
        grid = torch.linspace(0, 1, _GRID, dtype=torch.float64)
        middles = (grid[1:] + grid[:-1])[:, None] / 2
        law = _law(self.conditional)(middles, self.scale)
        inside = law.cdf(torch.ones_like(middles)) - law.cdf(torch.zeros_like(middles))
        log_base = (law.log_prob(grid[None]).exp() / inside).mean(0).log()
        left = (places * (_GRID - 1)).long().clamp(0, _GRID - 2)
        return torch.lerp(log_base[left], log_base[left + 1], places * (_GRID - 1) - left)


def unit(x: Float[Tensor, "N n"]) -> Float[Tensor, "N n"]:
    """Rows of length one."""
    return nn.functional.normalize(x, dim=-1)


def near_on_sphere(
    z: Float[Tensor, "N n"], kappa: float, generator: torch.Generator
) -> Float[Tensor, "N n"]:
    """Draws of the von Mises-Fisher distribution around each z, by rejection of the cosine (Wood, 1994)."""
    n = z.shape[1]
    b = (n - 1) / (2 * kappa + math.sqrt(4 * kappa**2 + (n - 1) ** 2))
    x = (1 - b) / (1 + b)
    c = kappa * x + (n - 1) * math.log(1 - x**2)
    cosine, open_rows = torch.empty(len(z)), torch.arange(len(z))
    while len(open_rows):
        # Beta((n - 1)/2, (n - 1)/2) as a share of two chi-square variables
        squares = torch.randn(len(open_rows), 2 * (n - 1), generator=generator).square()
        share = squares[:, : n - 1].sum(1) / squares.sum(1)
        w = (1 - (1 + b) * share) / (1 - (1 - b) * share)
        level = torch.rand(len(open_rows), generator=generator).log()
        taken = kappa * w + (n - 1) * (1 - x * w).log() - c >= level
        cosine[open_rows[taken]] = w[taken]
        open_rows = open_rows[~taken]
    side = torch.randn(z.shape, generator=generator)
    for _ in range(2):  # again for what rounding leaves of z
        side = unit(side - (side * z).sum(1, keepdim=True) * z)
    return cosine[:, None] * z + (1 - cosine.square()).clamp_min(0).sqrt()[:, None] * side


def truncated(
    z: Float[Tensor, "N n"], share: Float[Tensor, "N n"], conditional: str, scale: float
) -> Float[Tensor, "N n"]:
    """The quantiles of the normal or Laplace distribution around z, truncated to [0, 1], at shares in (0, 1)."""
    around = _law(conditional)(z.double(), scale)
    low, high = around.cdf(torch.zeros_like(z).double()), around.cdf(torch.ones_like(z).double())
    return around.icdf(low + share.double() * (high - low)).float().clamp(0, 1)


def _law(conditional: str) -> type[Laplace] | type[Normal]:
    return Laplace if conditional == "laplace" else Normal


class Mixing(nn.Module):
    """An invertible mixing g of n latents: three layers, each a random matrix, with leaky ReLUs between them.

    A layer takes the first of random matrices, with rows of length one, whose condition number is in the lowest
    quarter, so that nothing is squeezed beyond recovery.

    Args:
        dim: n.
        generator: Of the matrices.
    """

    matrices: Tensor

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        drawn = unit(torch.randn(_LAYERS, _TRIED, dim, dim, generator=generator).flatten(0, 2)).reshape(
            _LAYERS, _TRIED, dim, dim
        )
        condition = torch.linalg.cond(drawn)
        good = condition <= condition.quantile(0.25, dim=1, keepdim=True)
        chosen = good.int().argmax(1)
        self.register_buffer("matrices", drawn[torch.arange(_LAYERS), chosen])

    def forward(self, z: Float[Tensor, "N n"]) -> Float[Tensor, "N n"]:
        """Observations of latents."""
        for layer, matrix in enumerate(self.matrices):
            z = z @ matrix.T
            if layer < len(self.matrices) - 1:
                z = nn.functional.leaky_relu(z, _SLOPE)
        return z
