"""Recordings whose rows are windows: what was observed shortly before and after each row, too."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from recparam.data.recording import Recording
from recparam.data.segments import segment_ends, segments
from recparam.utils.checks import check_count


class Windowed(Recording):
    """A recording whose row t is the window of rows t - before to t + after of another; make it with `windowed`.

    Args:
        recording: Vectors.
        before: Rows before each row.
        after: Rows after it.
        parted: Whether pairs read of the window of x its past alone, and of that of x' its future: rows t - before to
            t, and t' + after back to t', the row itself last. They then share no row, however short the lag.
    """

    def __init__(self, recording: Recording, *, before: int, after: int, parted: bool = False) -> None:
        self.parted = parted
        segment = segments(recording, None)[0]
        starts, ends = segment_ends(segment)
        self.double = recording.double
        self._rows, self._steps, self.overlap = recording, np.arange(-before, after + 1), before + after
        self._first, self._last = starts[segment], ends[segment] - 1
        observed = recording.observed
        if observed is not None:
            missed = np.r_[0, np.cumsum(~observed)]
            here = np.arange(len(recording))
            low, high = np.maximum(here - before, self._first), np.minimum(here + after, self._last)
            observed = missed[high + 1] == missed[low]
        super().__init__(
            recording._blocks,
            sessions=recording.sessions,
            session_names=recording.session_names,
            times=recording.times,
            origin=recording.origin,
            observed=observed,
            notes=(*recording.notes, f"Each row is a window of {before} rows before it to {after} after it."),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (N, W, D)."""
        return (len(self._rows), len(self._steps), *self._rows.shape[1:])

    def __getitem__(self, rows: slice | Int[np.ndarray, " rows"] | Bool[np.ndarray, " N"]) -> Shaped[np.ndarray, ...]:
        """The windows of a slice, of indices or of a mask, as a new array."""
        return self._around(rows, self._steps)

    def as_x(self, rows: Int[np.ndarray, " rows"] | slice) -> Shaped[np.ndarray, ...]:
        """The windows, or where they are parted their past, the row itself last."""
        return self._around(rows, self._steps[self._steps <= 0] if self.parted else self._steps)

    def as_x_prime(self, rows: Int[np.ndarray, " rows"] | slice) -> Shaped[np.ndarray, ...]:
        """The windows, or where they are parted their future, the row itself last."""
        return self._around(rows, self._steps[self._steps >= 0][::-1] if self.parted else self._steps)

    def _around(self, rows: Any, steps: Int[np.ndarray, " steps"]) -> Shaped[np.ndarray, ...]:
        index = np.arange(len(self))[rows]
        window = (index[:, None] + steps).clip(self._first[index, None], self._last[index, None])
        return self._rows[window.ravel()].reshape(len(index), len(steps), *self.shape[2:])

    def constant_columns(self) -> list[str]:
        """Those of the rows."""
        return self._rows.constant_columns()

    def clock_columns(self) -> list[str]:
        """Those of the rows."""
        return self._rows.clock_columns()


def centred(recording: Recording, window: int, *, parted: bool = False) -> Recording:
    """The same rows, each in the middle of so many, an odd number; the recording itself for 1. See `windowed`.

    Args:
        recording: Vectors, (N, D).
        window: Rows.
        parted: As of `Windowed`.

    Raises:
        ValueError: An even number, or rows that windows cannot be made of.
    """
    check_count("window", window)
    if window % 2 == 0:
        raise ValueError(f"Expected window as an odd number of rows, with one in the middle; got {window}.")
    if window == 1:
        return recording
    return windowed(recording, before=window // 2, after=window // 2, parted=parted)


def windowed(recording: Recording, *, before: int, after: int = 0, parted: bool = False) -> Windowed:
    """The same rows, with those shortly before and after it, which the estimator encodes by convolutions over time.

    Windows are formed where they are read, and never reach across the end of a session or a gap in time: there the
    session's first or last row is repeated. A window that holds a row which was not observed is in no pair.

    The windows of x and x' share rows where the lag is shorter than the window. An encoder may then find the noise that
    both hold in place of what lasts; pairs with a lag of at least before + after + 1 rows leave no such way.

    Args:
        recording: Vectors, (N, D).
        before: Rows before each row, 0 or more.
        after: Rows after it; 0: only the past is used.
        parted: Whether the pairs read of the window of x its past, and of that of x' its future, which share no row.

    Returns:
        A recording of shape (N, before + 1 + after, D), with the same sessions and times.

    Raises:
        ValueError: Rows that are no vectors, have single values missing or channels of their session's own, or a
            negative number of rows.

    Example:
        >>> import numpy as np
        >>> from recparam.data.recording import Recording
        >>> from recparam.data.windows import windowed
        >>> windowed(Recording.of(np.arange(4.0)[:, None]), before=2)[:][..., 0].tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    """
    check_count("before", before, least=0)
    check_count("after", after, least=0)
    if len(recording.shape) != 2:
        raise ValueError(
            f"Expected a recording of vectors, (N, D), for windows; got shape {recording.shape}. Flatten its rows."
        )
    if recording.row_shapes is not None:
        raise ValueError("Expected a recording whose sessions share their columns, for windows; got own channels.")
    if recording.known is not None:
        raise ValueError(
            "Expected a recording whose mask is of whole rows, for windows; got one with single values missing. Impute "
            "them, or mask their rows."
        )
    return Windowed(recording, before=before, after=after, parted=parted)
