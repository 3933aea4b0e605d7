"""Latents that stand for an expectation: every value where they are enumerable, draws where they are not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical

from recparam.recognition.models import Dirac
from recparam.utils.checks import check_count


def enumerable(distributions: Sequence[Distribution]) -> bool:
    """Whether every latent takes finitely many values, so that expectations can be summed."""
    return all(isinstance(d, Dirac) or d.has_enumerate_support for d in distributions)


@dataclass(frozen=True)
class Particles:
    """Weighted latents that stand for an expectation over (z_1, ..., z_J), row by row.

    It is that under R(z_1|x_1) ... R(z_J|x_J), or under a free posterior Q(z_1..z_J|x_1..x_J).

    Args:
        latents: One tensor (S, B, D_j) per observation.
        log_weights: Log-weights (S, B); exp sums to one over S.
        exact: Whether the particles enumerate every value, so that the expectation is exact.
        log_correction: log R(z_1|x_1) ... R(z_J|x_J) - log Q(z_1..z_J|x_1..x_J), shape (S, B); None where Q is R.
    """

    latents: tuple[Tensor, ...]
    log_weights: Tensor
    exact: bool
    log_correction: Tensor | None = None


def recognise(
    distributions: Sequence[Distribution],
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Particles:
    """Latents of the recognition joint for observed tuples: enumerated where possible, else sampled.

    Equation: 3

        R(x, x', z, z') = R_phi(z|x) R_phi(z'|x') R_base(x, x')

    Args:
        distributions: R_phi(z_j|x_j) for each of J observations, batch shape (B,).
        num_samples: Draws per row where latents are sampled; at least one. Ignored where they are enumerated.
        generator: Source of randomness; None uses torch's global one.

    Returns:
        Particles with S = product of the numbers of values (enumerated) or `num_samples`.

    Raises:
        ValueError: num_samples is not a whole number >= 1.
    """
    check_count("num_samples", num_samples)
    if enumerable(distributions):
        supports = [_support(d) for d in distributions]  # (K_j, B, D_j) each
        index = list(itertools.product(*(range(len(s)) for s in supports)))
        latents = tuple(torch.stack([s[i[j]] for i in index]) for j, s in enumerate(supports))
        log_weights = torch.stack([_log_mass(d, z) for d, z in zip(distributions, latents, strict=True)]).sum(0)
        return Particles(latents, log_weights, exact=True)
    latents = tuple(_draw(d, num_samples, generator) for d in distributions)
    log_weights = torch.full_like(latents[0][..., 0], -math.log(num_samples))
    return Particles(latents, log_weights, exact=False)


def _support(distribution: Distribution) -> Tensor:
    """All values a latent can take, shape (K, B, D)."""
    if isinstance(distribution, Dirac):
        return distribution.loc[None]
    return distribution.enumerate_support().to(distribution.mean.dtype)


def _log_mass(distribution: Distribution, z: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
    """Log-probability of enumerated values; zero for a Dirac's only one."""
    if isinstance(distribution, Dirac):
        return torch.zeros_like(z[..., 0])
    return distribution.log_prob(z)


def _draw(distribution: Distribution, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Sample (S, B, D), reparameterised where the distribution allows it."""
    if isinstance(distribution, Dirac):
        return distribution.rsample((num_samples,))
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        base = distribution.base_dist
        noise = torch.randn(
            (num_samples, *base.loc.shape), generator=generator, dtype=base.loc.dtype, device=base.loc.device
        )
        return base.loc + base.scale * noise
    if isinstance(distribution, OneHotCategorical):
        if torch.is_grad_enabled() and distribution.logits.requires_grad:
            raise ValueError(
                "Expected categorical latents beside others that can be enumerated (categorical, deterministic) where "
                "encoders are trained; got them beside continuous ones, so that they are drawn, and a draw has no "
                "gradient. Score under torch.no_grad(), or make all latents of one kind."
            )
        index = torch.multinomial(distribution.probs, num_samples, replacement=True, generator=generator)  # (B, S)
        return nn.functional.one_hot(index.T, distribution.probs.shape[-1]).to(distribution.probs.dtype)
    if generator is not None:
        raise ValueError(
            f"Expected generator=None for {type(distribution).__name__}, which draws from torch's global generator; "
            f"use torch.manual_seed instead."
        )
    size = torch.Size((num_samples,))
    return distribution.rsample(size) if distribution.has_rsample else distribution.sample(size)
