"""Values with a clock of their own, such as a position, brought to the times of a recording."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from recparam.data.axes import DataWarning
from recparam.data.checks import array_and_names
from recparam.data.containers import as_clock
from recparam.data.recording import Recording
from recparam.data.segments import segment_ends, segments
from recparam.utils.checks import check_positive

_GAP = 1.5  # median steps
_SLACK = 1e-6  # of a step: what rounding of the times may add
HOW = ("mean", "linear", "nearest")


def on_times(
    values: Any,
    times: Any,
    recording: Recording,
    *,
    how: str = "mean",
    period: float | int | None = None,
    max_gap: float | int | None = None,
) -> Float[np.ndarray, "N ..."]:
    """Values that were observed at times of their own, at the times of the rows of a recording; NaN where none is near.

    "mean" is that of the values from half a step before a row's time to half a step after it, which is the bin that
    `bin_spikes` counted in: for values that come faster than rows. "linear" interpolates between the two values next to
    a row's time, and "nearest" takes the nearer one: for values that come slower. Nothing reaches across a gap in the
    values or in the recording, the end of a session or a value that is NaN.

    Args:
        values: Numbers (M,) or (M, ...), or a list of such arrays, one for each session of the recording.
        times: When each was observed, (M,), increasing: on the clock of the recording, in seconds, or as dates where
            the recording has those; or a list with one array per session, whose clocks may start anew.
        recording: With times.
        how: "mean", "linear" or "nearest".
        period: Of a circular variable, such as 360 or 2 pi. Its means and what lies between two values are taken on the
            circle, and are from -period / 2 where a value is negative, otherwise from 0.
        max_gap: Seconds between neighbouring values beyond which there is a gap; None: 1.5 times their median step.
            The nearest value is at most half of it away. "mean" has no use for it.

    Returns:
        Shape (N, ...), double precision, a row for each of the recording.

    Raises:
        ValueError: A recording without times, values without one time each, times that do not increase, or numbers of
            sessions that differ.

    Warns:
        DataWarning: Means of values that come more slowly than rows.

    Example:
        >>> import numpy as np
        >>> from recparam.data.grids import on_times
        >>> from recparam.data.spikes import bin_spikes
        >>> counts = bin_spikes([[0.1, 0.7, 2.9]], width=1, start=0, stop=3)
        >>> on_times([0.0, 1.0, 2.0, 3.0], [0.2, 0.4, 1.1, 1.3], counts).tolist()
        [0.5, 2.5, nan]
        >>> on_times([350.0, 10.0], [0, 1], counts, how="linear", period=360)[:1].tolist()
        [0.0]
    """
    if how not in HOW:
        raise ValueError(f"Expected how as one of {', '.join(HOW)}; got {how!r}.")
    for name, value in (("period", period), ("max_gap", max_gap)):
        if value is not None:
            check_positive(name, value)
    if recording.times is None:
        raise ValueError("Expected a recording with times; got none. Give times= to Recording.of.")
    several = isinstance(times, list | tuple) and len(times) > 0 and all(np.ndim(own) == 1 for own in times)
    sessions = int(recording.sessions[-1]) + 1
    if several and not len(values) == len(times) == sessions:
        raise ValueError(
            f"Expected values and times of {sessions} sessions, those of the recording; got {len(values)} and "
            f"{len(times)}."
        )
    parts = list(zip(values, times, strict=True)) if several else [(values, times)]
    known = [_known(*part, recording) for part in parts]
    found = np.full((len(recording), *known[0][0].shape[1:]), np.nan)
    segment, step = segments(recording, None)
    steps = np.broadcast_to(step, len(recording))  # of each session
    if how == "mean":
        _check_bins(float(steps.min()), [apart for *_, apart in known])
    for start, end in zip(*segment_ends(segment), strict=True):
        own, clock, apart = known[int(recording.sessions[start]) if several else 0]
        rows, step = slice(start, end), float(steps[start])
        gap = _GAP * apart if max_gap is None else float(max_gap)
        found[rows] = _at(own, clock, recording.times[rows], step, how=how, period=period, gap=gap)
    if period is None:
        return found
    low = -period / 2 if any((own < 0).any() for own, *_ in known) else 0.0
    wrapped = low + np.mod(found - low, period)
    return np.where(wrapped >= low + period, low, wrapped)  # rounding may reach the upper end


def resample(
    recording: Recording,
    *,
    like: Recording,
    how: str = "mean",
    period: float | int | None = None,
    max_gap: float | int | None = None,
) -> Recording:
    """A recording at the times of another, so that `aligned` can pair them: row i of one goes with row i of the other.

    Rows without a value near them are masked, as single values are where only some are missing.

    Args:
        recording: With times, of one session on the clock of `like`, or of as many sessions.
        like: The recording whose times, sessions and number of rows are wanted.
        how: See `on_times`.
        period: See `on_times`.
        max_gap: See `on_times`.

    Returns:
        The recording, in memory.

    Raises:
        ValueError: See `on_times`, or no row is near any of the other recording.

    Example:
        >>> import numpy as np
        >>> from recparam.data.grids import resample
        >>> from recparam.data.pairs import aligned
        >>> from recparam.data.recording import Recording
        >>> neurons = Recording.of(np.zeros((50, 9)), times=0.1 * np.arange(50))
        >>> pose = Recording.of(np.zeros((150, 4)), times=1 + np.arange(150) / 30)
        >>> len(aligned(neurons, resample(pose, like=neurons)))
        40
    """
    if recording.times is None:
        raise ValueError("Expected recordings with times; got none. Give times= to Recording.of.")
    if recording.row_shapes or like.row_shapes:
        raise ValueError("Expected sessions that share their columns; got own channels. Resample one at a time.")
    values = recording[:].astype(np.float64)
    values[~recording.usable] = np.nan
    times = recording.times
    if recording.origin is not None and like.origin is not None:
        times = times + float((recording.origin - like.origin) / np.timedelta64(1, "s"))
    cuts = np.flatnonzero(np.diff(recording.sessions)) + 1
    several = len(cuts) > 0 or like.sessions[-1] > 0 and recording.sessions[-1] == like.sessions[-1]
    given: tuple[Any, Any] = (np.split(values, cuts), np.split(times, cuts)) if several else (values, times)
    found = on_times(*given, like, how=how, period=period, max_gap=max_gap)
    known = ~np.isnan(found)
    usable = np.asarray(known.reshape(len(found), -1).any(1))
    if not usable.any():
        raise ValueError(
            f"Expected recordings that overlap in time; got {times.min():g} to {times.max():g} s and "
            f"{like.times.min() if like.times is not None else 0:g} to "
            f"{like.times.max() if like.times is not None else 0:g} s, which share no row. Bring both to one clock."
        )
    whole = how == "nearest" and recording.dtype.kind in "biu"  # frames stay bytes
    found = np.nan_to_num(found) if whole else found
    return Recording(
        [found.astype(recording.dtype if whole else np.result_type(recording.dtype, np.float32))],
        sessions=like.sessions,
        session_names=like.session_names,
        times=like.times,
        origin=like.origin,
        observed=None if usable.all() else usable,
        known=None if known[usable].all() else known,
        names=recording.names,
        notes=(*recording.notes, f"Brought to the times of another recording, {how}."),
    )


def _known(
    values: Any, times: Any, recording: Recording
) -> tuple[Float[np.ndarray, "M ..."], Float[np.ndarray, " M"], float]:
    """Values and their times, checked, on the clock of the recording, and the median step of these in seconds."""
    array = np.asarray(values)
    array = array_and_names(array[:, None] if array.ndim == 1 else array, "values")[0].reshape(array.shape)
    clock = as_clock(times)
    if clock.dtype.kind == "M":
        if recording.origin is None:
            raise ValueError("Expected times in seconds, as those of the recording; got dates. Give both dates.")
        clock = (clock - recording.origin) / np.timedelta64(1, "s")
    clock = clock.astype(np.float64)
    if clock.shape != (len(array),):
        raise ValueError(f"Expected times of shape ({len(array)},), one for each value; got {clock.shape}.")
    if not np.isfinite(clock).all() or (np.diff(clock) <= 0).any():
        raise ValueError("Expected finite times that increase, of values; got others. Sort both, and drop copies.")
    return array.astype(np.float64), clock, float(np.median(np.diff(clock))) if len(clock) > 1 else 0.0


def _check_bins(step: float, apart: list[float]) -> None:
    """That rows have bins, with a warning where values come too slowly to be in each."""
    if not step > 0:
        raise ValueError("Expected sessions of two rows or more for how='mean', which tell the bin; got one each.")
    if min(apart) > step * (1 + _SLACK):
        warnings.warn(
            f"Values come every {min(apart):.3g} s and rows every {step:.3g} s, so that most bins hold none and are "
            "NaN. Use how='linear' or how='nearest'.",
            DataWarning,
            stacklevel=3,
        )


def _at(
    values: Float[np.ndarray, "M ..."],
    clock: Float[np.ndarray, " M"],
    times: Float[np.ndarray, " n"],
    step: float,
    *,
    how: str,
    period: float | int | None,
    gap: float,
) -> Float[np.ndarray, "n ..."]:
    """Values at the times of rows without a gap between them, a median step of the recording apart.

    Neighbouring values further apart than `gap` seconds have a gap between them.
    """
    if how == "mean":
        edges = np.r_[times[0] - step / 2, (times[1:] + times[:-1]) / 2, times[-1] + step / 2]
        cuts = np.searchsorted(clock, edges - _SLACK * step)
        return _means(values[cuts[0] : cuts[-1]], cuts - cuts[0], period)
    gap *= 1 + _SLACK
    right = np.searchsorted(clock, times).clip(1, max(len(clock) - 1, 1)).clip(max=len(clock) - 1)
    left = np.maximum(right - 1, 0)
    if how == "nearest" or len(clock) < 2:
        nearest = np.where(np.abs(times - clock[left]) <= np.abs(clock[right] - times), left, right)
        return _where(np.abs(clock[nearest] - times) <= gap / 2, values[nearest])
    share = ((times - clock[left]) / (clock[right] - clock[left])).reshape(-1, *[1] * (values.ndim - 1))
    share = np.where(np.abs(share - np.round(share)) < _SLACK, np.round(share), share)
    change = values[right] - values[left]
    if period is not None:
        change = (change + period / 2) % period - period / 2
    # A row at the time of a value is that value, also where the other one is missing.
    between = np.where(share == 0, values[left], np.where(share == 1, values[right], values[left] + share * change))
    flat = share.ravel()
    return _where((flat == 0) | (flat == 1) | ((flat > 0) & (flat < 1) & (clock[right] - clock[left] <= gap)), between)


def _where(near: Shaped[np.ndarray, " n"], values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    return np.where(near.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)


def _means(
    values: Float[np.ndarray, "M ..."], cuts: Int[np.ndarray, " edges"], period: float | int | None
) -> Float[np.ndarray, "n ..."]:
    """The means of the values between each two cuts, without those that are NaN."""
    known = ~np.isnan(values)
    if period is not None:
        turn = 2 * np.pi / period
        sums = _sums(np.where(known, np.exp(1j * turn * np.where(known, values, 0)), 0), cuts)
        counts = _sums(known.astype(np.float64), cuts)
        return np.where(np.abs(sums) > 1e-9 * np.maximum(counts, 1), np.angle(sums) / turn, np.nan)
    # Sums of what is far from zero lose digits.
    centre = np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)
    counts = _sums(known.astype(np.float64), cuts)
    sums = _sums(np.where(known, values - centre, 0.0), cuts)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, centre + sums / np.where(counts > 0, counts, 1), np.nan)


def _sums(values: np.ndarray, cuts: Int[np.ndarray, " edges"]) -> np.ndarray:
    """The sums between each two cuts."""
    padded = np.concatenate([values, np.zeros((1, *values.shape[1:]), values.dtype)])  # a cut may be at the end
    sums = np.add.reduceat(padded, cuts, axis=0)[:-1]
    empty = (np.diff(cuts) == 0).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(empty, 0, sums)
