"""How well latents recover known quantities: linear decoding and one-to-one matching."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LinearRegression

from recparam.evaluation.arrays import as_array, as_matrix, constant_columns, correlations_of, of_one_shape


class LinearDecoder:
    """Least squares with an intercept, from latents to known quantities.

        y_hat = W z + b,    (W, b) = argmin sum_n ||y_n - W z_n - b||^2

    Latents that are constant or linear in one another are allowed: the solution of least norm is taken.

    Attributes:
        weight: ``W``, ``(P, D)``, with y flattened to ``P`` columns; set by `fit`.
        bias: ``b``, ``(P,)``; set by `fit`.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(50, 2))
        >>> bool(np.allclose(LinearDecoder().fit(z, 3 * z + 1).predict(z), 3 * z + 1))
        True
    """

    weight: Float[np.ndarray, "P D"]
    bias: Float[np.ndarray, " P"]

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None

    def fit(self, z: ArrayLike, y: ArrayLike) -> LinearDecoder:
        """Fit to pairs of latents and known quantities.

        Args:
            z: latents, ``(N, D)``.
            y: known quantities, ``(N, ...)``.

        Returns:
            The decoder itself.

        Raises:
            ValueError: shapes that do not belong together, NaN or infinite entries.
        """
        z = as_matrix("z", z)
        y = as_array("y", y)
        if y.ndim == 0 or len(y) != len(z):
            raise ValueError(f"Expected y of shape ({len(z)}, ...), one row per row of z; got {y.shape}.")
        fitted = LinearRegression().fit(z, y.reshape(len(y), -1))
        self.weight, self.bias = np.asarray(fitted.coef_), np.asarray(fitted.intercept_)
        self._shape = y.shape[1:]
        return self

    def predict(self, z: ArrayLike) -> Float[np.ndarray, "N ..."]:
        """Decode latents.

        Args:
            z: latents, ``(N, D)``.

        Returns:
            ``(N, ...)``, shaped and in the unit of the ``y`` of `fit`.

        Raises:
            ValueError: `fit` was not called, another width than in `fit`, NaN or infinite entries.
        """
        if self._shape is None:
            raise ValueError("Expected a fitted decoder; got one without weights. Call fit(z, y) first.")
        z = as_matrix("z", z, width=self.weight.shape[1])
        return (z @ self.weight.T + self.bias).reshape(len(z), *self._shape)


def distance_error(predicted: ArrayLike, true: ArrayLike) -> Float[np.ndarray, " K"]:
    """Mean Euclidean distance between predicted and true places, for each object.

        error_k = 1/N sum_n ||predicted_nk - true_nk||

    Args:
        predicted: ``(N, K, 2)`` in pixels (or any number of coordinates in any unit).
        true: as ``predicted``.

    Returns:
        ``(K,)``, in the unit of the places. All objects weigh the same in the overall error, its mean.

    Raises:
        ValueError: other or different shapes, NaN or infinite entries.
    """
    predicted, true = of_one_shape("predicted", predicted, "true", true)
    if predicted.ndim != 3:
        raise ValueError(
            f"Expected predicted and true of shape (N, objects, coordinates); got {predicted.shape}. "
            "For one object use predicted[:, None]."
        )
    return np.linalg.norm(predicted - true, axis=-1).mean(0)


def r2(predicted: ArrayLike, true: ArrayLike) -> float:
    """Share of the variance explained, R^2, averaged over the outputs.

        1 - sum_n (true_n - predicted_n)^2 / sum_n (true_n - mean true)^2

    An output that is constant in ``true`` counts 1 if it is predicted exactly and 0 otherwise. That is the rule of
    `sklearn.metrics.r2_score`, too, which divides by rounding where the mean of a constant is not exact (of 0.1, for
    instance, -5e33); a label that does not vary in the held-out rows would meet that.

    Args:
        predicted: ``(N, ...)``.
        true: as ``predicted``.

    Returns:
        At most 1; negative if worse than the best constant.

    Raises:
        ValueError: different shapes, NaN or infinite entries.
    """
    predicted, true = of_one_shape("predicted", predicted, "true", true)
    predicted, true = predicted.reshape(len(predicted), -1), true.reshape(len(true), -1)
    residual = ((true - predicted) ** 2).sum(0)
    constant = constant_columns(true)
    total = np.where(constant, 1.0, ((true - true.mean(0)) ** 2).sum(0))
    return float(np.where(constant, np.where(residual == 0, 1.0, 0.0), 1 - residual / total).mean())


def matched_places(z_train: ArrayLike, y_train: ArrayLike, z: ArrayLike) -> Float[np.ndarray, "M K C"]:
    """Places read without a linear decoder: each coordinate from one latent of its own.

    Latents are assigned to coordinates one to one so that the sum of absolute correlations on the training
    data is largest. Each coordinate is then ``scale * latent + shift`` by least squares, fitted on the training
    data; a constant latent predicts the coordinate's mean. Latents beyond the number of coordinates stay unused.

    Args:
        z_train: latents, ``(N, D)``, with ``D`` at least ``K * C``.
        y_train: true places, ``(N, K, C)``; K objects of C coordinates.
        z: latents to read places from, ``(M, D)``.

    Returns:
        ``(M, K, C)``, in the unit of the places.

    Raises:
        ValueError: shapes that do not belong together, too few latents, NaN or infinite entries.
    """
    z_train = as_matrix("z_train", z_train)
    y_train = _places("y_train", y_train, rows=len(z_train))
    z = as_matrix("z", z, width=z_train.shape[1])
    flat = y_train.reshape(len(y_train), -1)
    if z_train.shape[1] < flat.shape[1]:
        raise ValueError(
            f"Expected at least {flat.shape[1]} latents, one per coordinate; got z_train of {z_train.shape}."
        )
    latents, coordinates = linear_sum_assignment(np.abs(correlations_of(z_train, flat)), maximize=True)
    predicted = np.empty((len(z), flat.shape[1]))
    for latent, coordinate in zip(latents, coordinates, strict=True):
        one, y = z_train[:, latent], flat[:, coordinate]
        centred = one - one.mean()
        scale = 0.0 if constant_columns(one[:, None])[0] else centred @ (y - y.mean()) / (centred @ centred)
        predicted[:, coordinate] = y.mean() + scale * (z[:, latent] - one.mean())
    return predicted.reshape(len(z), *y_train.shape[1:])


def matched_error(
    z_train: ArrayLike, y_train: ArrayLike, z_test: ArrayLike, y_test: ArrayLike
) -> Float[np.ndarray, " K"]:
    """Distance error of the places that `matched_places` reads, which has no linear decoder.

    Args:
        z_train: latents, ``(N, D)``, with ``D`` at least ``K * C``.
        y_train: true places, ``(N, K, C)``; K objects of C coordinates.
        z_test: latents of the data scored, ``(M, D)``.
        y_test: true places of the data scored, ``(M, K, C)``.

    Returns:
        ``(K,)``: mean Euclidean distance of each object on the test data, in the unit of the places.

    Raises:
        ValueError: shapes that do not belong together, too few latents, NaN or infinite entries.
    """
    z_train, y_train = as_matrix("z_train", z_train), as_array("y_train", y_train)
    z_test = as_matrix("z_test", z_test, width=z_train.shape[1])
    y_test = _places("y_test", y_test, rows=len(z_test), like=_places("y_train", y_train, rows=len(z_train)))
    return distance_error(matched_places(z_train, y_train, z_test), y_test)


def _places(name: str, y: ArrayLike, *, rows: int, like: np.ndarray | None = None) -> np.ndarray:
    y = as_array(name, y)
    if y.ndim != 3 or len(y) != rows or (like is not None and y.shape[1:] != like.shape[1:]):
        wanted = like.shape[1:] if like is not None else ("objects", "coordinates")
        raise ValueError(f"Expected {name} of shape ({rows}, {wanted[0]}, {wanted[1]}); got {y.shape}.")
    return y


def mcc(z: ArrayLike, y: ArrayLike) -> float:
    """Mean correlation coefficient: the average absolute Pearson correlation of the best one-to-one matching.

    The matching covers the smaller of the two numbers of columns. It is fitted and scored on the same data,
    so unrelated latents score above zero on few rows. A constant column correlates with nothing (0).

    Args:
        z: latents, ``(N, D)``.
        y: true factors, ``(N, ...)``, flattened to columns.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: shapes that do not belong together, fewer than 2 rows, NaN or infinite entries.
    """
    z, y = as_matrix("z", z), as_array("y", y)
    if y.ndim == 0 or len(y) != len(z) or len(z) < 2:
        raise ValueError(f"Expected z and y with the same rows, at least 2; got {z.shape} and {y.shape}.")
    correlations = np.abs(correlations_of(z, y.reshape(len(y), -1)))
    return float(correlations[linear_sum_assignment(correlations, maximize=True)].mean())
