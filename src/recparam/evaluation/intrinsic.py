"""The intrinsic dimension of points: how many numbers say where on their own set they are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.neighbors import NearestNeighbors

from recparam.utils.checks import check_count

_ROWS = 1000


def intrinsic_dimension(z: Float[np.ndarray, "N D"], *, neighbours: int = 20) -> float:
    """The intrinsic dimension of points, such as latents, by maximum likelihood.

    Near a point, the number of others within a distance r grows as r^d. With T_j the distance to the jth neighbour,

        1 / d = mean over points and j < k of log(T_k / T_j)

    At most 1,000 points are used, evenly spaced in their order: neighbours in time lie along a path, which has one
    dimension. Noise fills all dimensions below its own size and raises the estimate; more neighbours look beyond it.
    Edges, and many neighbours among few points, lower it. A circle has one dimension and needs two latents.

    Args:
        z: Points in order of time, (N, D); rows with NaN or infinity are left out.
        neighbours: k, at least 3.

    Returns:
        A number from 0 to about D; NaN for fewer than 4 k different points.

    Raises:
        ValueError: Fewer than 3 neighbours.

    References:
        Levina & Bickel (2004), Maximum likelihood estimation of intrinsic dimension; MacKay & Ghahramani (2005),
        Comments on it, for the mean of inverses.

    Example:
        >>> plane = np.random.default_rng(0).uniform(size=(1000, 2))
        >>> round(intrinsic_dimension(plane @ np.random.default_rng(1).normal(size=(2, 6))), 1)
        1.9
    """
    check_count("neighbours", neighbours, least=3)
    points = np.asarray(z, dtype=np.float64)
    points = points[np.isfinite(points).all(1)]
    points = points[np.sort(np.unique(points, axis=0, return_index=True)[1])]
    if len(points) < 4 * neighbours:
        return float("nan")
    points = points[np.unique(np.linspace(0, len(points) - 1, min(len(points), _ROWS)).round().astype(int))]
    near = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors()[0]
    logs = np.log(near[:, -1:] / near[:, :-1])
    return float((neighbours - 1) * len(points) / logs.sum())
