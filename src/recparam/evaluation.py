"""How well latents recover known quantities, and predictions their own probabilities.

Linear decoding, one-to-one matching, intervals over seeds: arrays in, numbers out. Calibration takes a prediction,
retrieval the places of partners in a matching; nothing here knows a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import beta
from scipy.stats import t as student_t
from sklearn.linear_model import LinearRegression
from torch import Tensor

from recparam.ops import Places
from recparam.ops.checks import is_whole
from recparam.prediction import Prediction

__all__ = [
    "Calibration",
    "Interval",
    "LinearDecoder",
    "Retrieval",
    "calibration",
    "distance_error",
    "matched_error",
    "mcc",
    "mean_interval",
    "r2",
    "retrieval",
]

Array = Float[np.ndarray, "..."]


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
        z = _matrix("z", z)
        y = _array("y", y)
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
        z = _matrix("z", z, width=self.weight.shape[1])
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
    predicted, true = _same("predicted", predicted, "true", true)
    if predicted.ndim != 3:
        raise ValueError(
            f"Expected predicted and true of shape (N, objects, coordinates); got {predicted.shape}. "
            "For one object use predicted[:, None]."
        )
    return np.linalg.norm(predicted - true, axis=-1).mean(0)


def r2(predicted: ArrayLike, true: ArrayLike) -> float:
    """Share of the variance explained, R^2, averaged over the outputs.

        1 - sum_n (true_n - predicted_n)^2 / sum_n (true_n - mean true)^2

    An output that is constant in ``true`` counts 1 if it is predicted exactly and 0 otherwise.

    Args:
        predicted: ``(N, ...)``.
        true: as ``predicted``.

    Returns:
        At most 1; negative if worse than the best constant.

    Raises:
        ValueError: different shapes, NaN or infinite entries.
    """
    predicted, true = _same("predicted", predicted, "true", true)
    predicted, true = predicted.reshape(len(predicted), -1), true.reshape(len(true), -1)
    residual = ((true - predicted) ** 2).sum(0)
    constant = _constant(true)
    total = np.where(constant, 1.0, ((true - true.mean(0)) ** 2).sum(0))
    return float(np.where(constant, np.where(residual == 0, 1.0, 0.0), 1 - residual / total).mean())


def matched_error(
    z_train: ArrayLike, y_train: ArrayLike, z_test: ArrayLike, y_test: ArrayLike
) -> Float[np.ndarray, " K"]:
    """Distance error without a linear decoder: each coordinate is read from one latent of its own.

    Latents are assigned to coordinates one to one so that the sum of absolute correlations on the training
    data is largest. Each coordinate is then ``scale * latent + shift`` by least squares, fitted on the training
    data; a constant latent predicts the coordinate's mean. Latents beyond the number of coordinates stay unused.

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
    z_train, y_train = _matrix("z_train", z_train), _array("y_train", y_train)
    z_test, y_test = _matrix("z_test", z_test, width=z_train.shape[1]), _array("y_test", y_test)
    for name, y, z in (("y_train", y_train, z_train), ("y_test", y_test, z_test)):
        if y.ndim != 3 or len(y) != len(z) or y.shape[1:] != y_train.shape[1:]:
            wanted = y_train.shape[1:] if y_train.ndim == 3 else ("objects", "coordinates")
            raise ValueError(f"Expected {name} of shape ({len(z)}, {wanted[0]}, {wanted[1]}); got {y.shape}.")
    flat = y_train.reshape(len(y_train), -1)
    if z_train.shape[1] < flat.shape[1]:
        raise ValueError(
            f"Expected at least {flat.shape[1]} latents, one per coordinate; got z_train of {z_train.shape}."
        )
    latents, coordinates = linear_sum_assignment(np.abs(_correlations(z_train, flat)), maximize=True)
    predicted = np.empty((len(y_test), flat.shape[1]))
    for latent, coordinate in zip(latents, coordinates, strict=True):
        z, y = z_train[:, latent], flat[:, coordinate]
        centred = z - z.mean()
        scale = 0.0 if _constant(z[:, None])[0] else centred @ (y - y.mean()) / (centred @ centred)
        predicted[:, coordinate] = y.mean() + scale * (z_test[:, latent] - z.mean())
    return distance_error(predicted.reshape(y_test.shape), y_test)


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
    z, y = _matrix("z", z), _array("y", y)
    if y.ndim == 0 or len(y) != len(z) or len(z) < 2:
        raise ValueError(f"Expected z and y with the same rows, at least 2; got {z.shape} and {y.shape}.")
    correlations = np.abs(_correlations(z, y.reshape(len(y), -1)))
    return float(correlations[linear_sum_assignment(correlations, maximize=True)].mean())


