"""Objectives: numbers in nats that say what they are, and what they prove."""

from recparam.bounds import losses
from recparam.bounds.bound import (
    Bound,
    CeilingWarning,
    Decomposition,
    MutualInformation,
    Of,
    at_ceiling,
    warn_at_ceiling,
)
from recparam.bounds.objectives import (
    decompose,
    elbo,
    infinite_infonce,
    infonce,
    log_marginal,
    mutual_information,
    mutual_information_bounds,
    posterior_gap,
)

__all__ = [
    "Bound",
    "CeilingWarning",
    "Decomposition",
    "MutualInformation",
    "Of",
    "at_ceiling",
    "decompose",
    "elbo",
    "infinite_infonce",
    "infonce",
    "log_marginal",
    "losses",
    "mutual_information",
    "mutual_information_bounds",
    "posterior_gap",
    "warn_at_ceiling",
]
