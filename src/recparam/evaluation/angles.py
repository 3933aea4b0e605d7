"""Latents on circles and spheres against true angles and directions: aligned by sign and offset, errors in degrees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment

from recparam.evaluation.arrays import as_array, as_matrix


@dataclass(frozen=True)
class AngleError:
    """Median errors in degrees on the rows that are scored.

    Args:
        median: Of each true angle or direction, shape (K,).
        chance: That of the best constant on the training rows; 90 for angles that are spread evenly.
    """

    median: Float[np.ndarray, " K"]
    chance: Float[np.ndarray, " K"]


def angle_of(z: ArrayLike) -> Float[np.ndarray, "N ..."]:
    """The angle of each pair of columns, atan2(z_2, z_1).

    Args:
        z: Latents, (N, 2 K), of any length.

    Returns:
        Radians from -pi to pi, (N,) for one circle and (N, K) for several.

    Raises:
        ValueError: An odd number of columns, NaN or infinite entries.

    Example:
        >>> angle_of([[1.0, 0.0], [0.0, -1.0]]).round(3).tolist()
        [0.0, -1.571]
    """
    z = _circles("z", z)
    angles = np.arctan2(z[..., 1], z[..., 0])
    return angles[:, 0] if angles.shape[1] == 1 else angles


def angle_error(z_train: ArrayLike, angle_train: ArrayLike, z: ArrayLike, angle: ArrayLike) -> AngleError:
    """The errors of angles that are read from circles without a decoder: a sign and an offset are all that is fitted.

        error = |s atan2(z_2, z_1) + o - angle|,   (s, o) = argmax sum_n cos(s atan2(z_n2, z_n1) + o - angle_n)

    Neither is known to a model that sees no angle. Of several circles each true angle is read from one, assigned one
    to one by the fit on the training rows.

    Args:
        z_train: Latents, (N, 2 K).
        angle_train: True angles in radians, (N,) or (N, J), J <= K.
        z: Latents of the rows that are scored, (M, 2 K).
        angle: Their true angles, (M,) or (M, J).

    Raises:
        ValueError: Shapes that do not belong together, NaN or infinite entries.

    Example:
        >>> true = np.linspace(-3, 3, 50)
        >>> z = np.stack([np.cos(2 - true), np.sin(2 - true)], 1)  # runs the other way, from another zero
        >>> float(angle_error(z[:30], true[:30], z[30:], true[30:]).median[0].round(6))
        0.0
    """
    train, scored = _circles("z_train", z_train), _circles("z", z)
    true_train, true = (_units(name, value) for name, value in (("angle_train", angle_train), ("angle", angle)))
    shapes = [part.shape for part in (train, scored, true_train, true)]
    if shapes[0][0] != shapes[2][0] or shapes[1][0] != shapes[3][0] or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(f"Expected angles for each row of latents of one width; got shapes {shapes}.")
    if shapes[2][1:] != shapes[3][1:] or shapes[2][1] > shapes[0][1]:
        raise ValueError(f"Expected as many angles as circles at most, in both parts; got shapes {shapes}.")
    fits = [
        [orthogonal_procrustes(train[:, k], true_train[:, j]) for k in range(train.shape[1])]
        for j in range(true.shape[1])
    ]
    _, chosen = linear_sum_assignment([[scale for _, scale in row] for row in fits], maximize=True)
    read = np.stack([scored[:, k] @ fits[j][k][0] for j, k in enumerate(chosen)], 1)
    return _errors(read, true, true_train)


def direction_error(z_train: ArrayLike, true_train: ArrayLike, z: ArrayLike, true: ArrayLike) -> AngleError:
    """The error of directions on one sphere, after the rotation or reflection that fits the training rows best.

    Args:
        z_train: Latents, (N, D).
        true_train: True directions, (N, D).
        z: Latents of the rows that are scored, (M, D).
        true: Their true directions, (M, D).

    Raises:
        ValueError: Shapes that do not belong together, NaN or infinite entries.
    """
    train = as_matrix("z_train", z_train)
    width = train.shape[1]
    scored, true_train = as_matrix("z", z, width=width), as_matrix("true_train", true_train, width=width)
    true = as_matrix("true", true, width=width)
    if len(train) != len(true_train) or len(scored) != len(true):
        raise ValueError(
            f"Expected a true direction for each row of latents; got {len(train)} and {len(true_train)} training rows, "
            f"{len(scored)} and {len(true)} others."
        )
    rotation = orthogonal_procrustes(_normalised(train), _normalised(true_train))[0]
    return _errors((scored @ rotation)[:, None], true[:, None], true_train[:, None])


def _errors(
    read: Float[np.ndarray, "M K D"], true: Float[np.ndarray, "M K D"], true_train: Float[np.ndarray, "N K D"]
) -> AngleError:
    constant = np.broadcast_to(_normalised(true_train).mean(0), true.shape)
    return AngleError(*(np.median(_degrees_between(each, true), axis=0) for each in (read, constant)))


def _degrees_between(z: Float[np.ndarray, "... D"], true: Float[np.ndarray, "... D"]) -> Float[np.ndarray, ...]:
    z, true = _normalised(z), _normalised(true)
    # not arccos, which loses half of the digits near zero
    return np.degrees(2 * np.arctan2(np.linalg.norm(z - true, axis=-1), np.linalg.norm(z + true, axis=-1)))


def _normalised(z: Float[np.ndarray, "... D"]) -> Float[np.ndarray, "... D"]:
    length = np.linalg.norm(z, axis=-1, keepdims=True)
    return z / np.where(length > 0, length, 1.0)


def _circles(name: str, value: ArrayLike) -> Float[np.ndarray, "N K 2"]:
    z = as_matrix(name, value)
    if z.shape[1] % 2:
        raise ValueError(f"Expected {name} of an even number of columns, two for each circle; got {z.shape}.")
    return _normalised(z.reshape(len(z), -1, 2))


def _units(name: str, value: ArrayLike) -> Float[np.ndarray, "N J 2"]:
    angles = as_array(name, value)
    if angles.ndim not in (1, 2):
        raise ValueError(f"Expected {name} in radians, of shape (N,) or (N, J); got {angles.shape}.")
    angles = angles.reshape(len(angles), -1)
    return np.stack([np.cos(angles), np.sin(angles)], -1)
