"""What the axes of an array are: declared, or doubted where its numbers look like those of another order."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence

import numpy as np

from recparam.data.clocks import is_clock

_LOOKED_AT = 200  # entries along each axis
_SMOOTH = 0.5  # mean squared step over that of independent numbers
_ROWS = re.compile(r"(time_?)?(frame|sample|bin|step|row)s?", re.IGNORECASE)  # of which coordinates are no seconds
_TRIAL = re.compile(
    r"(trial|session|epoch|episode|run|block|repeat|repetition|presentation|subject|animal)s?([_ ].*)?", re.IGNORECASE
)


class DataWarning(UserWarning):
    """Data may not mean what they are taken for; the text says what is doubtful, and what to do."""


def is_trial(name: object) -> bool:
    """Whether an axis, an index or a column is called trial, session or the like."""
    return isinstance(name, str) and _TRIAL.fullmatch(name) is not None


def axes_of(dims: Sequence[object], *, declared: bool) -> tuple[list[int], int]:
    """The axes of the trials and the axis of time.

    Args:
        dims: Name of each axis.
        declared: Whether the names were chosen to say which is time; otherwise it may be the first that is no trial.

    Raises:
        ValueError: No axis, or several, that may be time.
    """
    trials = [axis for axis, name in enumerate(dims) if is_trial(name)]
    others = [axis for axis in range(len(dims)) if axis not in trials]
    found = [axis for axis in others if is_clock(dims[axis])]
    found = found or [axis for axis in others if isinstance(dims[axis], str) and _ROWS.fullmatch(str(dims[axis]))]
    found = found or ([] if declared else others[:1])
    if len(found) != 1:
        raise ValueError(
            f"Expected dims with one axis called time, such as ('trial', 'time', 'channel'); got {tuple(dims)}."
        )
    return trials, found[0]


def warn_of_axes(array: np.ndarray, *, stacklevel: int) -> None:
    """Warn of an array whose rows look like channels, or whose matrices look like trials; `uint8` are grey frames.

    Args:
        array: Numbers (N, ...), of which some are looked at.
        stacklevel: As in `warnings.warn`.
    """
    doubt = _transposed(array) if array.ndim == 2 else _trials(array) if array.ndim == 3 else None
    if doubt:
        warnings.warn(doubt, DataWarning, stacklevel=stacklevel + 1)


def _transposed(array: np.ndarray) -> str | None:
    rows, columns = array.shape
    if columns <= rows or rows < 2 or columns < 10:
        return None
    down, along = _steps(_some(array))
    if not (along < _SMOOTH / 2 and down > 2 * along and down > _SMOOTH):
        return None
    return (
        f"Data of shape {array.shape} change smoothly along their rows and not from row to row: rows look like "
        "channels, columns like times. If so, give data.T, or Recording.of(data, dims=('channel', 'time')). On the "
        "command line write --dims channel,time."
    )


def _trials(array: np.ndarray) -> str | None:
    if array.dtype.kind == "b" or array.dtype == np.uint8 or min(array.shape[:2]) < 2:
        return None
    some = _some(array)
    if not some.size or some.min() == some.max() or np.array_equal(some[1:, :-1], some[:-1, 1:]):  # windows
        return None
    if some.min() >= 0 and some.max() <= 1 and (some % 1).any():  # brightness
        return None
    first, second, third = _steps(some)
    if first < _SMOOTH and not second < _SMOOTH <= third:
        return None
    return (
        f"Data of shape {array.shape} are taken as frames (time, height, width), and may be trials. Say which: "
        "Recording.of(data, dims=('trial', 'time', 'channel')), or dims=('time', 'height', 'width'). On the command "
        "line write --dims trial,time,channel."
    )


def _some(array: np.ndarray) -> np.ndarray:
    """A block from the middle, in double precision, without what is not finite."""
    starts = [max(0, (size - _LOOKED_AT) // 2) for size in array.shape]
    block = np.asarray(array[tuple(slice(start, start + _LOOKED_AT) for start in starts)], dtype=np.float64)
    return np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)


def _steps(block: np.ndarray) -> list[float]:
    """The mean squared step along each axis over that of independent numbers of the same variance."""
    variance = float(block.var())
    if not variance > 0:
        return [math.inf] * block.ndim
    return [
        float(np.square(np.diff(block, axis=axis)).mean()) / (2 * variance) if block.shape[axis] > 1 else math.inf
        for axis in range(block.ndim)
    ]
