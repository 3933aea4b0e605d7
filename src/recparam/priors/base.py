"""Priors P_theta(z_1, ..., z_J): objects with one essential method, the log-ratio l in nats.

l(z_1, ..., z_J) = log P_theta(z_1, ..., z_J) - sum_j log R(z_j)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from recparam.marginals import Recognised
from recparam.marginals.points import of_points
from recparam.ops.precision import SinglePrecision, check_single, full_precision
from recparam.priors.directions import Direction, Family, Side, direction
from recparam.recognition import DensityError, Dirac


@dataclass(frozen=True)
class Terms:
    """The log-ratio l (S, B) in nats, and the named terms (S, B) that it is the sum of.

    It is kept apart because it may be known better than their sum: rounding takes the difference of two
    scores of a million nats.
    """

    log_ratio: Tensor
    named: dict[str, Tensor]

    @staticmethod
    def total(named: dict[str, Tensor]) -> Terms:
        """Terms whose log-ratio is their sum."""
        return Terms(torch.stack(list(named.values())).sum(0), named)


class Prior(SinglePrecision, ABC):
    """P_theta over J latents, seen through its log-ratio with the marginals."""

    family: ClassVar[Family]
    needs_density: ClassVar[bool] = True

    @abstractmethod
    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        """The log-ratio and its named terms, each (S, B), the bank treated as `direction` says."""

    def direction(self, recognised: Recognised, side: Side) -> Direction:
        """The treatment of the bank on that side, and what it proves.

        Raises:
            ValueError: An unknown side, or no such bound exists with that bank.
        """
        return direction(self.family, recognised.joint.situation, side)

    @property
    def order(self) -> int:
        """How many earlier latents it reads."""
        return 1

    def scored_steps(self, length: int) -> int:
        """How many steps of a chain of J latents have a term of their own, each of which the bank limits."""
        return length - 1

    def formula(self) -> str:
        """What the prior is, in one line of the paper's notation."""
        return type(self).__name__

    def log_conditional(
        self, z: Float[Tensor, "A D"], grid: Float[Tensor, "G E"], log_base: Float[Tensor, " G"]
    ) -> Float[Tensor, "A G"]:
        """log P(z'|z) at grid points, up to a constant per row, where R(z') is given by its log-density there.

        Raises:
            ValueError: The prior has no conditional that can be evaluated at a point.
        """
        raise ValueError(
            f"{type(self).__name__} has no conditional P(z'|z) to evaluate on a grid; use rp.InfoNCEPrior(...)."
        )

    def initialise(self, *latents: Float[Tensor, "B _D"]) -> None:
        """Set data-driven starting values from a batch of latents, once."""

    @property
    def initialised(self) -> bool:
        """Whether every data-driven starting value was given or set."""
        return True

    def check_initialised(self) -> None:
        """Raise UninitialisedError if a starting value that comes from data is not set."""

    def prepare(self, *latents: Float[Tensor, "B _D"]) -> bool:
        """`Coupling.prepare` of what waits for data: whether a training step's latents set it now.

        Raises:
            UninitialisedError: It is not set, and this is no training.
        """
        if self.initialised:
            return False
        if not (self.training and torch.is_grad_enabled()):
            self.check_initialised()
        self.initialise(*latents)
        return True

    def check_widths(self, widths: Sequence[int]) -> None:
        """Raise ValueError if latents of these widths do not fit the prior."""

    def check_densities(self, distributions: Sequence[Distribution]) -> None:
        """Raise DensityError if the prior needs densities and a recognition model is a Dirac."""
        if self.needs_density and any(isinstance(d, Dirac) for d in distributions):
            raise DensityError(self._density_message())

    def check_closed_form(self, distributions: Sequence[Distribution]) -> None:
        """Raise ValueError unless expectations of the log-ratio under these distributions have closed forms."""
        raise ValueError(
            f"Expected rp.InfoNCEPrior(...) for expectation='analytic'; got {type(self).__name__}. "
            f"Use expectation='sampled'."
        )

    def _density_message(self) -> str:
        return (
            f"{type(self).__name__} needs the densities R(z) of Eq. 11, and a deterministic recognition model (Eq. 38) "
            f"has none. Use rp.EpsilonGaussian(net, epsilon=...) (Eq. 46), rp.Gaussian(net), or rp.InfoNCEPrior, "
            f"where R(z) R(z') cancels; for what epsilon does see docs/deterministic.md."
        )

    def terms(self, recognised: Recognised, *, side: Side = None) -> Terms:
        """The log-ratio of the scored rows and its named terms, each (S, B) in nats.

        Raises:
            DensityError: The prior needs densities that a Dirac lacks.
            ValueError: Latent widths do not fit, an unknown side, or a coupling that waits for data.
        """
        self.direction(recognised, side)
        self.check_densities(recognised.joint.distributions)
        self.check_widths([z.shape[-1] for z in recognised.particles.latents])
        self.check_initialised()
        check_single(self)
        latents = recognised.particles.latents
        with full_precision(latents[0].device):
            return self._terms(latents, recognised, side)

    def log_ratio(self, *latents: Float[Tensor, "B _D"], side: Side = None) -> Float[Tensor, " B"]:
        """l for a batch of latents that are their own bank (deterministic recognition).

        Args:
            latents: One (B, D_j) per observation, B >= 2.
            side: None keeps a row's own latent in the bank; "upper" and "lower" as in docs/design.md.

        Returns:
            Shape (B,), in nats.

        Raises:
            DensityError: The prior needs densities; latents alone have none.
            ValueError: Fewer than two latents or rows, different numbers of rows, or widths that do not fit.
        """
        recognised = of_points(*latents)
        self.check_densities(recognised.joint.distributions)
        self.check_widths([z.shape[-1] for z in latents])
        self.prepare(*latents)
        return self.terms(recognised, side=side).log_ratio[0]
