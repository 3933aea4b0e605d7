"""What tests of the estimator share: a walk whose truth is known, and an estimator that is fitted in a second."""

from typing import Any

import numpy as np

import recparam as rp


def reflected_walk(rng: np.random.Generator, rows: int, *, step: float) -> np.ndarray:
    """A walk in the unit square, reflected at its sides, shape (rows, 2)."""
    z = np.zeros((rows, 2))
    for t in range(1, rows):
        z[t] = np.abs(z[t - 1] + step * rng.normal(size=2))
        z[t] = 1 - np.abs(1 - z[t])
    return z


def quick(**settings: Any) -> rp.RPMEstimator:
    """One start of a few steps."""
    return rp.RPMEstimator(**{"lag": 1, "dropout": 0.0, "random_state": 0, "restarts": 1, "batch_size": 128} | settings)