class Interval(NamedTuple):
    """A mean with its confidence interval; ``low`` and ``high`` are None where a single value has none."""

    mean: float
    low: float | None
    high: float | None


def mean_interval(values: Sequence[float] | Num[np.ndarray, " n"], level: float = 0.95) -> Interval:
    """Mean over independent runs with Student's t interval.

        mean +- t_{n-1}((1 + level) / 2) s / sqrt(n)

    Args:
        values: one number per run, ``(n,)``.
        level: probability that the interval covers the true mean, for normal values.

    Returns:
        ``(mean, low, high)``, in the unit of the values; low and high are None for a single value.

    Raises:
        ValueError: no values, NaN or infinite values, a level outside (0, 1).
    """
    x = _array("values", values)
    if x.ndim != 1:
        raise ValueError(f"Expected values of shape (n,), one per run; got {x.shape}.")
    if not 0 < level < 1:
        raise ValueError(f"Expected level between 0 and 1, such as 0.95; got {level!r}.")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, None, None)
    half = float(student_t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


class Calibration(NamedTuple):
    """Coverage of credible sets, per level.

    Args:
        levels: Nominal probabilities.
        coverage: Share of the targets in their sets, with its binomial interval; ideally the level.
        gap: Mean over levels of |coverage - level|; ideally zero.
        expected_gap: What the gap would be on average by chance alone, from as many independent targets of a
            prediction that is calibrated (normal approximation).
        shares: Mean R(z') of the sets, their size; the level for a prediction that ignores z, which is calibrated too
            if R is. Smaller is sharper.
        count: Number of targets.
    """

    levels: tuple[float, ...]
    coverage: tuple[Interval, ...]
    gap: float
    expected_gap: float
    shares: tuple[float, ...]
    count: int


def calibration(
    prediction: Prediction,
    targets: Int[Tensor, " _A"] | Float[Tensor, "_A _E"],
    *,
    levels: Sequence[float] = (0.5, 0.8, 0.95),
    confidence: float = 0.95,
) -> Calibration:
    """How often what followed was in the credible set, against the set's probability.

    Candidates as dense as the target are counted in the proportion that the level takes of them, so that coverage
    has the level as its mean for few candidates too. Intervals (Clopper-Pearson) take the rows to be independent;
    those of neighbours in a series are too narrow.

    Args:
        prediction: P(z'|z) for A rows, of a model not fitted to the targets.
        targets: What followed each row: latents z', shape (A, D'), or indices of candidates, shape (A,). Candidates
            should not hold the targets where those are scored as latents not seen before.
        levels: Nominal probabilities between 0 and 1.
        confidence: Probability that an interval covers the true coverage.

    Returns:
        Coverage per level, the mean absolute gap, and what each would be ideally and by chance.

    Raises:
        ValueError: No levels, a level or confidence outside (0, 1), or targets that do not fit the prediction.
    """
    if not isinstance(prediction, Prediction):
        raise ValueError(f"Expected a Prediction, as of model.predictive(x, x_prime); got {prediction!r}.")
    wanted = _array("levels", levels)
    if wanted.ndim != 1 or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"Expected levels between 0 and 1, such as (0.5, 0.8, 0.95); got {levels!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"Expected confidence between 0 and 1, such as 0.95; got {confidence!r}.")
    above, tied = (part.double().cpu().numpy() for part in prediction.ranks(targets))
    count, tail = len(above), (1 - confidence) / 2
    coverage: list[Interval] = []
    for level in wanted:
        within = np.where(tied > 0, (level - above) / np.where(tied > 0, tied, 1), above < level)
        hits = float(np.clip(within, 0, 1).sum())
        low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, count - hits + 1))
        high = 1.0 if hits >= count else float(beta.ppf(1 - tail, hits + 1, count - hits))
        coverage.append(Interval(hits / count, low, high))
    gaps = [abs(c.mean - level) for c, level in zip(coverage, wanted, strict=True)]
    return Calibration(
        levels=tuple(float(level) for level in wanted),
        coverage=tuple(coverage),
        gap=float(np.mean(gaps)),
        expected_gap=float(np.sqrt(2 / math.pi * wanted * (1 - wanted) / count).mean()),
        shares=tuple(float(prediction.credible_set(float(level)).share.double().mean()) for level in wanted),
        count=count,
    )


