"""The energy-based prior, P(z) = R(z) and P(z'|z) = R(z') f(z, z') / Z(z), and its chains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from recparam.couplings import ChainStep, Coupling, chain_steps, latent_names, steps_by_coupling
from recparam.marginals import Recognised
from recparam.marginals.bank import Queries
from recparam.ops import Score
from recparam.ops.collectives import gather_rows
from recparam.ops.precision import at_least_single, full_precision
from recparam.priors.base import Prior, Terms
from recparam.priors.closed_forms import Moments, expected_log_f, expected_score
from recparam.priors.directions import Side
from recparam.recognition import gaussian_parameters
from recparam.utils.checks import explain_dtype


class InfoNCEPrior(Prior):
    """The energy-based prior under which the ELBO is the infinite-sample InfoNCE objective.

    Equation: 21, 22

        P(z) = R(z),   P(z'|z) = R(z') f(z, z') / Z(z),   Z(z) = E_{R(z')}[f(z, z')]
        l(z, z') = log f(z, z') - log Z(z)

    R(z) R(z') cancels, so no density is ever asked for. For J > 2 the latents form a chain and l is the sum
    of its steps, P(z_1..z_J) = R(z_1) prod_t P(z_{t+1}|z_{t-p+1}..z_t) with a coupling of order p. In the first steps
    there are fewer than p earlier latents: there the factors of f count that read no more than there are, else
    `first`, and where neither is, z_{t+1} keeps its R(z_{t+1}) and the step is zero.

    Args:
        coupling: log f_theta.
        first: A coupling of order 1 for the first steps, where `coupling` has no factor that reads so little.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
        >>> prior.log_ratio(torch.zeros(2, 3), torch.zeros(2, 3))
        tensor([0., 0.], grad_fn=<SelectBackward0>)
    """

    family = "infonce"
    needs_density: ClassVar[bool] = False

    def __init__(self, coupling: Coupling, *, first: Coupling | None = None) -> None:
        super().__init__()
        if not isinstance(coupling, Coupling):
            raise ValueError(f"Expected coupling to be a recparam Coupling, as rp.GaussianRBF(); got {coupling!r}.")
        if first is not None and (not isinstance(first, Coupling) or first.order != 1):
            raise ValueError(
                f"Expected first as a recparam Coupling of order 1, which the second latent is scored with; got "
                f"{first!r}."
            )
        self.coupling = coupling
        self.first = first

    def formula(self) -> str:
        """P(z'|z) and log f with the values learned so far."""
        context, z_prime = latent_names(self.coupling.order)
        condition = ", ".join(context)
        density = f"P({z_prime}|{condition}) = R({z_prime}) f({condition}, {z_prime}) / Z({condition})"
        return f"{density}, {self.coupling.formula()}"

    @property
    def order(self) -> int:
        """That of the coupling."""
        return self.coupling.order

    def scored_steps(self, length: int) -> int:
        """The steps with a coupling."""
        return len(self._steps(length))

    def _steps(self, length: int) -> list[ChainStep]:
        return chain_steps(self.coupling, self.first, length)

    def initialise(self, *latents: Float[Tensor, "B _D"]) -> None:
        """Set the coupling's data-driven starting values from consecutive latents, once.

        Several processes use the latents of all, so that their copies of the model start equal.
        """
        if self.initialised:
            return
        widths = [z.shape[-1] for z in latents]
        self.check_widths(widths)
        latents = tuple(gather_rows(z.detach()) for z in latents)
        for part in self._couplings:
            whole = part.at_most(len(latents) - 1)
            if whole is not None and not whole.initialised:  # from every step that has latents enough before it
                steps = [ChainStep(t, whole) for t in range(whole.order, len(latents))]
                whole.initialise(torch.cat([s.context(latents) for s in steps]), torch.cat(latents[whole.order :]))

    @property
    def _couplings(self) -> list[Coupling]:
        return [part for part in (self.coupling, self.first) if part is not None]

    @property
    def initialised(self) -> bool:
        """Whether no coupling waits for data."""
        return all(part.initialised for part in self._couplings)

    def check_initialised(self) -> None:
        """Raise UninitialisedError if a coupling waits for data."""
        for part in self._couplings:
            part.check_initialised()

    def check_widths(self, widths: Sequence[int]) -> None:
        """Raise ValueError if the latents do not fit the coupling, or are too few for its order."""
        for step in self._steps(len(widths)):
            step.check_widths(widths)

    def check_closed_form(self, distributions: Sequence[Distribution]) -> None:
        """Raise ValueError unless the coupling and the latents have Gaussian integrals."""
        for step in self._steps(len(distributions)):
            expected_score(step.coupling, distributions[step.index].event_shape[0])
        for distribution in distributions:
            gaussian_parameters(distribution)

    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        together = steps_by_coupling(self._steps(len(latents)), latents)
        parts = [self._score_steps(steps, latents, recognised, side) for steps in together]
        log_ratio, log_f = (torch.cat(part).sum(0) for part in zip(*parts, strict=True))
        return Terms(log_ratio, {"log_f": log_f, "minus_log_Z": log_ratio - log_f})

    def _score_steps(
        self, steps: Sequence[ChainStep], latents: Sequence[Tensor], recognised: Recognised, side: Side
    ) -> tuple[Tensor, Tensor]:
        """log f(z, z') - log Z(z) and log f(z, z') of T steps with one coupling, each (T, S, B)."""
        coupling, indices = steps[0].coupling, [step.index for step in steps]
        z = torch.stack([step.context(latents) for step in steps])
        if recognised.integrated is None:
            z_own = torch.stack([latents[index] for index in indices])
            log_f = coupling(z, z_own)
            log_ratio = self._contrast(indices, coupling.score(), coupling, z, z_own, recognised, side)
            return log_ratio.to(log_f.dtype), log_f
        # Not over z, which is drawn all the same: log f and log Z at one z have much of their noise in common, and the
        # difference loses it. With the integral over z' alone the value also stays under its ceiling at each draw.
        of_z_prime = [Moments.of(recognised.integrated[index]) for index in indices]
        width = of_z_prime[0].mean.shape[-1]
        points = torch.stack([torch.cat([m.mean, torch.zeros_like(m.mean)], -1) for m in of_z_prime])[:, None]
        at_z = [Moments(each, torch.zeros_like(each)) for each in z]
        log_f, at_mean = (
            torch.stack([expected_log_f(coupling, *both) for both in zip(at_z, each, strict=True)])
            for each in (of_z_prime, [m.at_mean() for m in of_z_prime])
        )
        contrast = self._contrast(
            indices,
            expected_score(coupling, width),
            lambda z, points: coupling(z, points[..., :width]),
            z,
            points.expand(-1, z.shape[1], -1, -1),
            recognised,
            side,
        )
        return (contrast + (log_f - at_mean)).to(log_f.dtype), log_f

    def _contrast(
        self,
        indices: Sequence[int],
        score: Score,
        pairs: Callable[[Tensor, Tensor], Tensor],
        z: Tensor,
        z_own: Tensor,
        recognised: Recognised,
        side: Side,
    ) -> Tensor:
        """log f(z, z') - log Z(z), or what bounds it, each (T, S, B): log f and log Z of one sweep."""
        queries, keep_own = self._own_rows(recognised, side)
        joint, of = recognised.joint, (indices, score, pairs, z, z_own)
        integrated = recognised.integrated is not None
        if keep_own or side == "upper":
            return joint.log_contrast(*of, queries=queries, keep_own=keep_own, integrated=integrated)
        # -log Z >= 1 - log a - Z / a for any a > 0, and Zhat is unbiased and independent of a
        if recognised.redraw is not None:
            over_a, over_zhat = recognised.redraw.log_contrast(*of), joint.log_contrast(*of)
        else:
            over_a = joint.log_contrast(*of, queries=queries, keep_own=False, half=0, integrated=integrated)
            over_zhat = joint.log_contrast(*of, queries=queries, keep_own=False, half=1, integrated=integrated)
        return 1 + over_a - (over_a - over_zhat).exp()

    def _own_rows(self, recognised: Recognised, side: Side) -> tuple[Queries, bool]:
        """What is known of the scored rows in the bank, and whether their own latents stay in it."""
        own = self.direction(recognised, side).own
        # Fresh draws of every row, the row's own included, are unbiased.
        return Queries() if own == "fresh" else recognised.queries, own == "kept"

    def log_conditional(
        self, z: Float[Tensor, "A D"], grid: Float[Tensor, "G E"], log_base: Float[Tensor, " G"]
    ) -> Float[Tensor, "A G"]:
        """log R(z') + log f(z, z') for every pair; Z(z) is left to the grid."""
        self.coupling.check_widths(z.shape[-1], grid.shape[-1])
        self.coupling.check_initialised()
        try:
            with full_precision(z.device):
                return self.coupling.score()(at_least_single(z), at_least_single(grid)) + log_base
        except RuntimeError as error:
            explain_dtype(error, "z", z, self.coupling)
            explain_dtype(error, "grid", grid, self.coupling)
            raise
