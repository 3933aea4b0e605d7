"""The door for latents: tensors of points, and a bank of others, as what priors score."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from recparam.data.labels import Labels
from recparam.marginals.base import Marginal, Recognised, Scored
from recparam.marginals.batch import BatchMarginal
from recparam.ops.precision import at_least_single
from recparam.recognition import Dirac, Particles
from recparam.utils.checks import check_finite, check_tensor


def of_points(
    *latents: Float[Tensor, "B _D"], bank: Marginal | None = None, labels: Labels | None = None
) -> Recognised:
    """Latents that are points, beside their bank: what a prior or an objective of `recparam.bounds` takes.

    Args:
        latents: z, z', ...: one (B, D_j) per observation, rows in correspondence.
        bank: A marginal whose observations are latents too, such as `rp.DatasetMarginal(z, z_prime)`; None: the
            latents are their own bank, in this process alone.
        labels: Who the rows are.

    Returns:
        Each latent a Dirac of equal weight, beside the bank.

    Raises:
        ValueError: No tensors, fewer than two latents, different numbers of rows, no row, one that is its own bank,
            or values that are not finite.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> z = torch.tensor([[0.0], [10.0]])
        >>> rp.InfoNCEPrior(rp.GaussianRBF(1.0)).terms(of_points(z, z)).log_ratio.detach()
        tensor([[0.6931, 0.6931]])
    """
    names = [("z", "z_prime")[j] if j < 2 else f"latent {j}" for j in range(len(latents))]
    for name, z in zip(names, latents, strict=True):
        check_tensor(name, z)
    least = 2 if bank is None else 1
    if len(latents) < 2 or len({len(z) for z in latents}) > 1 or len(latents[0]) < least:
        shapes = [tuple(z.shape) for z in latents]
        raise ValueError(f"Expected at least two latents of one length >= {least}; got {shapes}.")
    for name, z in zip(names, latents, strict=True):
        check_finite(name, z)
    marginal = BatchMarginal(across_processes=False) if bank is None else bank
    marginal.check(latents, None)
    size, observed = len(latents[0]), latents
    latents = tuple(at_least_single(z) for z in latents)
    particles = Particles(tuple(z[None] for z in latents), latents[0].new_zeros(1, size), exact=True)
    equal = latents[0].new_full((size,), 1 / size)
    return marginal.recognised(Scored(observed, _points(*latents), particles, equal, labels=labels), encode=_points)


def _points(*latents: Tensor) -> list[Distribution]:
    return [Dirac(at_least_single(z)) for z in latents]
