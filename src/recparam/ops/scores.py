"""Pairwise scores: what the kernel is told about a coupling or a density, in tensors alone.

A score maps rows `z` of shape (A, D) and columns `bank` of shape (M, E) to a block (A, M) in nats. A
faster kernel may recognise the class and use its fields; calling it is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Score(Protocol):
    """Anything that turns a block of rows and a block of columns into a matrix of scores."""

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column, in nats."""
        ...


@dataclass(frozen=True)
class DotProduct:
    """Scores `scale * z^T weight z'`, of unit vectors if `normalise`.

    Args:
        weight: Matrix (D, E), or None for the identity.
        scale: Scalar factor, or None for one.
        normalise: Divide both sides by their Euclidean norm first (a zero vector stays zero).
    """

    weight: Tensor | None = None
    scale: Tensor | None = None
    normalise: bool = False

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        if self.normalise:
            z, bank = torch.nn.functional.normalize(z, dim=-1), torch.nn.functional.normalize(bank, dim=-1)
        if self.weight is not None:
            z = z @ self.weight
        if self.scale is not None:
            z = z * self.scale
        return z @ bank.T


@dataclass(frozen=True)
class SquaredDistance:
    """Scores `-1/2 sum_d ((z_d - z'_d) / lengthscale_d)^2`.

    Differences are taken directly: the expansion |z|^2 - 2 z.z' + |z'|^2 loses every digit in float32 once
    the latents sit a thousand lengthscales from the origin.

    Args:
        lengthscale: Scalar or (D,), in units of z.
    """

    lengthscale: Tensor

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        difference_AMD = (z[:, None, :] - bank[None, :, :]) / self.lengthscale
        return -0.5 * difference_AMD.square().sum(-1)


@dataclass(frozen=True)
class GaussianDensity:
    """Scores log N(z; mean_m, diag scale_m^2), one component per column; columns hold (mean, scale)."""

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Log-density of every row under every component."""
        mean_MD, scale_MD = bank.chunk(2, dim=-1)
        standard_AMD = (z[:, None, :] - mean_MD[None]) / scale_MD[None]
        log_normaliser_M = scale_MD.log().sum(-1) + 0.5 * z.shape[-1] * torch.log(z.new_tensor(2 * torch.pi))
        return -0.5 * standard_AMD.square().sum(-1) - log_normaliser_M


@dataclass(frozen=True)
class BlockScore:
    """Scores any callable on blocks; a wrong output shape is an error.

    Args:
        function: Maps (A, D) and (M, E) to (A, M).
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        block = self.function(z, bank)
        if block.shape != (z.shape[0], bank.shape[0]):
            raise ValueError(
                f"Expected the score to return shape ({z.shape[0]}, {bank.shape[0]}); got {tuple(block.shape)}."
            )
        return block


@dataclass(frozen=True)
class OnColumns:
    """Applies a score to chosen entries of each side.

    Args:
        score: The score of the chosen entries.
        rows: Indices or slice into the last axis of `z`.
        columns: Indices or slice into the last axis of `bank`.
    """

    score: Score
    rows: list[int] | slice
    columns: list[int] | slice

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        return self.score(z[:, self.rows], bank[:, self.columns])


@dataclass(frozen=True)
class SumOfScores:
    """Adds scores of the same rows and columns."""

    scores: Sequence[Score]

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        total = self.scores[0](z, bank)
        for score in self.scores[1:]:
            total = total + score(z, bank)
        return total
