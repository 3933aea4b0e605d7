"""Spike times as counts in bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from recparam.data.recording import Recording
from recparam.utils.checks import check_positive, is_finite_number

_MOST = 0.25  # of a bin: times that know less of their place are rounded down


def bin_spikes(
    spikes: Sequence[Any] | Mapping[str, Any],
    *,
    width: float | int,
    start: float | int | None = None,
    stop: float | int | None = None,
) -> Recording:
    """Counts of spikes in consecutive bins, a column for each unit.

    Bin n holds spikes from `start + n * width` to just before the next bin; a last bin that `stop` would cut is left
    out, as are spikes outside. Times of a sampling clock are often on the edge of a bin, where rounding would put some
    into the bin before: a time belongs to the edge that it differs from by no more than its own rounding.

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
    given = [np.asarray(times) for times in (spikes.values() if named else spikes)]
    units = [times.astype(np.float64) for times in given]
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
    places = [_bins(times, begin, width, of.dtype) for times, of in zip(units, given, strict=True)]
    if stop is None:
        bins = 1 + int(np.concatenate(places).max())
    else:
        bins = int(_bins(np.array([float(stop)]), begin, width, np.dtype(np.float64))[0])
    if bins < 1:
        raise ValueError(
            f"Expected start, stop and width that leave a bin; got {begin:g}, {stop} and {width:g} seconds."
        )
    counts = np.zeros((bins, len(units)), dtype=np.float32)
    for unit, where in enumerate(places):
        inside = where[(where >= 0) & (where < bins)].astype(np.int64)
        counts[:, unit] = np.bincount(inside, minlength=bins)
    middles = begin + (np.arange(bins) + 0.5) * width
    recording = Recording.of(counts, times=middles)
    recording.names = tuple(map(str, spikes)) if named else None
    return recording


def _bins(
    times: Float[np.ndarray, " n"], begin: float, width: float | int, given: np.dtype[Any]
) -> Float[np.ndarray, " n"]:
    """The bin of each time: the whole part of (time - begin) / width, of which the rounding of all three is known.

    Args:
        times: In seconds.
        begin: When bin 0 begins.
        width: Of a bin.
        given: The type that the times were given in, whose digits they have.
    """
    digits = np.finfo(given).eps if given.kind == "f" else 0.0
    places = (times - begin) / width
    double = np.finfo(np.float64).eps * (np.abs(times) + abs(begin)) / width
    rounding = np.maximum(digits * np.abs(times) / width, double) + 1e-12 * np.abs(places)
    return np.floor(places + np.minimum(rounding, _MOST))
