"""Objectives as expectations of log-ratios, each returned with what it is: of what, which kind, which ceiling.

All values are in nats and leave out const = log R_base(x) R_base(x') (Eq. 13), which no parameter touches; with an
estimated base it is known, and `recparam.generation` adds it.
Directions hold in expectation, with parameters that do not depend on the scored data and batch norm in
evaluation mode; while training on the same batch the value is a training objective.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.couplings import Coupling
from recparam.marginals import Recognised
from recparam.ops import pairwise_infonce, pairwise_logsumexp
from recparam.priors import InfoNCEPrior, Kind, OptimalPrior, ParametricPrior, Prior, Side
from recparam.utils.checks import check_finite, check_matrix, is_finite_number

Of = Literal["elbo", "mi", "log_marginal", "log_prob", "kl", "gap"]
_NAMES = {
    "elbo": "ELBO - const",
    "mi": "MI",
    "log_marginal": "log P(x, x') - const",
    "log_prob": "log P(x, x')",
    "kl": "KL",
    "gap": "ELBO(Q) - ELBO(R)",
}
_SIGNS = {"lower": ">=", "upper": "<=", "exact": "=", "estimate": "~"}
_AT_CEILING = 0.1  # nats per step: the own row then has more than exp(-0.1) = 90 % of its denominator


class CeilingWarning(UserWarning):
    """A value about as large as its bank allows says "more than the bank can show", not "this much"."""


@dataclass(frozen=True)
class Bound:
    """A number in nats that says what it is.

    Args:
        value: Mean over the scored rows, a scalar; differentiable.
        per_observation: Value of each scored row, shape (B,).
        of: "elbo", "mi", "log_marginal", "log_prob" (const included), "kl" or "gap".
        kind: "lower" or "upper" bound, "exact", or "estimate" (no side holds).
        ceiling: The largest mean value the bank allows, in nats; None where there is no such limit.
        terms: Named means that add up to the value, where it is a sum.
        weights: Weight of each row in the mean, shape (B,), summing to one; None means equal.
    """

    value: Tensor
    per_observation: Tensor
    of: Of
    kind: Kind
    ceiling: float | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None

    @property
    def standard_error(self) -> float:
        """Standard error of the weighted mean over independent rows, in nats; NaN if one row has all the weight.

        The bank is taken as given: where the rows share one that is itself a sample, the true error is larger.

        sqrt( sum_i w_i^2 (v_i - mean)^2 / (1 - sum_i w_i^2) ), which is std(v) / sqrt(B) where the weights are equal.
        """
        value_B = self.per_observation.detach().cpu().double()
        weights_B = torch.full_like(value_B, 1 / len(value_B))
        if self.weights is not None:
            weights_B = self.weights.detach().to(value_B)
            weights_B = weights_B / weights_B.sum()  # one of several processes holds its rows' share
        rest = 1 - float(weights_B.square().sum())
        if int((weights_B > 0).sum()) < 2 or rest <= 0:
            return math.nan
        deviation_B = value_B - (weights_B * value_B).sum()
        return math.sqrt(float((weights_B * deviation_B).square().sum()) / rest)

    def __float__(self) -> float:
        """The value in nats."""
        return float(self.value.detach())

    def __str__(self) -> str:
        """One line: quantity, relation, value, kind, ceiling."""
        limit = "" if self.ceiling is None else f", ceiling {self.ceiling:.3f}"
        return f"{_NAMES[self.of]} {_SIGNS[self.kind]} {float(self):.3f} nats ({self.kind}{limit})"

    __repr__ = __str__


@dataclass(frozen=True)
class MutualInformation:
    """Bounds on the mutual information of the latents, in nats.

    Args:
        lower: A lower bound.
        estimate: The best available number without a side.
        upper: An upper bound, or None: from raw pairs alone, without a known conditional, there is none.
    """

    lower: Bound
    estimate: Bound
    upper: Bound | None


@dataclass(frozen=True)
class Decomposition:
    """The ELBO as mutual information less a divergence; elbo = mi - kl holds between the three values.

    Args:
        elbo: ELBO - const: exact, or an upper bound.
        mi: Mutual information: exact, or a lower bound.
        kl: D_KL(R(z, z') || P(z, z')): exact, or a lower bound (lower MI less upper ELBO).
    """

    elbo: Bound
    mi: Bound
    kl: Bound


def elbo(prior: Prior, recognised: Recognised, *, side: Side = None) -> Bound:
    """The ELBO of a recognition-parameterised model, less its constant.

    Equation: 12, 15, 16

        L(x, x') - const = E_Q[ l(z, z') + log R_phi(z|x) R_phi(z'|x') / Q(z, z'|x, x') ]
                         = E_{R(z|x) R(z'|x')}[ l(z, z') ]    where Q = R,        L = E_{R_base}[ L(x, x') ]

    Args:
        prior: Gives the log-ratio l.
        recognised: Latents of the scored rows under Q, and R.
        side: None for the training objective; "upper" or "lower" for a bound on the ELBO.

    Returns:
        Bound of the ELBO; its kind follows from prior, bank, Q and side (docs/design.md). With an InfoNCE prior the
        lower side can be -inf, where few latents of the bank are near a row: valid but vacuous, and a UserWarning.

    Raises:
        ValueError: A free Q is not absolutely continuous with respect to the recognition models and the prior.
    """
    terms = prior.terms(recognised, side=side)
    mass_SB = recognised.particles.log_weights.exp()
    weights_B = recognised.weights
    named, integrand_SB, correction_SB = terms.named, terms.log_ratio, recognised.particles.log_correction
    if correction_SB is not None:
        _check_absolutely_continuous(mass_SB, correction_SB, "the recognition models", "log R_phi(z|x) R_phi(z'|x')")
        if side != "lower":  # whose -inf may be the bound's and not the prior's
            _check_absolutely_continuous(mass_SB, terms.log_ratio, "the prior", "log P(z, z') - log R(z) R(z')")
        named = {**named, "log_R_minus_log_Q": correction_SB}
        integrand_SB = integrand_SB + correction_SB
    per_observation = _times(mass_SB, integrand_SB).sum(0)
    _warn_if_vacuous(prior, side, per_observation)
    return Bound(
        value=_mean(weights_B, per_observation),
        per_observation=per_observation,
        of="elbo",
        kind=_kind(prior, recognised, side),
        ceiling=_ceiling(prior, recognised, side),
        terms={name: _times(weights_B * mass_SB, term).sum() for name, term in named.items()},
        weights=weights_B,
    )


def log_marginal(prior: Prior, recognised: Recognised, *, side: Side = None) -> Bound:
    """The log marginal likelihood, less its constant.

    Equation: 50, 51

        log P(x, x') - const = log E_{R(z|x) R(z'|x')}[ exp l(z, z') ] = log E_Q[ R_phi(z|x) R_phi(z'|x') / Q exp l ]

    and with deterministic recognition models simply l(g(x), g(x')), which is the ELBO.

    K latents drawn from Q, the recognition model or a free posterior, give the importance-weighted estimate
    log (1/K) sum_k exp l R_phi R_phi' / Q. Its expectation grows with K, and with one draw it is the ELBO. It is a
    lower bound if R(z) and R(z') are exact (and log P is, as of priors with a density), and an estimate otherwise.
    """
    log_ratio_SB = prior.terms(recognised, side=side).log_ratio
    if recognised.particles.log_correction is not None:
        log_ratio_SB = log_ratio_SB + recognised.particles.log_correction
    per_observation = torch.logsumexp(recognised.particles.log_weights + log_ratio_SB, dim=0)
    _warn_if_vacuous(prior, side, per_observation)
    situation = recognised.joint.situation
    deterministic = recognised.particles.exact and log_ratio_SB.shape[0] == 1
    kind: Kind
    proved = _kind(prior, recognised, side)
    if deterministic or situation == "exact":
        kind = proved
    elif situation == "exact_sampled" and proved == "exact":
        kind = "lower"
    else:
        kind = "estimate"
    ceiling = _ceiling(prior, recognised, side) if deterministic else None
    value = _mean(recognised.weights, per_observation)
    return Bound(value, per_observation, "log_marginal", kind, ceiling, weights=recognised.weights)


def infonce(
    coupling: Coupling,
    z: Float[Tensor, "B D"],
    z_prime: Float[Tensor, "B D2"],
    *,
    negatives: Float[Tensor, "N D2"] | None = None,
    constant: float | Literal["tight", "paper"] = "tight",
) -> Bound:
    """The finite-sample InfoNCE bound on the mutual information.

    Equation: 6

        I_N = E[ log f(z, z') / (f(z, z') + sum_{j=1}^N f(z, z'_j)) ] + constant

    The paper prints the constant log N; the tight one that keeps the bound valid is log(N + 1), since the
    positive is in the denominator too. A lower bound on the MI for every f, and never above its constant.
    Of the ELBO it is an estimate only: an overconfident f is flattered.

    Args:
        coupling: log f_theta.
        z: Shape (B, D).
        z_prime: The positives, shape (B, D').
        negatives: Independent draws from R(z'), shape (N, D'), shared by all rows. None uses the other rows
            of the batch: N = B - 1.
        constant: "tight" log(N + 1), "paper" log N, or a number of nats.

    Returns:
        Bound of the MI: "lower" if the constant is at most log(N + 1), else "estimate".

    Raises:
        ValueError: Shapes do not fit, no negative is left, inputs are not finite, or an unknown constant.
    """
    check_matrix("z", z)
    check_matrix("z_prime", z_prime, rows=z.shape[0])
    for name, value in (("z", z), ("z_prime", z_prime)):
        check_finite(name, value)
    if isinstance(constant, str):
        if constant not in ("tight", "paper"):
            raise ValueError(f"Expected constant 'tight', 'paper' or a number of nats; got {constant!r}.")
    elif not is_finite_number(constant):
        raise ValueError(f"Expected constant 'tight', 'paper' or a finite number of nats; got {constant!r}.")
    if negatives is not None:
        check_matrix("negatives", negatives, width=z_prime.shape[1])
        check_finite("negatives", negatives)
    elif z.shape[0] < 2:
        raise ValueError(f"Expected at least 2 rows where the batch gives the negatives; got {z.shape[0]}.")
    log_f = coupling(z, z_prime)
    if negatives is None:
        count = z.shape[0] - 1
        log_share = pairwise_infonce(coupling.score(), z, z_prime) - math.log(count + 1)
    else:
        count = negatives.shape[0]
        # log f / (f + rest) as -log(1 + rest / f), which keeps its digits where f dominates
        log_share = -torch.nn.functional.softplus(pairwise_logsumexp(coupling.score(), z, negatives) - log_f)
    tight = math.log(count + 1)
    if isinstance(constant, str):
        nats = tight if constant == "tight" else math.log(count)
    else:
        nats = float(constant)
    per_observation = log_share + nats
    kind: Kind = "lower" if nats <= tight + 1e-12 else "estimate"
    terms = {
        "log_f": log_f.mean(),
        "minus_log_denominator": (log_share - log_f).mean(),
        "constant": z.new_tensor(nats),
    }
    return Bound(per_observation.mean(), per_observation, "mi", kind, nats, terms)


def infinite_infonce(
    critic: Coupling | InfoNCEPrior, recognised: Recognised, *, side: Literal["lower"] | None = None
) -> Bound:
    """The infinite-sample InfoNCE objective: the ELBO under the InfoNCE prior, read as a bound on the MI.

    Equation: 7, 23, 24, 25

        MI >= I_inf = L_InfoNCE - const = E_{R(z,z')}[log f(z, z')] - E_{R(z)}[log E_{R(z')}[f(z, z')]]

    I_N <= MI and I_inf <= MI hold for every f; I_N <= I_inf, and growth of I_N with N, only for the optimal f.

    Args:
        critic: log f_theta, or an InfoNCE prior that holds it.
        recognised: Latents and R. Only with the whole data set as bank is the inner expectation exact.
        side: "lower" takes the lower side of -log Z (see `elbo`), which needs no own row in the bank and has no
            ceiling.

    Returns:
        Bound of the MI: "lower" with an exact bank and all its rows, with side="lower", or with the own row kept in
        the batch;
        without a side, a bank of other data gives an "estimate", since an upper bound on I_inf is no bound on the
        MI, and so does any bank whose rows are not independent (`exclude_within`, repeated identities).
    """
    prior = critic if isinstance(critic, InfoNCEPrior) else InfoNCEPrior(critic)
    value = elbo(prior, recognised, side=side)
    kept = side is None and recognised.joint.situation == "batch" and not recognised.joint.bank.dependent
    kind: Kind = "lower" if (kept or value.kind in ("exact", "lower")) and _of_its_law(recognised) else "estimate"
    return replace(value, of="mi", kind=kind)


def mutual_information(recognised: Recognised, *, side: Side = None) -> Bound:
    """The mutual information between the latents of the recognition joint (total correlation for J > 2).

    Equation: 5, 20

        MI = E_{R(z,z')}[ log R(z, z') / (R(z) R(z')) ] = L_MI - const

    It is the ELBO under the optimal prior, so both are computed by the same lines.

    Raises:
        DensityError: A recognition model is a Dirac.
    """
    value = elbo(OptimalPrior(), recognised, side=side)
    return replace(value, of="mi", kind=value.kind if _of_its_law(recognised) else "estimate")


def decompose(elbo_bound: Bound, mi_bound: Bound) -> Decomposition:
    """Split the ELBO into mutual information and divergence.

    Equation: 17, 18

        L - const = E_R[log R(z,z') / (R(z) R(z'))] + E_R[log P(z,z') / R(z,z')] = MI - D_KL(R(z,z') || P(z,z'))

    Args:
        elbo_bound: ELBO - const, exact or an upper bound.
        mi_bound: The MI, exact or a lower bound.

    Returns:
        The three; kl = mi - elbo is exact if both are, a lower bound if each is exact or on its side above,
        and an estimate otherwise.
    """
    kind: Kind
    if elbo_bound.kind == mi_bound.kind == "exact":
        kind = "exact"
    elif elbo_bound.kind in ("exact", "upper") and mi_bound.kind in ("exact", "lower"):
        kind = "lower"
    else:
        kind = "estimate"
    kl = Bound(
        mi_bound.value - elbo_bound.value,
        mi_bound.per_observation - elbo_bound.per_observation,
        "kl",
        kind,
        terms={"mi": mi_bound.value, "minus_elbo": -elbo_bound.value},
        weights=elbo_bound.weights,
    )
    return Decomposition(elbo_bound, mi_bound, kl)


def at_ceiling(bound: Bound, *, steps: int = 1) -> bool:
    """Whether a value is within 0.1 nats of its ceiling, for a chain within 0.1 per step that is scored."""
    return bound.ceiling is not None and float(bound) > bound.ceiling - _AT_CEILING * steps


def warn_at_ceiling(
    bound: Bound, *, rows: int, source: str = "batch", steps: int = 1, stacklevel: int = 2
) -> None:
    """Warn where a value sits at its ceiling: within 0.1 nats of it, for a chain within 0.1 per step that is scored.

    The text depends on the rows alone, so that Python's default filter shows it once per line of code.

    Args:
        bound: What was computed.
        rows: Size of the bank that it comes from.
        source: What to enlarge.
        steps: How many steps of the chain have a term, J - 1 for a pair's priors.
        stacklevel: As in `warnings.warn`, of the line to blame.
    """
    if bound.ceiling is None or not at_ceiling(bound, steps=steps):
        return
    warnings.warn(
        f"The {_NAMES[bound.of]} is at its ceiling of {bound.ceiling:.3f} nats, which is all that {rows} rows can "
        f"show. Use a larger {source}: with {math.ceil(math.e * rows)} rows the ceiling is "
        f"{bound.ceiling + steps:.3f} nats.",
        CeilingWarning,
        stacklevel=stacklevel + 1,
    )


def posterior_gap(free: Bound, recognition: Bound) -> Bound:
    """What a free posterior adds to the ELBO: KL(R || P(z, z'|x, x')) - KL(Q || P(z, z'|x, x')), from Eqs. 12 and 15.

    Args:
        free: ELBO of the free posterior.
        recognition: ELBO of the same model and rows with Q = R.

    Returns:
        Their difference, at most KL(R || P(z, z'|x, x')), which the exact posterior reaches; exact if both are, and an
        estimate otherwise.
    """
    return Bound(
        free.value - recognition.value,
        free.per_observation - recognition.per_observation,
        "gap",
        "exact" if free.kind == recognition.kind == "exact" else "estimate",
        terms={"elbo": free.value, "minus_recognition_elbo": -recognition.value},
        weights=free.weights,
    )


def _warn_if_vacuous(prior: Prior, side: Side, per_observation: Tensor) -> None:
    if side != "lower" or not isinstance(prior, InfoNCEPrior):
        return
    if lost := int(per_observation.isneginf().sum()):
        warnings.warn(
            f"The lower bound is -inf at {lost} of {len(per_observation)} rows: valid but vacuous, since two parts of "
            f"the bank disagree about Z(z). Use a larger bank (batch or data set) or a longer lengthscale.",
            stacklevel=4,
        )


def _of_its_law(recognised: Recognised) -> bool:
    """Whether the scored rows follow the R that the bank stands for, without which no MI is bounded.

    Some rows of a data set, or rows weighted otherwise, have another law than the data set's; so have pairs beside
    samples of base densities.
    """
    whole_data_set = recognised.joint.situation in ("exact", "exact_sampled")
    return recognised.joint.bank.source != "base" and (not whole_data_set or recognised.whole)


def _kind(prior: Prior, recognised: Recognised, side: Side) -> Kind:
    """The prior's word, kept only as far as it is proved with old or dependent rows in the bank, or a free posterior.

    Jensen's inequality needs no independence of the others among themselves, and no latents of R: leave-one-out
    stays an upper bound, unless neighbours in a series, which share information with the row, stay in. InfoNCE's
    lower side needs independent rows, but holds at any latents. What needs the scored latents to be draws from the
    bank's own mixture does not hold with another Q.
    """
    situation, bank, queries = recognised.joint.situation, recognised.joint.bank, recognised.queries
    kind = prior.kind(side, situation)
    if bank.age is not None:  # another encoder's latents, or gradients that are not the value's
        return "estimate"
    neighbours, free = bank.holds_neighbours(queries), recognised.particles.log_correction is not None
    related = situation != "exact_sampled" and (bank.dependent or neighbours)
    if kind == "exact" or not (related or free):
        return kind
    if related and (neighbours or side != "upper"):
        return "estimate"
    jensen = kind == "upper" and isinstance(prior, InfoNCEPrior | ParametricPrior)
    return kind if jensen or (kind == "lower" and isinstance(prior, InfoNCEPrior)) else "estimate"


def _check_absolutely_continuous(mass_SB: Tensor, log_density_SB: Tensor, of: str, formula: str) -> None:
    """Raise ValueError if Q has mass where a density it is compared with is zero."""
    lost_B = (log_density_SB.isneginf() & (mass_SB > 0)).any(0)
    if bool(lost_B.any()):
        raise ValueError(
            f"Expected a posterior Q that is absolutely continuous with respect to {of}; got Q > 0 where {formula} is "
            f"-inf, at {int(lost_B.sum())} of {len(lost_B)} rows, the first row {int(lost_B.nonzero()[0])}: the ELBO "
            f"(Eq. 12) does not exist. Keep Q within their support, or use posterior=None."
        )


def _times(mass: Tensor, values: Tensor) -> Tensor:
    """Their product, in which a value of no mass takes no part, even if it is infinite, nor does its gradient."""
    return mass * torch.where(mass > 0, values, 0)


def _mean(weights_B: Tensor, values_B: Tensor) -> Tensor:
    """Weighted sum in which a row of weight zero takes no part, even if its value is infinite."""
    return torch.where(weights_B > 0, weights_B * values_B, 0).sum()


def _ceiling(prior: Prior, recognised: Recognised, side: Side) -> float | None:
    joint = recognised.joint
    if not prior.bounded_by_bank(side, joint.situation):
        return None
    if recognised.particles.log_correction is not None and joint.situation not in ("exact", "exact_sampled"):
        return None  # the evidence of a normalised model keeps to the limit, estimates of it need not
    if joint.situation != "queue":  # in a queue all rows weigh the same, and no row exceeds the limit
        if not recognised.whole:  # a few rows, or rows weighted otherwise, may exceed the limit of the whole
            return None
    return prior.scored_steps(len(recognised.particles.latents)) * joint.bank.entropy
