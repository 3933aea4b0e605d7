"""What a value proves: its kind, its ceiling, and when it says nothing."""

from __future__ import annotations

import warnings

from torch import Tensor

from recparam.marginals import Recognised
from recparam.priors import InfoNCEPrior, Kind, ParametricPrior, Prior, Side


def warn_if_vacuous(prior: Prior, side: Side, per_observation: Tensor) -> None:
    """Warn where the lower side of an InfoNCE prior is -inf."""
    if side != "lower" or not isinstance(prior, InfoNCEPrior):
        return
    if lost := int(per_observation.isneginf().sum()):
        warnings.warn(
            f"The lower bound is -inf at {lost} of {len(per_observation)} rows: valid but vacuous, since two parts of "
            f"the bank disagree about Z(z). Use a larger bank (batch or data set) or a longer lengthscale.",
            stacklevel=4,
        )


def of_its_law(recognised: Recognised) -> bool:
    """Whether the scored rows follow the R that the bank stands for, without which no MI is bounded.

    Some rows of a data set, or rows weighted otherwise, have another law than the data set's; so have pairs beside
    samples of base densities.
    """
    whole_data_set = recognised.joint.situation in ("exact", "exact_sampled")
    return recognised.joint.bank.source != "base" and (not whole_data_set or recognised.whole)


def kind_of(prior: Prior, recognised: Recognised, side: Side) -> Kind:
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
    if not prior.bounded_by_bank(side, joint.situation):
        return None
    if recognised.particles.log_correction is not None and joint.situation not in ("exact", "exact_sampled"):
        return None  # the evidence of a normalised model keeps to the limit, estimates of it need not
    if joint.situation != "queue":  # in a queue all rows weigh the same, and no row exceeds the limit
        if not recognised.whole:  # a few rows, or rows weighted otherwise, may exceed the limit of the whole
            return None
    return prior.scored_steps(len(recognised.particles.latents)) * joint.bank.entropy
