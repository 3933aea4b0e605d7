"""Arrays that are scored, checked and named in what goes wrong."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from recparam.utils.checks import check_unmasked

Array = Float[np.ndarray, "..."]


def as_array(name: str, value: object) -> Array:
    """The value in double precision; a ValueError that names it where it is empty or not finite."""
    check_unmasked(name, value)
    array = np.asarray(value, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"Expected {name} with at least one entry; got shape {array.shape}.")
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise ValueError(f"Expected finite values in {name}; got {bad} NaN or infinite entries. Remove them.")
    return array


def as_matrix(name: str, value: object, *, width: int | None = None) -> Float[np.ndarray, "N D"]:
    """The same for a matrix, of a fixed width if there is one."""
    array = as_array(name, value)
    if array.ndim != 2 or (width is not None and array.shape[1] != width):
        raise ValueError(f"Expected {name} of shape (N, {'D' if width is None else width}); got {array.shape}.")
    return array


def of_one_shape(name: str, value: object, other: str, other_value: object) -> tuple[Array, Array]:
    """The same for two arrays of one shape."""
    one, two = as_array(name, value), as_array(other, other_value)
    if one.shape != two.shape or one.ndim == 0:
        raise ValueError(f"Expected {name} and {other} of one shape (N, ...); got {one.shape} and {two.shape}.")
    return one, two


def constant_columns(columns: Float[np.ndarray, "N D"]) -> np.ndarray:
    """Columns that spread no more than rounding: dividing by such a spread would make numbers of noise."""
    size = np.abs(columns).max(0)
    return np.ptp(columns, axis=0) <= 8 * np.finfo(np.float64).eps * size


def correlations_of(z: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "D P"]:
    """Pearson correlations; 0 where either column is constant."""
    scaled: list[np.ndarray] = []
    for columns in (z, y):
        centred = columns - columns.mean(0)
        norm = np.linalg.norm(centred, axis=0)
        constant = constant_columns(columns) | (norm == 0)
        scaled.append(np.where(constant, 0.0, centred / np.where(constant, 1.0, norm)))
    return np.clip(scaled[0].T @ scaled[1], -1.0, 1.0)
