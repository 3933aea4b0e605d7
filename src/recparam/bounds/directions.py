"""What a value proves: its kind, its ceiling, and when it says nothing.

The table of `recparam.priors.directions` says what each side of each prior proves of independent rows and Q = R. Here
stands what old or dependent rows and a free Q leave of it, and what follows for log P(x, x'), the MI and the KL.
"""

from __future__ import annotations

import warnings
from typing import Literal

from torch import Tensor

from recparam.bounds.bound import Bound
from recparam.bounds.doubts import doubt_of_mode
from recparam.marginals import Recognised
from recparam.marginals.joint import Situation
from recparam.priors import Kind, Prior, Side


def warn_if_vacuous(prior: Prior, side: Side, per_observation: Tensor) -> None:
    """Warn where the lower side of an InfoNCE prior is -inf."""
    if side != "lower" or prior.family != "infonce":
        return
    if lost := int(per_observation.isneginf().sum()):
        warnings.warn(
            f"The lower bound is -inf at {lost} of {len(per_observation)} rows: valid but vacuous, since two parts of "
            f"the bank disagree about Z(z). Use a larger bank (batch or data set) or a longer lengthscale.",
            stacklevel=4,
        )


def kind_of(prior: Prior, recognised: Recognised, side: Side) -> Kind:
    """The table's word of an ELBO, kept as far as it is proved with old or dependent rows in the bank, or a free Q.

    Jensen's inequality needs no independence of the others among themselves, and no latents of R: leave-one-out
    stays an upper bound, unless neighbours in a series, which share information with the row, stay in. InfoNCE's
    lower side needs independent rows, but holds at any latents. What needs the scored latents to be draws from the
    bank's own mixture does not hold with another Q.
    """
    bank, queries = recognised.joint.bank, recognised.queries
    if doubt_of(prior, recognised) is not None:
        return "estimate"
    kind = prior.direction(recognised, side).kind
    if bank.age is not None:  # another encoder's latents, or gradients that are not the value's
        return "estimate"
    neighbours, free = bank.holds_neighbours(queries), recognised.particles.log_correction is not None
    drawn_whole = recognised.joint.situation is Situation.EXACT_SAMPLED
    related = not drawn_whole and (bank.dependent or neighbours)
    if kind == "exact" or not (related or free):
        return kind
    if related and (neighbours or side != "upper"):
        return "estimate"
    jensen = kind == "upper" and prior.family != "optimal"
    return kind if jensen or (kind == "lower" and prior.family == "infonce") else "estimate"


def doubt_of(prior: Prior, recognised: Recognised) -> str | None:
    """Why a value is an estimate, whatever the table says of it; None where nothing is known."""
    return recognised.doubt or doubt_of_mode(prior)


def kind_of_log_marginal(prior: Prior, recognised: Recognised, side: Side) -> Kind:
    """That of log P(x, x'): the ELBO's where z is a point or summed over, else what importance weights leave of it.

    Summed over, log sum_k w_k f_k / Zhat_k is convex in the means Zhat that are left out of the row's own, as -log is,
    and log-sum-exp is convex and increases: by Jensen's inequality an upper side stays one. The lower one does not.
    """
    kind, situation = kind_of(prior, recognised, side), recognised.joint.situation
    if is_point(recognised) or situation is Situation.EXACT:
        return kind
    if recognised.particles.exact and kind == "upper" and prior.family != "optimal":
        return kind
    return "lower" if situation.empirical and kind == "exact" else "estimate"


def is_point(recognised: Recognised) -> bool:
    """Whether each row has one latent, and no other could have been drawn."""
    return recognised.particles.exact and len(recognised.particles.log_weights) == 1


def of_its_law(recognised: Recognised) -> bool:
    """Whether the scored rows follow the R that the bank stands for, without which no MI is bounded.

    Some rows of a data set, or rows weighted otherwise, have another law than the data set's; so have pairs beside
    samples of base densities.
    """
    return recognised.joint.bank.source != "base" and (not recognised.joint.situation.empirical or recognised.whole)


def kind_of_mi(elbo: Bound, recognised: Recognised) -> Kind:
    """That of the MI, where the value is the ELBO under the optimal prior."""
    return elbo.kind if of_its_law(recognised) else "estimate"


def kind_of_infonce(elbo: Bound, recognised: Recognised, side: Side) -> Kind:
    """That of the ELBO under an InfoNCE prior read as a bound on the MI, which no critic exceeds (Eq. 7).

    With the own row kept in a batch it is the mean of finite-sample InfoNCEs. An upper bound on it is no bound.
    """
    if elbo.doubt is not None:
        return "estimate"
    kept = side is None and recognised.joint.situation is Situation.BATCH and not recognised.joint.bank.dependent
    return "lower" if (kept or elbo.kind in ("exact", "lower")) and of_its_law(recognised) else "estimate"


def kind_of_kl(elbo: Bound, mi: Bound) -> Kind:
    """That of MI - ELBO."""
    if elbo.kind == mi.kind == "exact":
        return "exact"
    return "lower" if elbo.kind in ("exact", "upper") and mi.kind in ("exact", "lower") else "estimate"


def unless_whole(side: Side, recognised: Recognised) -> Side:
    """The side to take of a prior with densities: over a whole data set there is one value, which is exact."""
    return None if recognised.joint.situation.empirical else side


def side_below_mi(recognised: Recognised) -> Literal["lower"] | None:
    """The side of InfoNCE that is below the MI: with drawn latents of a whole data set only -log Z's lower side."""
    return "lower" if recognised.joint.situation is Situation.EXACT_SAMPLED else None


def check_absolutely_continuous(mass_SB: Tensor, log_density_SB: Tensor, of: str, formula: str) -> None:
    """Raise ValueError if Q has mass where a density it is compared with is zero."""
    lost_B = (log_density_SB.isneginf() & (mass_SB > 0)).any(0)
    if bool(lost_B.any()):
        raise ValueError(
            f"Expected a posterior Q that is absolutely continuous with respect to {of}; got Q > 0 where {formula} is "
            f"-inf, at {int(lost_B.sum())} of {len(lost_B)} rows, the first row {int(lost_B.nonzero()[0])}: the ELBO "
            f"(Eq. 12) does not exist. Keep Q within their support, or use posterior=None."
        )


def ceiling_of(prior: Prior, recognised: Recognised, side: Side) -> float | None:
    """The largest mean value that the bank allows, in nats; None where there is no such limit."""
    joint = recognised.joint
    if not prior.direction(recognised, side).limited:
        return None
    if recognised.particles.log_correction is not None and not joint.situation.empirical:
        return None  # the evidence of a normalised model keeps to the limit, estimates of it need not
    if joint.situation is not Situation.QUEUE:  # in a queue all rows weigh the same, and no row exceeds the limit
        if not recognised.whole:  # a few rows, or rows weighted otherwise, may exceed the limit of the whole
            return None
    return prior.scored_steps(len(recognised.particles.latents)) * joint.bank.entropy
