"""Objectives as expectations of log-ratios, each returned with what it is: of what, which kind, which ceiling.

All values are in nats and leave out const = log R_base(x) R_base(x') (Eq. 13), which no parameter touches; with an
estimated base it is known, and `recparam.model.generation` adds it.
Directions hold in expectation, with parameters that do not depend on the scored data and batch norm in
evaluation mode; while training on the same batch the value is a training objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.bounds.bound import Bound, Decomposition, MutualInformation
from recparam.bounds.directions import (
    ceiling_of,
    check_absolutely_continuous,
    doubt_of,
    is_point,
    kind_of,
    kind_of_infonce,
    kind_of_kl,
    kind_of_log_marginal,
    kind_of_mi,
    side_below_mi,
    warn_if_vacuous,
)
from recparam.bounds.doubts import prepared
from recparam.bounds.influence import OfBank, on_bank, summed
from recparam.couplings import Coupling
from recparam.marginals import Recognised
from recparam.marginals.joint import Situation
from recparam.ops import pairwise_contrast, pairwise_infonce
from recparam.ops.collectives import Share
from recparam.ops.precision import at_least_single
from recparam.priors import InfoNCEPrior, Kind, OptimalPrior, Prior, Side
from recparam.recognition import DensityError, Dirac
from recparam.utils.checks import check_finite, check_matrix, is_finite_number


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
        check_absolutely_continuous(mass_SB, correction_SB, "the recognition models", "log R_phi(z|x) R_phi(z'|x')")
        if side != "lower":  # whose -inf may be the bound's and not the prior's
            check_absolutely_continuous(mass_SB, terms.log_ratio, "the prior", "log P(z, z') - log R(z) R(z')")
        named = {**named, "log_R_minus_log_Q": correction_SB}
        integrand_SB = integrand_SB + correction_SB
    per_observation = _times(mass_SB, integrand_SB).sum(0)
    warn_if_vacuous(prior, side, per_observation)
    return Bound(
        value=_mean(weights_B, per_observation),
        per_observation=per_observation,
        of="elbo",
        kind=kind_of(prior, recognised, side),
        ceiling=ceiling_of(prior, recognised, side),
        terms={name: _times(weights_B * mass_SB, term).sum() for name, term in named.items()},
        weights=weights_B,
        doubt=doubt_of(prior, recognised),
        of_bank=_of_bank(lambda again: _elbo_of_rows(prior, again, side), recognised),
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
    per_observation = _log_marginal_of_rows(prior, recognised, side)
    warn_if_vacuous(prior, side, per_observation)
    kind = kind_of_log_marginal(prior, recognised, side)
    ceiling = ceiling_of(prior, recognised, side) if is_point(recognised) else None
    value = _mean(recognised.weights, per_observation)
    doubt = doubt_of(prior, recognised)
    of_bank = _of_bank(lambda again: _log_marginal_of_rows(prior, again, side), recognised)
    return Bound(
        value, per_observation, "log_marginal", kind, ceiling, weights=recognised.weights, doubt=doubt, of_bank=of_bank
    )


def infonce(
    coupling: Coupling,
    z: Float[Tensor, "B D"],
    z_prime: Float[Tensor, "B D2"],
    *,
    negatives: Float[Tensor, "N D2"] | None = None,
    constant: float | Literal["tight", "paper"] = "tight",
    across_processes: bool = True,
) -> Bound:
    """The finite-sample InfoNCE bound on the mutual information.

    Equation: 6

        I_N = E[ log f(z, z') / (f(z, z') + sum_{j=1}^N f(z, z'_j)) ] + constant

    The paper prints the constant log N; the tight one that keeps the bound valid is log(N + 1), since the
    positive is in the denominator too. A lower bound on the MI for every f, and never above its constant.
    Of the ELBO it is an estimate only: an overconfident f is flattered.

    Where torch.distributed has set up several processes, the other rows are those of all of them, as in `RPM.elbo`: the
    mean of the values over processes is that over all rows, and so is its gradient after DDP's averaging.

    Args:
        coupling: log f_theta.
        z: Shape (B, D).
        z_prime: The positives, shape (B, D').
        negatives: Independent draws from R(z'), shape (N, D'), shared by all rows. None uses the other rows
            of the batch: N = B - 1, the batch that of all processes.
        constant: "tight" log(N + 1), "paper" log N, or a number of nats.
        across_processes: Whether the batch is that of all processes, which then have to make the same calls;
            `negatives` stay each process's own. False keeps to this process.

    Returns:
        Bound of the MI: "lower" if the constant is at most log(N + 1), else "estimate"; an estimate too where this
        call, a training step's, set the coupling's scales.

    Raises:
        ValueError: Shapes do not fit, no negative is left, inputs are not finite, or an unknown constant.
    """
    check_contrasted(z, z_prime, negatives)
    if isinstance(constant, str):
        if constant not in ("tight", "paper"):
            raise ValueError(f"Expected constant 'tight', 'paper' or a number of nats; got {constant!r}.")
    elif not is_finite_number(constant):
        raise ValueError(f"Expected constant 'tight', 'paper' or a finite number of nats; got {constant!r}.")
    share = Share.of(z, across_processes=across_processes)
    return infonce_of(coupling, z, z_prime, share, negatives=negatives, constant=constant)


def check_contrasted(z: Tensor, z_prime: Tensor, negatives: Tensor | None) -> None:
    """Raise ValueError unless pairs, and negatives that are given, are finite matrices that fit."""
    check_matrix("z", z)
    check_matrix("z_prime", z_prime, rows=z.shape[0])
    for name, value in (("z", z), ("z_prime", z_prime)):
        check_finite(name, value)
    if negatives is not None:
        check_matrix("negatives", negatives, width=z_prime.shape[1])
        check_finite("negatives", negatives)


def infonce_of(
    coupling: Coupling,
    z: Float[Tensor, "B D"],
    z_prime: Float[Tensor, "B D2"],
    share: Share,
    *,
    negatives: Float[Tensor, "N D2"] | None,
    constant: float | str,
) -> Bound:
    """`infonce` of checked pairs, whose share in the rows of all processes is known."""
    if negatives is None and share.total < 2:
        raise ValueError(f"Expected at least 2 rows where the batch gives the negatives; got {z.shape[0]}.")
    z, z_prime = at_least_single(z), at_least_single(z_prime)
    negatives = None if negatives is None else at_least_single(negatives)
    doubt = prepared(coupling, z, z_prime, share)
    log_f = coupling(z, z_prime)
    bank = share.gathered(z_prime) if negatives is None else negatives
    own = share.places(z.device) if negatives is None else None
    count = share.total - 1 if negatives is None else len(negatives)

    def log_share_of(log_weights: Tensor | None) -> Tensor:
        if own is not None:
            found = pairwise_infonce(coupling.score(), z, bank, positives=own, log_weights=log_weights)
            return found - math.log(count + 1)
        # log f / (f + rest) as -log(1 + rest / f), which keeps its digits where f dominates
        over = pairwise_contrast(coupling.score(), coupling, z, z_prime, bank, log_weights=log_weights)
        return -torch.nn.functional.softplus(math.log(count) - over).to(log_f.dtype)

    def of_bank() -> OfBank:
        return on_bank(lambda f: log_share_of((f / f.mean()).log()).mean(), bank.new_ones(len(bank))), own

    log_share = log_share_of(None)
    tight = math.log(count + 1)
    if isinstance(constant, str):
        nats = tight if constant == "tight" else math.log(count)
    else:
        nats = float(constant)
    per_observation = log_share + nats
    kind: Kind = "lower" if nats <= tight + 1e-12 and doubt is None else "estimate"
    terms = {
        "log_f": share.mean(log_f),
        "minus_log_denominator": share.mean(log_share - log_f),
        "constant": share.mean(torch.full_like(log_f, nats)),
    }
    value, weights = share.mean(per_observation), share.weights(per_observation)
    return Bound(value, per_observation, "mi", kind, nats, terms, weights, doubt=doubt, of_bank=of_bank)


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
    return replace(value, of="mi", kind=kind_of_infonce(value, recognised, side))


def mutual_information(recognised: Recognised, *, side: Side = None) -> Bound:
    """The mutual information between the latents of the recognition joint (total correlation for J > 2).

    Equation: 5, 20

        MI = E_{R(z,z')}[ log R(z, z') / (R(z) R(z')) ] = L_MI - const

    It is the ELBO under the optimal prior, so both are computed by the same lines.

    Raises:
        DensityError: A recognition model is a Dirac.
    """
    value = elbo(OptimalPrior(), recognised, side=side)
    return replace(value, of="mi", kind=kind_of_mi(value, recognised))


def mutual_information_bounds(prior: Prior, recognised: Recognised) -> MutualInformation:
    """Bounds on the mutual information of the latents, from densities or, of points, from an InfoNCE prior.

    With densities both sides follow from R itself, whatever the prior. Of points the lower bound is InfoNCE, the
    estimate leaves the row's own latent out of the bank, and there is no upper bound. See also: Eqs. 5, 20.

    Raises:
        DensityError: A deterministic recognition model without an InfoNCE prior.
    """
    if not any(isinstance(d, Dirac) for d in recognised.joint.distributions):
        lower, estimate, upper = (mutual_information(recognised, side=side) for side in ("lower", None, "upper"))
        return MutualInformation(lower, estimate, upper)
    if not isinstance(prior, InfoNCEPrior):
        raise DensityError(
            f"The mutual information of deterministic latents (Eq. 38) has no density ratio to evaluate; "
            f"{type(prior).__name__} cannot bound it. Use rp.InfoNCEPrior(...) for a lower bound, or "
            f"rp.EpsilonGaussian(net, epsilon=...) (Eq. 46; see docs/deterministic.md)."
        )
    lower = infinite_infonce(prior, recognised, side=side_below_mi(recognised))
    if recognised.joint.situation is Situation.EXACT:
        return MutualInformation(lower, lower, None)
    left_out = elbo(prior, recognised, side="upper")
    return MutualInformation(lower, replace(left_out, of="mi", kind="estimate", ceiling=None), None)


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
    kl = Bound(
        mi_bound.value - elbo_bound.value,
        mi_bound.per_observation - elbo_bound.per_observation,
        "kl",
        kind_of_kl(elbo_bound, mi_bound),
        terms={"mi": mi_bound.value, "minus_elbo": -elbo_bound.value},
        weights=elbo_bound.weights,
        doubt=elbo_bound.doubt or mi_bound.doubt,
        of_bank=summed([(1.0, mi_bound), (-1.0, elbo_bound)]),
    )
    return Decomposition(elbo_bound, mi_bound, kl)


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
        doubt=free.doubt or recognition.doubt,
        of_bank=summed([(1.0, free), (-1.0, recognition)]),
    )


def _elbo_of_rows(prior: Prior, recognised: Recognised, side: Side) -> Tensor:
    """The value of each scored row."""
    log_ratio_SB = prior.terms(recognised, side=side).log_ratio
    if recognised.particles.log_correction is not None:
        log_ratio_SB = log_ratio_SB + recognised.particles.log_correction
    return _times(recognised.particles.log_weights.exp(), log_ratio_SB).sum(0)


def _log_marginal_of_rows(prior: Prior, recognised: Recognised, side: Side) -> Tensor:
    log_ratio_SB = prior.terms(recognised, side=side).log_ratio
    if recognised.particles.log_correction is not None:
        log_ratio_SB = log_ratio_SB + recognised.particles.log_correction
    return torch.logsumexp(recognised.particles.log_weights + log_ratio_SB, dim=0)


def _of_bank(rows: Callable[[Recognised], Tensor], recognised: Recognised) -> Callable[[], OfBank]:
    """What the weighted mean of the rows' values owes to each row of the bank, to be computed when it is asked for."""
    return partial(_influence_of, rows, recognised)


def _influence_of(rows: Callable[[Recognised], Tensor], recognised: Recognised) -> OfBank:
    weights_B, own = recognised.weights / recognised.weights.sum(), recognised.queries.own
    columns_N = on_bank(
        lambda factors: _mean(weights_B, rows(recognised.reweighted(factors))), recognised.joint.bank.weights.detach()
    )
    return columns_N, None if own is None else own.detach()


def _times(mass: Tensor, values: Tensor) -> Tensor:
    """Their product, in which a value of no mass takes no part, even if it is infinite, nor does its gradient."""
    return mass * torch.where(mass > 0, values, 0)


def _mean(weights_B: Tensor, values_B: Tensor) -> Tensor:
    """Weighted sum in which a row of weight zero takes no part, even if its value is infinite."""
    return torch.where(weights_B > 0, weights_B * values_B, 0).sum()
