"""The latents of a run's rows, and the model's predictions of the next latents of a few of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from recparam.estimator import RPMEstimator
from recparam.priors import InfoNCEPrior

_QUANTILES = (0.1, 0.5, 0.9)  # of the held-out latents, along their first principal component


@dataclass(frozen=True)
class Latents:
    """The latents of the rows of a recording, in its order.

    Args:
        z: Mean latents, shape (N, D).
        sessions: Number of the session of each row, shape (N,).
        held_out: Which rows were not trained on, shape (N,).
        times: In seconds, shape (N,), or None.
    """

    z: Float[np.ndarray, "N D"]
    sessions: Int[np.ndarray, " N"]
    held_out: Bool[np.ndarray, " N"]
    times: Float[np.ndarray, " N"] | None = None

    def held_out_segments(self) -> list[tuple[int, int]]:
        """First and last row of each contiguous segment that is held out."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.held_out.astype(int), [0]])))
        return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


@dataclass(frozen=True)
class LatentPrediction:
    """P(z'|z) of a few latents, over the candidates of a model's bank; see `draw_prediction`.

    Args:
        candidates: z', shape (K, D).
        probability: Of each candidate under each z, shape (A, K).
        z: The latents predicted from, shape (A, D).
        following: The latents that followed, shape (A, D); NaN where they are not known.
        order: How many earlier latents the prior reads, of which z is the last.
    """

    candidates: Float[np.ndarray, "K D"]
    probability: Float[np.ndarray, "A K"]
    z: Float[np.ndarray, "A D"]
    following: Float[np.ndarray, "A D"]
    order: int = 1


def predict_latents(
    estimator: RPMEstimator, latents: Latents, *, following: Float[np.ndarray, "N D"], lag: int | None
) -> LatentPrediction | None:
    """P(z'|z) of three held-out latents, at quantiles of their first principal component.

    Args:
        estimator: Fitted.
        latents: Of its data.
        following: The latents z' that followed each row; NaN where they are not known.
        lag: Rows between those that a prior of several earlier rows reads; None: pairs have no lag.

    Returns:
        The prediction; None where the prior has a density of its own, which needs no candidates, or where each session
        has its own R(z').
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
    chosen = order[[round(share * (len(order) - 1)) for share in _QUANTILES]]
    before = latents.z[chosen[:, None] - steps].reshape(len(chosen), -1)
    candidates, probability = estimator.next_over_bank(before)
    return LatentPrediction(candidates, probability, latents.z[chosen], following[chosen], order=estimator.order_)


def next_latents(latents: Latents, lag: int | None) -> Float[np.ndarray, "N D"]:
    """The latents `lag` rows later in the same session; NaN where there are none, and everywhere for a lag of None."""
    following = np.full_like(latents.z, np.nan)
    if lag is not None:
        rows = np.flatnonzero(latents.sessions[lag:] == latents.sessions[:-lag])
        following[rows] = latents.z[rows + lag]
    return following
