"""Priors P_theta(z_1, ..., z_J): objects with one essential method, the log-ratio l in nats.

l(z_1, ..., z_J) = log P_theta(z_1, ..., z_J) - sum_j log R(z_j)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.banks import Bank, Queries
from recparam.closed_forms import Moments, expected_log_f, expected_score
from recparam.couplings import ChainStep, Coupling, alike, chain_steps, latent_names
from recparam.joint import RecognitionJoint, Situation
from recparam.marginals import Recognised
from recparam.ops.checks import check_count, check_finite, check_tensor, explain_dtype, is_finite_number
from recparam.ops.collectives import gather_rows
from recparam.recognition import DensityError, Dirac, Particles, enumerable, gaussian_parameters

Side = Literal["upper", "lower"] | None
Kind = Literal["lower", "upper", "exact", "estimate"]


@dataclass(frozen=True)
class Terms:
    """The log-ratio l (S, B) in nats, and the named terms (S, B) that it is the sum of.

    It is given beside them because it may be known better than their sum: rounding takes the difference of two
    scores of a million nats.
    """

    log_ratio: Tensor
    named: dict[str, Tensor]

    @staticmethod
    def total(named: dict[str, Tensor]) -> Terms:
        """Terms whose log-ratio is their sum."""
        return Terms(torch.stack(list(named.values())).sum(0), named)


class Prior(nn.Module, ABC):
    """P_theta over J latents, seen through its log-ratio with the marginals."""

    needs_density: ClassVar[bool] = True

    @abstractmethod
    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        """The log-ratio and its named terms, each (S, B)."""

    @abstractmethod
    def kind(self, side: Side, situation: Situation) -> Kind:
        """What the mean log-ratio is to the ELBO - const, for that side and bank.

        Raises:
            ValueError: No such bound exists with that bank.
        """

    def bounded_by_bank(self, side: Side, situation: Situation) -> bool:
        """Whether the value cannot exceed the entropy of the bank's weights times the steps that are scored."""
        return False

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
            ValueError: Latent widths do not fit, or an unknown side.
        """
        if side not in (None, "upper", "lower"):
            raise ValueError(f"Expected side=None, 'upper' or 'lower'; got {side!r}.")
        self.check_densities(recognised.joint.distributions)
        self.check_widths([z.shape[-1] for z in recognised.particles.latents])
        return self._terms(recognised.particles.latents, recognised, side)

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
        for j, z in enumerate(latents):
            check_tensor(("z", "z_prime")[j] if j < 2 else f"latent {j}", z)
        if len(latents) < 2 or len({len(z) for z in latents}) > 1 or len(latents[0]) < 2:
            raise ValueError(
                f"Expected at least two latents of one length >= 2; got {[tuple(z.shape) for z in latents]}."
            )
        for j, z in enumerate(latents):
            check_finite(("z", "z_prime")[j] if j < 2 else f"latent {j}", z)
        diracs = [Dirac(z) for z in latents]
        self.check_densities(diracs)
        self.check_widths([z.shape[-1] for z in latents])
        self.initialise(*latents)
        zero = latents[0].new_zeros(1, len(latents[0]))
        particles = Particles(tuple(z[None] for z in latents), zero, exact=True)
        own = torch.arange(len(latents[0]), device=zero.device)
        weights = latents[0].new_full((len(own),), 1 / len(own))
        recognised = Recognised(particles, RecognitionJoint(Bank(diracs, particles)), Queries(own), weights)
        return self.terms(recognised, side=side).log_ratio[0]


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
        given = ", ".join(context)
        return (
            f"P({z_prime}|{given}) = R({z_prime}) f({given}, {z_prime}) / Z({given}), {self.coupling.formula()}"
        )

    def scored_steps(self, length: int) -> int:
        """The steps with a coupling."""
        return len(self._steps(length))

    def _steps(self, length: int) -> list[ChainStep]:
        return chain_steps(self.coupling, self.first, length)

    def initialise(self, *latents: Float[Tensor, "B _D"]) -> None:
        """Set the coupling's data-driven starting values from consecutive latents, once.

        Several processes use the latents of all, so that their copies of the model start alike.
        """
        couplings = [part for part in (self.coupling, self.first) if part is not None]
        if all(part.initialised for part in couplings):
            return
        widths = [z.shape[-1] for z in latents]
        self.check_widths(widths)
        latents = tuple(gather_rows(z.detach()) for z in latents)
        for part in couplings:
            whole = part.at_most(len(latents) - 1)
            if whole is not None and not whole.initialised:  # from every step that has latents enough before it
                steps = [ChainStep(t, whole) for t in range(whole.order, len(latents))]
                whole.initialise(torch.cat([s.context(latents) for s in steps]), torch.cat(latents[whole.order :]))

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

    def kind(self, side: Side, situation: Situation) -> Kind:
        """Exact over the data set; self-included an estimate; leave-one-out an upper bound; a queue an estimate."""
        if situation == "queue" and side is not None:
            raise ValueError(
                f"Expected side=None with a queue, whose old latents bound nothing; got {side!r}. "
                f"Score with marginal=rp.BatchMarginal() or rp.DatasetMarginal(...)."
            )
        if situation == "exact":
            return "exact"
        if side is None and situation != "exact_sampled":
            return "estimate"
        return side or "upper"

    def bounded_by_bank(self, side: Side, situation: Situation) -> bool:
        """The self-included value and the exact one are."""
        return situation == "exact" or (situation in ("batch", "queue") and side is None)

    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        parts = [self._alike(steps, latents, recognised, side) for steps in alike(self._steps(len(latents)), latents)]
        log_ratio, log_f = (torch.cat(part).sum(0) for part in zip(*parts, strict=True))
        return Terms(log_ratio, {"log_f": log_f, "minus_log_Z": log_ratio - log_f})

    def _alike(
        self, steps: Sequence[ChainStep], latents: Sequence[Tensor], recognised: Recognised, side: Side
    ) -> tuple[Tensor, Tensor]:
        """log f(z, z') - log Z(z) and log f(z, z') of T steps with one coupling, each (T, S, B)."""
        coupling, joint = steps[0].coupling, recognised.joint
        z = torch.stack([step.context(latents) for step in steps])
        z_prime = torch.stack([latents[step.index] for step in steps])
        if recognised.integrated is None:
            log_f = coupling(z, z_prime)
            keep_own = joint.situation == "exact" or side is None
            if keep_own or side == "upper":
                indices, score = [step.index for step in steps], coupling.score()
                queries = self._queries(recognised, side)
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

    def _queries(self, recognised: Recognised, side: Side) -> Queries:
        if recognised.joint.situation == "exact_sampled" and side is not None:
            return Queries()  # fresh draws of every row, the row's own included, are unbiased
        return recognised.queries

    def _minus_log_z(self, step: ChainStep, z: Tensor, recognised: Recognised, side: Side) -> Tensor:
        """-log Z(z) of one step of the chain, or what bounds it."""
        joint, queries, index = recognised.joint, self._queries(recognised, side), step.index
        score, log_mean = step.coupling.score(), joint.log_expectation
        if recognised.integrated is not None:
            width = recognised.integrated[index].event_shape[0]
            score, log_mean = expected_score(step.coupling, width), joint.log_integral
        keep_own = joint.situation == "exact" or side is None
        if keep_own or side == "upper":
            return -log_mean(index, score, z, queries=queries, keep_own=keep_own)
        # -log Z >= 1 - log a - Z / a for any a > 0, and Zhat is unbiased and independent of a
        if joint.situation == "exact_sampled" and recognised.redraw is not None:
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
            return self.coupling.score()(z, grid) + log_base
        except RuntimeError as error:
            explain_dtype(error, "z", z, self.coupling)
            explain_dtype(error, "grid", grid, self.coupling)
            raise


class OptimalPrior(Prior):
    """The prior that matches the recognition joint, under which ELBO - const is the mutual information.

    Equation: 19

        P*(z, z') = R(z, z'),   l = log R(z, z') - log R(z) - log R(z')
    """

    def formula(self) -> str:
        """P(z, z') = R(z, z')."""
        return "P(z, z') = R(z, z')"

    def kind(self, side: Side, situation: Situation) -> Kind:
        """Exact over the data set; in a batch the side says which mixtures keep their own row."""
        if situation in ("exact", "exact_sampled"):
            return "exact"
        if situation == "independent" and side is not None:
            raise ValueError(
                f"Expected side=None for the optimal prior with a bank without the scored rows; got {side!r}. "
                f"Use marginal=rp.BatchMarginal() for a bound."
            )
        return "estimate" if side is None else side

    def bounded_by_bank(self, side: Side, situation: Situation) -> bool:
        """The mean over the bank's own rows, self-included, is a mutual information of the bank's index."""
        return situation in ("exact", "exact_sampled") or (situation == "batch" and side is None)

    def _density_message(self) -> str:
        return super()._density_message() + (
            " The mutual information itself exists (Eqs. 43-44): model.mutual_information with an InfoNCE prior "
            "bounds it from below."
        )

    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        joint, queries = recognised.joint, recognised.queries
        in_sample = joint.situation == "batch"
        keep_joint, keep_marginals = not (in_sample and side == "lower"), not (in_sample and side == "upper")
        log_joint = joint.log_joint(latents, queries=queries, keep_own=keep_joint)
        marginals = [joint.log_marginal(j, z, queries=queries, keep_own=keep_marginals) for j, z in enumerate(latents)]
        return Terms.total({"log_joint": log_joint, "minus_log_marginals": -torch.stack(marginals).sum(0)})


class ParametricPrior(Prior):
    """A prior with a density of its own: l is that density over mixture estimates of the marginals."""

    @abstractmethod
    def log_prob(self, *latents: Tensor) -> Tensor:
        """log P_theta(z_1, ..., z_J) of latents (..., D_j), shape (...), in nats."""

    def log_conditional(
        self, z: Float[Tensor, "A D"], grid: Float[Tensor, "G E"], log_base: Float[Tensor, " G"]
    ) -> Float[Tensor, "A G"]:
        """log P(z, z') for every pair; the prior has a density of its own and ignores the base."""
        self.check_widths([z.shape[-1], grid.shape[-1]])
        return self.log_prob(z[:, None, :], grid[None, :, :])  # widths may differ: no common shape

    def kind(self, side: Side, situation: Situation) -> Kind:
        """Exact marginals are exact; self-included mixtures lower; leave-one-out and independent ones upper."""
        if situation in ("exact", "exact_sampled"):
            return "exact"
        if situation == "independent":
            if side == "lower":
                raise ValueError(
                    "Expected side='upper' or None with a bank that does not hold the scored rows; got 'lower'. "
                    "Use marginal=rp.BatchMarginal(), whose self-included mixtures bound from below."
                )
            return "estimate" if side is None else "upper"
        return "upper" if side == "upper" else "lower"

    def bounded_by_bank(self, side: Side, situation: Situation) -> bool:
        """Self-included and exact values are (the prior is normalised)."""
        return situation in ("exact", "exact_sampled") or (situation == "batch" and side != "upper")

    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        joint, queries = recognised.joint, recognised.queries
        keep_own = not (joint.situation in ("batch", "independent") and side == "upper")
        marginals = [joint.log_marginal(j, z, queries=queries, keep_own=keep_own) for j, z in enumerate(latents)]
        return Terms.total(
            {"log_prior": self.log_prob(*latents), "minus_log_marginals": -torch.stack(marginals).sum(0)}
        )


class JointGaussianPrior(ParametricPrior):
    """Standard normal latents with a learned correlation between neighbours, per dimension.

        P(z_1) = N(0, I),   P(z_{t+1}|z_t) = N(diag(rho) z_t, I - diag(rho)^2)

    Args:
        dim: Width D of every latent.
        correlation: Starting rho for every dimension, between -1 and 1; learned through its inverse tanh.

    Raises:
        ValueError: dim < 1, or |correlation| >= 1.
    """

    def __init__(self, dim: int, *, correlation: float = 0.5) -> None:
        super().__init__()
        check_count("dim", dim)
        if not is_finite_number(correlation) or not -1 < correlation < 1:
            raise ValueError(f"Expected a correlation between -1 and 1, exclusive; got {correlation!r}.")
        self.raw_correlation = nn.Parameter(torch.full((dim,), math.atanh(correlation)))

    @property
    def correlation(self) -> Tensor:
        """rho, shape (D,)."""
        return self.raw_correlation.tanh()

    def formula(self) -> str:
        """The density of each dimension, with the correlations learned so far."""
        rho = ", ".join(f"{float(value):.3g}" for value in self.correlation.detach())
        return f"P(z, z') = prod_d N(z_d, z'_d; 0, [[1, rho_d], [rho_d, 1]]), rho = [{rho}]"

    def check_densities(self, distributions: Sequence[Distribution]) -> None:
        """Raise DensityError for a Dirac, ValueError for categorical latents."""
        super().check_densities(distributions)
        if any(enumerable([d]) for d in distributions):
            raise ValueError(
                "Expected continuous latents for JointGaussianPrior, as of rp.Gaussian(net); got categorical ones. "
                "Use JointCategoricalPrior, rp.OptimalPrior or rp.InfoNCEPrior."
            )

    def check_widths(self, widths: Sequence[int]) -> None:
        """Raise ValueError if a latent's width is not dim."""
        if any(width != len(self.raw_correlation) for width in widths):
            raise ValueError(f"Expected latents of width {len(self.raw_correlation)}; got {list(widths)}.")

    def log_prob(self, *latents: Tensor) -> Tensor:
        """Log-density of a chain of latents (..., D), shape (...), in nats."""
        rho = self.correlation
        # 1 - tanh^2 = 1 / cosh^2 keeps its digits where rho is near one
        log_scale = -(
            self.raw_correlation.abs() + nn.functional.softplus(-2 * self.raw_correlation.abs()) - math.log(2)
        )
        total = _standard_normal(latents[0])
        for z, z_prime in zip(latents[:-1], latents[1:], strict=True):
            total = total + _standard_normal((z_prime - rho * z) * (-log_scale).exp()) - log_scale.sum()
        return total


class JointCategoricalPrior(ParametricPrior):
    """A table of probabilities over categorical (one-hot) latents.

        P(z_1 = k_1, ..., z_J = k_J) = softmax(logits)_{k_1 ... k_J}

    Args:
        sizes: Number of values K_j of each latent, at least two latents.

    Raises:
        ValueError: Fewer than two sizes, or a size below one.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"Expected at least two sizes >= 1; got {sizes}.")
        for j, size in enumerate(sizes):
            check_count(f"sizes[{j}]", size)
        self.logits = nn.Parameter(torch.zeros(sizes))

    def formula(self) -> str:
        """The table, by its size."""
        sizes = self.logits.shape
        names = ", ".join([f"z_{j + 1}" for j in range(len(sizes))] if len(sizes) > 2 else ["z", "z'"])
        return f"P({names}) = softmax(theta)[{names}], theta {' x '.join(map(str, sizes))}"

    def check_densities(self, distributions: Sequence[Distribution]) -> None:
        """Raise DensityError for a Dirac, ValueError for continuous latents."""
        super().check_densities(distributions)
        if not enumerable(distributions):
            raise ValueError(
                "Expected one-hot latents for JointCategoricalPrior, as of rp.Categorical(net); got continuous ones. "
                "Use rp.JointGaussianPrior, rp.OptimalPrior or rp.InfoNCEPrior."
            )

    def check_widths(self, widths: Sequence[int]) -> None:
        """Raise ValueError if the latents' widths are not the table's."""
        if tuple(widths) != tuple(self.logits.shape):
            raise ValueError(f"Expected latents of widths {tuple(self.logits.shape)}; got {tuple(widths)}.")

    def log_conditional(
        self, z: Float[Tensor, "A D"], grid: Float[Tensor, "G E"], log_base: Float[Tensor, " G"]
    ) -> Float[Tensor, "A G"]:
        """log P(z, z') for every pair of one-hot rows; ValueError for other rows."""
        for name, value in (("z", z), ("grid", grid)):
            if not bool((((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)).all()):
                raise ValueError(
                    f"Expected one-hot rows in {name} for JointCategoricalPrior, such as torch.eye(K); got other rows. "
                    f"Enumerate or draw latents; the mean of a categorical distribution is none."
                )
        return super().log_conditional(z, grid, log_base)

    def log_prob(self, *latents: Tensor) -> Tensor:
        """Log-probability of one-hot latents (..., K_j), shape (...), in nats."""
        table = (self.logits - self.logits.logsumexp(tuple(range(self.logits.ndim)))).flatten()
        index = torch.zeros_like(latents[0][..., 0], dtype=torch.long)
        for z in latents:
            index = index * z.shape[-1] + z.argmax(-1)
        return table[index]


def _standard_normal(z: Tensor) -> Tensor:
    return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
