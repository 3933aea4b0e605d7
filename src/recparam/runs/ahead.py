"""What a fitted model expects to follow a few of its latents."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from recparam.estimator import RPMEstimator
from recparam.priors import InfoNCEPrior
from recparam.runs.report import Ahead, Latents

_PLACES = (0.1, 0.5, 0.9)  # of the held-out rows, along the direction in which latents differ most


def look_ahead(
    estimator: RPMEstimator, latents: Latents, *, following: Float[np.ndarray, "N D"], lag: int | None
) -> Ahead | None:
    """What follows three held-out latents, from one end of the latents to the other.

    Args:
        estimator: Fitted.
        latents: Of its data.
        following: The latents z' that followed each row; NaN where they are not known.
        lag: Rows between those that a prior of several earlier rows reads; None: pairs are of no lag.

    Returns:
        None where the prior has a density of its own, which candidates are not needed for, or where each session has
        its own R(z').
    """
    if not isinstance(estimator.prior_, InfoNCEPrior) or estimator.session_shapes_ is not None:
        return None
    steps = (lag or 0) * np.arange(estimator.order_ - 1, -1, -1)
    rows = np.flatnonzero(latents.held_out)
    rows = rows[rows >= steps[0]]
    rows = rows[latents.sessions[rows - steps[0]] == latents.sessions[rows]]
    if not len(rows):
        return None
    spread = latents.z[rows] - latents.z[rows].mean(0)
    order = rows[np.argsort(spread @ np.linalg.svd(spread, full_matrices=False)[2][0])]
    chosen = order[[round(place * (len(order) - 1)) for place in _PLACES]]
    before = latents.z[chosen[:, None] - steps].reshape(len(chosen), -1)
    candidates, probability = estimator.next_over_bank(before)
    return Ahead(candidates, probability, latents.z[chosen], following[chosen], order=estimator.order_)


def followed(latents: Latents, lag: int | None) -> Float[np.ndarray, "N D"]:
    """The latents so many rows after each row of a session, NaN where there are none; None: pairs are of no lag."""
    following = np.full_like(latents.z, np.nan)
    if lag is not None:
        rows = np.flatnonzero(latents.sessions[lag:] == latents.sessions[:-lag])
        following[rows] = latents.z[rows + lag]
    return following
