"""Segments of a recording: rows without the end of a session or a gap in time between them, and rows a lag apart."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Int

from recparam.data.recording import Recording

_GAP = 1.5  # median steps; a single dropped row makes two
_JITTER = 4.0  # standard deviations that jitter explains: of normal steps it takes 3 in 100,000 for gaps
_DEVIATION = 1.4826  # of a normal law, in median absolute deviations
_FEW, _NOT_FEW = 0.02, 0.05  # of the pairs, beyond which it is said, or warned of, that gaps took them
_MANY_GAPS = 10  # fewer are pauses
_OWN = 20  # steps from which a session has a median of its own; shorter ones, as trials are, share one


def segments(
    recording: Recording, max_gap: float | int | None
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """The number of the segment without a boundary or gap that each row is in, and the median step of its session.

    A gap is a step of more than `max_gap` seconds; None: of more than 1.5 times the median step of its session, and of
    more than the median and four times the spread of the steps around it, 1.48 median absolute deviations: times that
    jitter have no gaps where nothing is lost. Sessions of few rows share one median and one spread.
    """
    breaks = np.diff(recording.sessions) != 0
    step = np.zeros(len(recording))
    if recording.times is not None:
        every = np.diff(recording.times)
        shared = _step_and_most(every[~breaks], max_gap)
        ends = [0, *(np.flatnonzero(breaks) + 1), len(recording)]
        for start, end in zip(ends[:-1], ends[1:], strict=True):
            steps = every[start : end - 1]
            step[start:end], most = shared if len(steps) < _OWN else _step_and_most(steps, max_gap)
            breaks[start : end - 1] = steps > most
    return np.r_[0, np.cumsum(breaks)], step


def _step_and_most(steps: Float[np.ndarray, " n"], max_gap: float | int | None) -> tuple[float, float]:
    """The median of steps in time, and the largest that is no gap."""
    if not len(steps):
        return 0.0, np.inf
    median = float(np.median(steps))
    spread = _DEVIATION * float(np.median(np.abs(steps - median)))
    return median, max(_GAP * median, median + _JITTER * spread) if max_gap is None else float(max_gap)


def segment_ends(segment: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """The first row of each segment, and the one after its last."""
    starts = np.flatnonzero(np.r_[True, np.diff(segment) != 0])
    return starts, np.r_[starts[1:], len(segment)]


def shifted(segment: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row and the one so many rows later, where both are in one segment."""
    first = np.flatnonzero(segment[lag:] == segment[: max(len(segment) - lag, 0)])
    return first, first + lag


def after(
    times: np.ndarray, segment: np.ndarray, span: float | int, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each row and the row of its segment that is closest to so many seconds later."""
    firsts, seconds = [], []
    for start, end in zip(*segment_ends(segment), strict=True):
        if end - start < 2:
            continue
        here = times[start:end]
        target = here + span
        right = np.searchsorted(here, target).clip(1, len(here) - 1)
        left = right - 1
        closest = np.where(target - here[left] <= here[right] - target, left, right)
        # Half a step, and what rounding of the times adds to it.
        near = np.abs(here[closest] - target) <= 0.5 * step[start] * (1 + 1e-6)
        keep = np.flatnonzero(near & (closest > np.arange(len(here))))
        firsts.append(start + keep)
        seconds.append(start + closest[keep])
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *firsts]), np.concatenate([nothing, *seconds])


def taken_by_gaps(
    recording: Recording, segment: Int[np.ndarray, " N"], lost: int, possible: int, *, declared: bool = False
) -> str:
    """What to say of pairs that gaps took, with a warning where they are many and nobody declared what a gap is."""
    if lost <= _FEW * possible:
        return ""
    gaps = int(segment[-1]) - int(recording.sessions[-1])
    if gaps >= _MANY_GAPS and lost > _NOT_FEW * possible and not declared:
        warnings.warn(
            f"{gaps} gaps in time, steps of much more than the median of their session, took {lost} of {possible} "
            "pairs. If rows are complete, give max_gap= in seconds, or leave the times out.",
            UserWarning,
            stacklevel=3,
        )
    # Without gaps: no row is as near as half a step to the time that is asked for.
    return f"; {'gaps' if gaps else 'uneven steps'} in time took {lost} of {possible} pairs"