class Retrieval(NamedTuple):
    """How often a row's partner is among the best candidates, beside what a blind guess would reach.

    Args:
        at: Numbers k of candidates.
        recall: Share of the rows whose partner is among the k best.
        chance: The same for candidates in random order, k / size.
        median_rank: Median place of the partner, 1 for the best; half the size and a half by chance.
        chance_rank: (size + 1) / 2.
        mean_reciprocal_rank: Mean of one over the partner's place.
        size: Number of candidates.
        count: Number of rows.
    """

    at: tuple[int, ...]
    recall: tuple[float, ...]
    chance: tuple[float, ...]
    median_rank: float
    chance_rank: float
    mean_reciprocal_rank: float
    size: int
    count: int


def retrieval(places: Places, *, at: Sequence[int] = (1, 5, 10)) -> Retrieval:
    """Recall among the best candidates, and the partner's place, with chance beside them.

    Candidates that tie with the partner are taken in random order, and each metric is the expectation over it: an
    encoder that gives all rows one latent comes out at chance, neither perfect nor hopeless. The median is that of
    expected places.

    Args:
        places: Of partners, as of `model.match(x, x_prime).places()`.
        at: Numbers k of candidates; a k above their number gives a recall of one.

    Returns:
        Recall, median place and mean reciprocal place, with the chance level of the first two.

    Raises:
        ValueError: places of another type, or `at` that is not whole numbers of at least one.

    Example:
        >>> import torch
        >>> from recparam.ops import Places
        >>> retrieval(Places(torch.tensor([0, 3]), torch.tensor([1, 1]), 100), at=(1, 5)).recall
        (0.5, 1.0)
    """
    if not isinstance(places, Places):
        raise ValueError(f"Expected places as of model.match(x, x_prime).places(); got {places!r}.")
    ks = torch.as_tensor(at)
    if ks.ndim != 1 or not len(ks) or not is_whole(ks) or int(ks.min()) < 1:
        raise ValueError(f"Expected at as whole numbers of at least 1, such as (1, 5, 10); got {at!r}.")
    above, tied = (part.double().cpu().numpy() for part in places[:2])
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int((above + tied).max()) + 1))])
    reciprocal = (harmonic[(above + tied).astype(int)] - harmonic[above.astype(int)]) / tied
    return Retrieval(
        at=tuple(int(k) for k in at),
        recall=tuple(float(np.clip((k - above) / tied, 0, 1).mean()) for k in at),
        chance=tuple(min(k / places.size, 1.0) for k in at),
        median_rank=float(np.median(above + (tied + 1) / 2)),
        chance_rank=(places.size + 1) / 2,
        mean_reciprocal_rank=float(reciprocal.mean()),
        size=places.size,
        count=len(above),
    )


def _array(name: str, value: object) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"Expected {name} with at least one entry; got shape {array.shape}.")
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise ValueError(f"Expected finite values in {name}; got {bad} NaN or infinite entries. Remove them.")
    return array


def _matrix(name: str, value: object, *, width: int | None = None) -> Float[np.ndarray, "N D"]:
    array = _array(name, value)
    if array.ndim != 2 or (width is not None and array.shape[1] != width):
        raise ValueError(f"Expected {name} of shape (N, {'D' if width is None else width}); got {array.shape}.")
    return array


def _same(name: str, value: object, other: str, other_value: object) -> tuple[Array, Array]:
    one, two = _array(name, value), _array(other, other_value)
    if one.shape != two.shape or one.ndim == 0:
        raise ValueError(f"Expected {name} and {other} of one shape (N, ...); got {one.shape} and {two.shape}.")
    return one, two


def _constant(columns: Float[np.ndarray, "N D"]) -> np.ndarray:
    """Columns that spread no more than rounding: dividing by such a spread would make numbers of noise."""
    size = np.abs(columns).max(0)
    return np.ptp(columns, axis=0) <= 8 * np.finfo(np.float64).eps * size


def _correlations(z: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "D P"]:
    """Pearson correlations; 0 where either column is constant."""
    scaled: list[np.ndarray] = []
    for columns in (z, y):
        centred = columns - columns.mean(0)
        norm = np.linalg.norm(centred, axis=0)
        constant = _constant(columns) | (norm == 0)
        scaled.append(np.where(constant, 0.0, centred / np.where(constant, 1.0, norm)))
    return np.clip(scaled[0].T @ scaled[1], -1.0, 1.0)
