"""Scores of distances that are no matrix product: taken in blocks of rows, each formed again in backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.ops.scores import Features, SquaredDistance, check_sides


@dataclass(frozen=True)
class AbsoluteDistance:
    """Scores `-sum_d |z_d - z'_d| / scale_d`.

    Args:
        scale: Scalar or (D,), in units of z.
    """

    scale: Tensor

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        check_sides(z, bank, (bank.shape[1], bank.shape[1]))
        scale = self.scale.to(z.dtype)
        if not scale.ndim:
            return -torch.cdist(z, bank, p=1.0) / scale
        # Around the bank's centre, or dividing by the scale would round away what an offset leaves.
        centre = bank.detach().mean(0)
        return -torch.cdist((z - centre) / scale, (bank - centre) / scale, p=1.0)


@dataclass(frozen=True)
class DistanceProfile:
    """Scores a function of the Euclidean distance, |z - z'| or |(z - z') / scale|.

    The distance is formed from differences, and its derivative at zero is taken as zero.

    Args:
        profile: Maps distances of any shape, one by one, and the width D to nats.
        scale: Scalar or (D,), in units of z; None means one.
    """

    profile: Callable[[Tensor, int], Tensor]
    scale: Tensor | None = None

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        check_sides(z, bank, (bank.shape[1], bank.shape[1]))
        if self.scale is not None:
            centre, scale = bank.detach().mean(0), self.scale.to(z.dtype)
            z, bank = (z - centre) / scale, (bank - centre) / scale
        distance = torch.cdist(z, bank, compute_mode="donot_use_mm_for_euclid_dist")
        return self.profile(distance, z.shape[1])


@dataclass(frozen=True)
class WhitenedDistance:
    """Scores `-1/2 |W (z - z')|^2`, both sides taken around the bank's centre before W, which may enlarge an offset.

    Args:
        whitening: W, shape (D, D).
    """

    whitening: Tensor
    tolerated = SquaredDistance.tolerated

    @staticmethod
    def of(difference: Float[Tensor, "*batch D"], whitening: Tensor) -> Tensor:
        """The score of each difference."""
        return -0.5 * (difference @ whitening.T).square().sum(-1)

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        check_sides(z, bank, self.whitening.shape)
        return self.of(bank[None] - z[:, None], self.whitening.to(z.dtype))

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features:
        """Those of a squared distance between both sides, whitened."""
        check_sides(z, bank, self.whitening.shape)
        centre, whitening = bank.detach().mean(0), self.whitening.to(z.dtype).T
        return SquaredDistance(z.new_ones(())).features((z - centre) @ whitening, (bank - centre) @ whitening)
