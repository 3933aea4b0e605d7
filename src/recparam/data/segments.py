"""Segments of a recording: rows without the end of a session or a gap in time between them, and rows a lag apart."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from recparam.data.recording import Recording

_GAP = 1.5  # median steps; a single dropped row makes two


def segments(recording: Recording, max_gap: float | int | None) -> tuple[Int[np.ndarray, " N"], float]:
    """The number of the segment without a boundary or gap that each row is in, and the median step in seconds."""
    breaks = np.diff(recording.sessions) != 0
    step = 0.0
    if recording.times is not None:
        steps = np.diff(recording.times)
        inside = steps[~breaks]
        step = float(np.median(inside)) if len(inside) else 0.0
        breaks = breaks | (steps > (_GAP * step if max_gap is None else max_gap))
    return np.r_[0, np.cumsum(breaks)], step


def segment_ends(segment: Int[np.ndarray, " N"]) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """The first row of each segment, and the one after its last."""
    starts = np.flatnonzero(np.r_[True, np.diff(segment) != 0])
    return starts, np.r_[starts[1:], len(segment)]


def shifted(segment: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row and the one so many rows later, where both are in one segment."""
    first = np.flatnonzero(segment[lag:] == segment[: max(len(segment) - lag, 0)])
    return first, first + lag


def after(times: np.ndarray, segment: np.ndarray, span: float | int, step: float) -> tuple[np.ndarray, np.ndarray]:
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
        near = np.abs(here[closest] - target) <= 0.5 * step * (1 + 1e-6)
        keep = np.flatnonzero(near & (closest > np.arange(len(here))))
        firsts.append(start + keep)
        seconds.append(start + closest[keep])
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *firsts]), np.concatenate([nothing, *seconds])
