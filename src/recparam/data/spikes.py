"""Spike times as counts in bins, of a session or of trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from recparam.data.recording import Recording
from recparam.utils.checks import check_positive, is_finite_number

_MOST = 0.25  # of a bin: times that know less of their place are rounded down
_STARTS, _STOPS = ("start", "start_time"), ("stop", "end", "stop_time", "end_time")  # columns of a table of trials


def bin_spikes(
    spikes: Any,
    *,
    width: float | int,
    start: float | int | None = None,
    stop: float | int | None = None,
    trials: Any = None,
    events: Any = None,
    window: Sequence[float | int] | None = None,
) -> Recording:
    """Counts of spikes in consecutive bins, a column for each unit and a session for each trial.

    Bin n holds spikes from `start + n * width` to just before the next bin; a last bin that `stop` would cut is left
    out, as are spikes outside. Times of a sampling clock are often on the edge of a bin, where rounding would put some
    into the bin before: a time belongs to the edge that it differs from by no more than its own rounding. Whole
    numbers, such as samples or nanoseconds, are counted without rounding.

    Args:
        spikes: Spike times of each unit in seconds (or in the unit of `width`), in any order; a mapping names the
            units. Rows of an array may be filled up with NaN. A list or mapping of such units is trials, each with
            times of its own; a mapping of units that lacks one is a trial in which that unit is silent. Also a
            pynapple TsGroup or Ts, each epoch of whose time support is a session.
        width: Seconds of a bin.
        start: When the first bin begins, in each trial where there are several; None: at the first spike.
        stop: When the last bin has ended; None: the bin of the last spike is the last.
        trials: When each trial begins and ends, (T, 2), a mapping from names to such pairs, a pynapple IntervalSet or
            a data frame with columns start and stop (start_time, stop_time); in place of `start` and `stop`.
        events: Times (T,), each of which has a trial, `window` around it.
        window: Seconds from an event to the start and the end of its trial, such as (-0.5, 1.0).

    Returns:
        Counts (N, units), single precision, with the middle of each bin as its time, on the clock of the spikes.

    Raises:
        ValueError: No units, times that are not finite numbers, trials with other units, no spikes where `start` or
            `stop` is missing, no bin, or options that do not go together.

    Example:
        >>> from recparam.data.spikes import bin_spikes
        >>> recording = bin_spikes({"a": [0.0, 0.1, 0.9], "b": [0.6]}, width=0.5, start=0, stop=1)
        >>> recording[:].tolist(), recording.times.tolist(), recording.names
        ([[2.0, 0.0], [1.0, 1.0]], [0.25, 0.75], ('a', 'b'))
        >>> around = bin_spikes([[1.1, 5.4]], width=0.5, events=[1, 5], window=(0, 1))
        >>> around[:].ravel().tolist(), around.sessions.tolist(), around.times.tolist()
        ([1.0, 0.0, 1.0, 0.0], [0, 0, 1, 1], [1.25, 1.75, 5.25, 5.75])
    """
    check_positive("width", width, what="number of seconds")
    if sum(option is not None for option in (trials, events)) + (start is not None or stop is not None) > 1:
        raise ValueError("Expected one of trials=, events= and start= with stop=; got several.")
    if (events is None) != (window is None):
        raise ValueError("Expected events= and window=, seconds before and after each; got one of them.")
    for name, bound in (("start", start), ("stop", stop)):
        if bound is not None and not is_finite_number(bound):
            raise ValueError(f"Expected {name} as a finite number of seconds; got {bound!r}.")
    names, trial_names, each = _trials_of_units(spikes)
    short = 0
    bounds: list[tuple[Any, Any]] = [(start, stop)]
    bins: int | None = None
    if trials is not None:
        interval_names, bounds = _intervals(trials)
        trial_names = interval_names or trial_names
    elif events is not None:
        assert window is not None
        bounds, bins = _around(events, window, width)
    elif hasattr(spikes, "time_support"):
        low, high = -np.inf if start is None else start, np.inf if stop is None else stop
        epochs = [(max(first, low), min(last, high)) for first, last in _intervals(spikes.time_support)[1]]
        bounds = [(first, last) for first, last in epochs if _places(last, first, width) >= 1] or epochs[:1]
        short = len(epochs) - len(bounds)
    if len(each) > 1 and len(bounds) == 1 and trials is None:
        bounds = bounds * len(each)
    if len(each) > 1 and len(bounds) != len(each):
        raise ValueError(
            f"Expected the times of {len(each)} trials, those in spikes; got {len(bounds)}. Leave some out, or give "
            "the spikes of each unit in one list."
        )
    each = each * (len(bounds) if len(each) == 1 else 1)
    several = len(bounds) > 1
    counted: list[np.ndarray] = []
    middles: list[np.ndarray] = []
    for number, (units, (first, last)) in enumerate(zip(each, bounds, strict=True)):
        try:
            counts, begin = _counts(units, first, last, width, bins)
        except ValueError as error:
            raise ValueError(f"Trial {number}: {error}" if several else str(error)) from error
        counted.append(counts)
        middles.append(float(begin) + (np.arange(len(counts)) + 0.5) * float(width))
    recording = Recording.of(counted if several else counted[0], times=middles if several else middles[0])
    recording.names = names
    recording.session_names = trial_names
    return recording.noted(f"{short} epochs are shorter than a bin, or outside, and left out.") if short else recording


def _counts(
    units: Sequence[np.ndarray], start: Any, stop: Any, width: float | int, bins: int | None
) -> tuple[np.ndarray, Any]:
    """Counts of sorted spikes, (bins, units), and when the first bin begins."""
    for name, bound in (("start", start), ("stop", stop)):
        if bound is None and not any(map(len, units)):
            raise ValueError(f"Expected {name}= where there are no spikes; got None.")
    begin = min(times[0] for times in units if len(times)).item() if start is None else start
    if stop is not None:
        # Of a long recording only the spikes of the trial, and of the bins next to it, are worth a division.
        units = [times[slice(*np.searchsorted(times, (begin - width, stop + width)))] for times in units]
    alike = len({times.dtype for times in units}) == 1  # of others each has digits of its own
    each = [np.concatenate(units)] if alike else units
    places = np.concatenate([_places(times, begin, width) for times in each])
    if bins is None:
        bins = 1 + int(places.max(initial=-1)) if stop is None else int(_places(stop, begin, width))
    if bins < 1:
        raise ValueError(
            f"Expected start, stop and width that leave a bin; got {begin:g}, {stop} and {width:g} seconds."
        )
    inside = (places >= 0) & (places < bins)
    owners = np.repeat(np.arange(len(units)), [len(times) for times in units])
    counts = np.zeros((bins, len(units)), dtype=np.float32)
    np.add.at(counts, (places[inside], owners[inside]), 1)
    return counts, begin


def _places(times: Any, begin: Any, width: float | int) -> Int[np.ndarray, ...]:
    """The bin of each time: the whole part of (time - begin) / width, of which the rounding of all three is known.

    Args:
        times: In seconds, in the type that they were given in, whose digits they have.
        begin: When bin 0 begins.
        width: Of a bin.
    """
    times = np.asarray(times)
    if times.dtype.kind in "iu" and all(float(number).is_integer() for number in (begin, width)):
        return (times.astype(np.int64) - int(begin)) // int(width)
    places = (times.astype(np.float64) - float(begin)) / float(width)
    rounding = (_digits(times) + _digits(np.asarray(begin))) / float(width) + 1e-12 * np.abs(places)
    return np.floor(places + np.minimum(rounding, _MOST)).astype(np.int64)


def _digits(values: np.ndarray) -> Any:
    """How far rounding may have moved numbers: by their last digit, or by that of a double in what made them."""
    if values.dtype.kind in "iu":
        return 0.0
    return np.maximum(np.spacing(np.abs(values)), np.finfo(np.float64).eps * np.abs(values)).astype(np.float64)


def _trials_of_units(
    spikes: Any,
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None, list[list[np.ndarray]]]:
    """Names of the units and of the trials, where they have some, and the sorted spike times: a list of units each."""
    if hasattr(spikes, "time_support") and not isinstance(spikes, Mapping):  # a pynapple Ts is one unit
        spikes = [spikes]
    entries = list(spikes.values()) if isinstance(spikes, Mapping) else list(spikes)
    nested = [_is_nested(entry) for entry in entries]
    if not any(nested):
        units, names = _units(spikes)
        return names, None, [units]
    trial_names = tuple(map(str, spikes)) if isinstance(spikes, Mapping) else None
    if trial_names and not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(
            "Expected spikes as units, or as trials of units; got names with lists of lists, which may be either. Name "
            "the units of each trial: {trial: {unit: times}}, or give a list of trials."
        )
    found = [_units(entry) for entry in entries]
    if all(names is not None for _, names in found):
        every = tuple(dict.fromkeys(name for _, names in found for name in names or ()))
        by_name = [dict(zip(names or (), units, strict=True)) for units, names in found]
        silent = np.zeros(0)
        return every, trial_names, [[units.get(name, silent) for name in every] for units in by_name]
    sizes = [len(units) for units, _ in found]
    if len(set(sizes)) > 1 or any(names is not None for _, names in found):
        raise ValueError(
            f"Expected trials with the same units, silent ones as empty lists; got {sizes} units. Or name the units of "
            "each trial: {unit: times}."
        )
    return None, trial_names, [units for units, _ in found]


def _is_nested(entry: Any) -> bool:
    """Whether it is units, and not the times of one."""
    if isinstance(entry, Mapping):
        return True
    return isinstance(entry, list | tuple | np.ndarray) and len(entry) > 0 and hasattr(entry[0], "__len__")


def _units(spikes: Any) -> tuple[list[np.ndarray], tuple[str, ...] | None]:
    """Sorted spike times of each unit, and names where they have some."""
    filled = isinstance(spikes, np.ndarray) and spikes.dtype != object
    each: Iterable[Any] = spikes.values() if isinstance(spikes, Mapping) else spikes
    units = [_unit(times, filled=filled) for times in each]
    if not units:
        raise ValueError("Expected spikes as one list of times for each of one or more units; got another shape.")
    return units, tuple(map(str, spikes)) if isinstance(spikes, Mapping) else None


def _unit(times: Any, *, filled: bool) -> Shaped[np.ndarray, " n"]:
    """Sorted spike times of a unit, in the type that they were given in; those of a row may be filled up with NaN."""
    if hasattr(times, "time_support"):  # pynapple
        times = times.t
    if hasattr(times, "rescale"):  # neo
        times = times.rescale("s").magnitude
    array = np.asarray(times)
    array = array.astype(np.float64) if not array.size else array
    if array.ndim != 1:
        raise ValueError("Expected spikes as one list of times for each of one or more units; got another shape.")
    if array.dtype.kind not in "iuf":
        raise ValueError(f"Expected spike times as numbers, in seconds; got {array.dtype}. Convert them.")
    if filled and array.dtype.kind == "f":
        array = array[: len(array) - int(np.isnan(array[::-1]).cumprod().sum())]
    if not np.isfinite(array).all():
        raise ValueError("Expected finite spike times; got NaN or infinity. Drop them.")
    if filled and len(array) > 1 and array[-1] == 0 and array.max() > 0:
        raise ValueError(
            "Expected rows of spike times; got zeros after later times, as of rows that were filled up. Fill them up "
            "with NaN, or give a list of arrays."
        )
    return np.sort(array)


def _intervals(trials: Any) -> tuple[tuple[str, ...] | None, list[tuple[Any, Any]]]:
    """Names of intervals, where they have some, and when each begins and ends."""
    names = tuple(map(str, trials)) if isinstance(trials, Mapping) and not hasattr(trials, "columns") else None
    pairs: Iterable[Any] = trials.values() if names is not None else trials
    columns = [str(column) for column in getattr(trials, "columns", ())]
    ends = [[name for name in columns if name in known] for known in (_STARTS, _STOPS)]
    if all(len(found) == 1 for found in ends):
        pairs = zip(*(np.asarray(trials[name]) for (name,) in ends), strict=True)
    found: list[tuple[Any, ...]] = [tuple(pair) if hasattr(pair, "__len__") else (pair,) for pair in pairs]
    for number, pair in enumerate(found):
        if len(pair) != 2 or not all(isinstance(bound, Real) and is_finite_number(bound) for bound in pair):
            raise ValueError(f"Expected trials as pairs (start, stop) of finite seconds; got {pair!r} in {number}.")
    if not found:
        raise ValueError("Expected trials as pairs (start, stop) of finite seconds; got none.")
    return names, [(first, last) for first, last in found]


def _around(events: Any, window: Sequence[float | int], width: float | int) -> tuple[list[tuple[Any, Any]], int]:
    """When the trial of each event begins and ends, and the bins that all of them have."""
    times = np.asarray(events.t if hasattr(events, "time_support") else events)
    if times.ndim != 1 or not len(times) or times.dtype.kind not in "iuf" or not np.isfinite(times).all():
        raise ValueError(f"Expected events as finite times (T,) in seconds; got {times.dtype}, {times.shape}.")
    if len(window) != 2 or not all(map(is_finite_number, window)) or window[0] >= window[1]:
        raise ValueError(f"Expected window as seconds (from, to) around each event; got {window!r}.")
    bins = int(_places(window[1], window[0], width))
    return [(event + window[0], event + window[1]) for event in times], bins
