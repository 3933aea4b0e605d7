"""What every marginal has: scored rows, what priors score, and the contract of a source of R (App. A)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.data.labels import Labels
from recparam.marginals.bank import Queries
from recparam.marginals.encoded import Encode
from recparam.marginals.joint import RecognitionJoint, Situation
from recparam.ops.precision import SinglePrecision
from recparam.recognition import Particles
from recparam.utils.checks import check_tensor, is_finite_number


@dataclass(frozen=True)
class Scored:
    """The rows being scored, encoded.

    Args:
        observations: One tensor (B, ...) per observation.
        distributions: R_phi(z_j|x_j) of each.
        particles: Their latents (S, B, D_j).
        weights: Weight of each row in averages, shape (B,), summing to one.
        rows: The data set's index of each row, shape (B,), where the caller knows it.
        labels: Who the rows are.
        generator: Source of further draws.
        recognition: The recognition models, by whose change a held bank is known to be old.
        doubt: As `Recognised`.
    """

    observations: Sequence[Tensor]
    distributions: Sequence[Distribution]
    particles: Particles
    weights: Tensor
    rows: Tensor | None = None
    labels: Labels | None = None
    generator: torch.Generator | None = None
    recognition: Sequence[nn.Module] = ()
    doubt: str | None = None


@dataclass(frozen=True)
class Recognised:
    """What a bound is computed from: latents of the scored rows, the joint R, and who is who.

    Args:
        particles: Latents of the scored rows (S, B, D_j), of R or of a free posterior.
        joint: R.
        queries: Where the scored rows stand to its bank.
        weights: Weight of each scored row in averages, shape (B,), summing to one (over processes: to their number).
        redraw: A second joint with independent latents, where latents are sampled under the empirical base.
        processes: Among how many processes the rows of the bank are divided, each of which scores its own.
        recognition: Latents of R, where `particles` are a free posterior's.
        integrated: R_phi(z_j|x_j) of the scored rows where expectations under R are to be closed forms; None where
            they are means over latents.
        doubt: Why no direction holds of these latents, where that is known (`recparam.bounds.doubts`).
    """

    particles: Particles
    joint: RecognitionJoint
    queries: Queries
    weights: Tensor
    redraw: RecognitionJoint | None = None
    processes: int = 1
    recognition: Particles | None = None
    integrated: Sequence[Distribution] | None = None
    doubt: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the scored rows are the bank's own, all of them, with its weights: their average is that under R.

        Of a bank that is divided among processes, the others' rows are scored elsewhere.
        """
        own, bank, count = self.queries.own, self.joint.bank, self.processes
        if own is None:
            return False
        every = torch.arange(bank.size, device=own.device)
        if count == 1 and not (len(own) == bank.size and torch.equal(own.sort().values, every)):
            return False
        return torch.allclose(self.weights, bank.weights[own] * count)

    def reweighted(self, factors: Tensor) -> Recognised:
        """The same with the weights of the bank's rows times these factors, (N,)."""
        joint, redraw = (
            None if part is None else RecognitionJoint(part.bank.reweighted(factors), situation=part.situation)
            for part in (self.joint, self.redraw)
        )
        assert joint is not None
        return replace(self, joint=joint, redraw=redraw)

    def in_closed_form(self, distributions: Sequence[Distribution]) -> Recognised:
        """The same with the expectations under R_phi(z_j|x_j), of the scored rows and the bank, in closed form.

        Under the empirical base Z(z) is then a finite sum again.
        """
        joint = self.joint
        if joint.situation.empirical:
            joint = RecognitionJoint(joint.bank, situation=Situation.EXACT)
        return replace(self, joint=joint, redraw=None, integrated=distributions)


class Marginal(SinglePrecision, ABC):
    """Where R's bank comes from.

    A module of the model, which moves with it. What it is built from, a data set or bases, is no part of the model's
    state; what it remembers from training is.
    """

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError if the scored rows do not go with the bank; `RPM` asks before it encodes anything."""
        if rows is not None:
            check_tensor("rows", rows)

    @abstractmethod
    def recognised(self, scored: Scored, *, encode: Encode) -> Recognised:
        """Put the scored rows beside their bank."""

    def remember(self, scored: Scored) -> None:  # noqa: B027 (nothing to keep is the common case)
        """Keep what later calls may need; `RPM` calls it after each training step's forward pass."""

    def log_base(self, observations: Sequence[Tensor]) -> Tensor:
        """log R_base(x) R_base(x') of each row, shape (B,); ValueError where it is not known. See also: Eq. 13."""
        raise ValueError(self._unknown_base("without log_prob asked for a log-density"))

    def sample_bases(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """n independent draws of R_base(x), R_base(x'), ...; ValueError where they cannot be drawn."""
        raise ValueError(self._unknown_base("without base distributions asked for samples"))

    def _unknown_base(self, got: str) -> str:
        return (
            f"Expected marginal=rp.EstimatedMarginal(base, base_prime), which knows R_base; got a marginal {got} "
            f"({type(self).__name__})."
        )


def check_exclusion(exclude_within: float | None) -> None:
    """Raise `ValueError` unless a span of time to leave out is None, or finite and at least zero."""
    if exclude_within is not None and (not is_finite_number(exclude_within) or exclude_within < 0):
        raise ValueError(f"Expected exclude_within >= 0, a finite span of time; got {exclude_within!r}.")


def normalised_weights(weights: Tensor, size: int) -> Tensor:
    """Weights (size,) that sum to one; ValueError for a wrong type or shape, a negative or a non-finite entry."""
    check_tensor("weights", weights)
    good = weights.shape == (size,) and bool(torch.isfinite(weights).all()) and bool((weights >= 0).all())
    if not good or not bool(weights.sum() > 0):
        raise ValueError(
            f"Expected weights of shape ({size},), finite, not negative, with a positive sum; "
            f"got shape {tuple(weights.shape)}."
        )
    return weights / weights.sum()
