"""Spike times as counts in bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recparam.data.recording import Recording
from recparam.utils.checks import check_positive, is_finite_number


def bin_spikes(
    spikes: Sequence[Any] | Mapping[str, Any],
    *,
    width: float | int,
    start: float | int | None = None,
    stop: float | int | None = None,
) -> Recording:
    """Counts of spikes in consecutive bins, a column for each unit.

    Bin n holds spikes from `start + n * width` to just before the next bin; a last bin that `stop` would cut is left
    out, as are spikes outside.

    Args:
        spikes: Spike times of each unit in seconds, in any order; a mapping names the units.
        width: Seconds of a bin.
        start: When the first bin begins; None: at the first spike.
        stop: When the last bin has ended; None: the bin of the last spike is the last.

    Returns:
        Counts (N, units), single precision, with the middle of each bin as its time.

    Raises:
        ValueError: No units, times that are not finite, no spikes where `start` or `stop` is missing, no bin.

    Example:
        >>> from recparam.data.spikes import bin_spikes
        >>> recording = bin_spikes({"a": [0.0, 0.1, 0.9], "b": [0.6]}, width=0.5, start=0, stop=1)
        >>> recording[:].tolist(), recording.times.tolist(), recording.names
        ([[2.0, 0.0], [1.0, 1.0]], [0.25, 0.75], ('a', 'b'))
    """
    check_positive("width", width, what="number of seconds")
    named = isinstance(spikes, Mapping)
    units = [np.asarray(times, dtype=np.float64) for times in (spikes.values() if named else spikes)]
    if not units or any(times.ndim != 1 for times in units):
        raise ValueError("Expected spikes as one list of times for each of one or more units; got another shape.")
    every = np.concatenate(units)
    if not np.isfinite(every).all():
        raise ValueError("Expected finite spike times; got NaN or infinity. Drop them.")
    for name, bound in (("start", start), ("stop", stop)):
        if bound is None and not len(every):
            raise ValueError(f"Expected {name}= where there are no spikes; got None.")
        if bound is not None and not is_finite_number(bound):
            raise ValueError(f"Expected {name} as a finite number of seconds; got {bound!r}.")
    begin = float(every.min() if start is None else start)
    if stop is None:
        bins = int((every.max() - begin) // width) + 1
    else:
        bins = int((stop - begin) / width * (1 + 1e-12))  # ten bins of 0.1 s are in one second
    if bins < 1:
        raise ValueError(
            f"Expected start, stop and width that leave a bin; got {begin:g}, {stop} and {width:g} seconds."
        )
    counts = np.zeros((bins, len(units)), dtype=np.float32)
    for unit, times in enumerate(units):
        places = np.floor((times - begin) / width)
        inside = places[(places >= 0) & (places < bins)].astype(np.int64)
        counts[:, unit] = np.bincount(inside, minlength=bins)
    middles = begin + (np.arange(bins) + 0.5) * width
    recording = Recording.of(counts, times=middles)
    recording.names = tuple(map(str, spikes)) if named else None
    return recording
