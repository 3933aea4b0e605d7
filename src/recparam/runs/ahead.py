"""What a fitted model expects to follow a few of its latents."""

from __future__ import annotations

import numpy as np

from recparam.estimator import RPMEstimator
from recparam.priors import InfoNCEPrior
from recparam.runs.report import Ahead, Latents

_PLACES = (0.1, 0.5, 0.9)  # of the held-out rows, along the direction in which latents differ most


def look_ahead(estimator: RPMEstimator, latents: Latents) -> Ahead | None:
    """What follows three held-out latents, from one end of the latents to the other.

    Args:
        estimator: Fitted with a lag.
        latents: Of its data.

    Returns:
        None where the prior has a density of its own, which candidates are not needed for, or where each session has
        its own R(z').
    """
    if not isinstance(estimator.prior_, InfoNCEPrior) or estimator.session_shapes_ is not None:
        return None
    rows = np.flatnonzero(latents.held_out)
    spread = latents.z[rows] - latents.z[rows].mean(0)
    order = rows[np.argsort(spread @ np.linalg.svd(spread, full_matrices=False)[2][0])]
    chosen = order[[round(place * (len(order) - 1)) for place in _PLACES]]
    lag = int(np.min(estimator.lag))
    after = np.minimum(chosen + lag, len(latents.z) - 1)
    known = (after == chosen + lag) & (latents.sessions[after] == latents.sessions[chosen])
    candidates, probability = estimator.next_over_bank(latents.z[chosen])
    following = np.where(known[:, None], latents.z[after], np.nan)
    return Ahead(candidates, probability, latents.z[chosen], following)
