"""The energy-based prior, P(z) = R(z) and P(z'|z) = R(z') f(z, z') / Z(z), and its chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from recparam.couplings import ChainStep, Coupling, chain_steps, latent_names, steps_by_coupling
from recparam.marginals import Recognised
from recparam.marginals.bank import Queries
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
        if self._initialised:
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
    def _initialised(self) -> bool:
        return all(part.initialised for part in self._couplings)

    def check_initialised(self) -> None:
        """Raise UninitialisedError if a coupling waits for data."""
        for part in self._couplings:
            part.check_initialised()

    def prepare(self, *latents: Float[Tensor, "B _D"]) -> bool:
        """`Coupling.prepare` of its couplings."""
        if self._initialised:
            return False
        if not (self.training and torch.is_grad_enabled()):
            self.check_initialised()
        self.initialise(*latents)
        return True

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
        coupling, joint = steps[0].coupling, recognised.joint
        z = torch.stack([step.context(latents) for step in steps])
        z_prime = torch.stack([latents[step.index] for step in steps])
        if recognised.integrated is None:
            log_f = coupling(z, z_prime)
            queries, keep_own = self._own_rows(recognised, side)
            if keep_own or side == "upper":
                indices, score = [step.index for step in steps], coupling.score()
                together = joint.log_contrast(indices, score, z, z_prime, queries=queries, keep_own=keep_own)
                if together is not None:
                    return together, log_f
        else:
            log_f = torch.stack([self._expected_log_f(step, latents, recognised.integrated) for step in steps])
        minus_log_z = [self._minus_log_z(step, z[t], recognised, side) for t, step in enumerate(steps)]
        return log_f + torch.stack(minus_log_z), log_f

    def _expected_log_f(
        self, step: ChainStep, latents: Sequence[Tensor], integrated: Sequence[Distribution]
    ) -> Tensor:
        """log f(z, z') of one step of the chain in expectation over z'.

        Not over z, which is drawn all the same: log f and log Z at one z have much of their noise in common, and the
        difference loses it. With the integral over z' alone the value also stays under its ceiling at each draw.
        """
        z = step.context(latents)
        return expected_log_f(step.coupling, Moments(z, torch.zeros_like(z)), Moments.of(integrated[step.index]))

    def _own_rows(self, recognised: Recognised, side: Side) -> tuple[Queries, bool]:
        """What is known of the scored rows in the bank, and whether their own latents stay in it."""
        own = self.direction(recognised, side).own
        # Fresh draws of every row, the row's own included, are unbiased.
        return Queries() if own == "fresh" else recognised.queries, own == "kept"

    def _minus_log_z(self, step: ChainStep, z: Tensor, recognised: Recognised, side: Side) -> Tensor:
        """-log Z(z) of one step of the chain, or what bounds it."""
        joint, index = recognised.joint, step.index
        queries, keep_own = self._own_rows(recognised, side)
        score, log_mean = step.coupling.score(), joint.log_expectation
        if recognised.integrated is not None:
            width = recognised.integrated[index].event_shape[0]
            score, log_mean = expected_score(step.coupling, width), joint.log_integral
        if keep_own or side == "upper":
            return -log_mean(index, score, z, queries=queries, keep_own=keep_own)
        # -log Z >= 1 - log a - Z / a for any a > 0, and Zhat is unbiased and independent of a
        if recognised.redraw is not None:
            log_a = recognised.redraw.log_expectation(index, score, z)
            log_zhat = joint.log_expectation(index, score, z)
        else:
            log_a = log_mean(index, score, z, queries=queries, keep_own=False, half=0)
            log_zhat = log_mean(index, score, z, queries=queries, keep_own=False, half=1)
        return 1 - log_a - (log_zhat - log_a).exp()

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
