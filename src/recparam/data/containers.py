"""Data that say more than their numbers: data frames, xarray, pynapple, and arrays whose axes are declared.

They are told by what they have, so that no package is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from recparam.data.axes import axes_of, is_trial
from recparam.data.checks import array_and_names, hidden, session_codes, without_label
from recparam.data.clocks import is_clock, unit_of
from recparam.utils.checks import check_unmasked

_DECLARED: ContextVar[Sequence[str] | None] = ContextVar("declared", default=None)


@dataclass(frozen=True)
class Contents:
    """What data hold.

    Args:
        values: Numbers (N, ...), for `array_and_names`.
        sessions: The session of each row, from 0; None: one for all.
        session_names: What the sessions are called.
        times: Of the rows: numbers in seconds, or datetime64.
        names: What the columns are called, where `values` does not say.
        observed: Which rows hold anything; None: all.
        notes: What was understood, a sentence each.
        trials: How many trials of equal length the rows are; 1: none.
        declared: Whether the data say which axis is time.
    """

    values: Any
    sessions: Int[np.ndarray, " N"] | None = None
    session_names: tuple[str, ...] | None = None
    times: Shaped[np.ndarray, " N"] | None = None
    names: tuple[str, ...] | None = None
    observed: Bool[np.ndarray, " N"] | None = None
    notes: tuple[str, ...] = ()
    trials: int = 1
    declared: bool = True


@contextmanager
def declared(dims: Sequence[str] | None) -> Iterator[None]:
    """Within, arrays that do not say what their axes are have these; so they are declared of what a reader finds."""
    token = _DECLARED.set(dims)
    try:
        yield
    finally:
        _DECLARED.reset(token)


def is_list_of_series(data: Any) -> bool:
    """Whether data are a list of series of pynapple, one per session."""
    return isinstance(data, list | tuple) and len(data) > 0 and all(hasattr(part, "time_support") for part in data)


def contents_of(data: Any, name: str, *, dims: Sequence[str] | None) -> Contents:
    """What data hold: numbers, and where they say so sessions and times.

    Args:
        data: Anything that `Recording.of` takes.
        name: For messages.
        dims: What each axis is; None: what the data say.

    Raises:
        ValueError: Axes that are not those of the data, spike times, or sessions whose rows do not follow each other.
    """
    if hasattr(data, "data_vars"):  # an xarray Dataset
        axes = {tuple(variable.dims) for variable in data.data_vars.values()}
        if len(axes) != 1:
            raise ValueError(
                f"Expected {name} with variables over the same axes; got {', '.join(map(str, sorted(axes)))}. Choose "
                f"one: {name}['...']."
            )
        data = data.to_dataarray(dim="variable")
    if hasattr(data, "coords") and hasattr(data, "dims"):
        if dims is None and all(re.fullmatch(r"dim_\d+", str(dim)) for dim in data.dims):  # without names
            return Contents(data.values, declared=False)
        return _of_axes(data.values, name, dims or data.dims, data.coords, declared=dims is not None)
    dims = dims if hasattr(data, "time_support") else dims or _DECLARED.get()
    if dims is not None:
        if hasattr(data, "time_support"):
            raise ValueError(f"Expected dims= with arrays; got it with {type(data).__name__}, whose axes are known.")
        array = np.asarray(array_and_names(data, name)[0])
        if isinstance(data, np.ma.MaskedArray):
            array = np.ma.array(array, mask=hidden(data, array.shape))
        return _of_axes(array, name, [str(dim).strip() for dim in dims], {}, declared=True)
    if hasattr(data, "time_support"):
        return _of_series(data, name)
    if hasattr(data, "columns") and hasattr(data, "index"):
        return _of_frame(data, name)
    return Contents(data, declared=False)


def as_clock(values: Any) -> np.ndarray:
    """Times as numbers of seconds or as datetime64: of numbers, dates, time zones (as UTC), spans, or text in ISO 8601.

    Raises:
        ValueError: Text that is neither, or times that a masked array hides.
    """
    if str(getattr(values, "dtype", "")).startswith("period"):
        values = values.dt.to_timestamp() if hasattr(values, "dt") else values.to_timestamp()
    accessor = getattr(values, "dt", values)
    if getattr(accessor, "tz", None) is not None:
        values = accessor.tz_convert(None)
    check_unmasked("times", values)
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if array.dtype.kind in "OUS":
        array = _from_text(array)
    return array / np.timedelta64(1, "s") if array.dtype.kind == "m" else array


def _from_text(array: np.ndarray) -> np.ndarray:
    lost = without_label(array)
    try:
        return np.where(lost, "nan", array.astype(str)).astype(np.float64)
    except ValueError:
        pass
    found = np.full(array.shape, np.datetime64("NaT"), dtype="datetime64[us]")
    for place in np.flatnonzero(~lost):
        try:
            date = datetime.fromisoformat(str(array[place]).strip())
        except ValueError as error:
            raise ValueError(
                f"Expected times in seconds or as datetime64; got {str(array[place])!r} in row {place}. Write dates as "
                "2024-01-31T10:30:00.25."
            ) from error
        found[place] = np.datetime64(date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date)
    return found


def _clock(values: Any, name: object, unit: object = None) -> np.ndarray | None:
    """The times that a coordinate or an index holds; None: they are none."""
    kind = getattr(getattr(values, "dtype", None), "kind", "O")
    if kind in "mM" or str(getattr(values, "dtype", "")).startswith("period"):
        return as_clock(values)
    if not is_clock(name) or kind not in "iuf":
        return None
    return np.asarray(values) * unit_of(f"{unit or ''} {name}")[1]


def _of_axes(
    array: np.ndarray, name: str, dims: Sequence[Any], coords: Any, *, declared: bool
) -> Contents:
    """An array whose axes have names, with the coordinates of some of them."""
    if isinstance(dims, str) or len(dims) != array.ndim:
        raise ValueError(f"Expected dims with a name for each axis of {name}, {array.shape}; got {dims!r}.")
    trials, time = axes_of(dims, declared=declared)
    rest = [axis for axis in range(array.ndim) if axis not in (*trials, time)]
    moved = np.moveaxis(array, [*trials, time, *rest], range(array.ndim))
    counts, steps = moved.shape[: len(trials)], moved.shape[len(trials)]
    row = moved.shape[len(trials) + 1 :] or (1,)
    trial_count = int(np.prod(counts, dtype=np.int64))
    values = moved.reshape(trial_count * steps, *row)
    names = None
    if len(rest) == 1 and dims[rest[0]] in coords:
        names = tuple(map(str, np.asarray(coords[dims[rest[0]]]).tolist()))
    along = {key: coord for key, coord in coords.items() if tuple(coord.dims) == (dims[time],)}
    clocks = [_clock(coord, key, coord.attrs.get("units")) for key, coord in along.items()]
    clock = next((found for found in clocks if found is not None), None)
    if not trials:
        labels = [coord.values for key, coord in along.items() if is_trial(key)]
        return Contents(values, **_sessions(labels), times=clock, names=names)
    given = [np.asarray(coords[dims[axis]]) if dims[axis] in coords else None for axis in trials]
    known = [labels if labels is not None else np.arange(n) for labels, n in zip(given, counts, strict=True)]
    grid = [labels.ravel() for labels in np.meshgrid(*known, indexing="ij")]
    observed, notes = _without_padding(values.reshape(trial_count, steps, *row))
    return Contents(
        values,
        sessions=np.repeat(np.arange(trial_count), steps),
        session_names=_joined(grid) if any(labels is not None for labels in given) else None,
        times=None if clock is None else np.tile(clock, trial_count),
        names=names,
        observed=observed,
        notes=notes,
        trials=trial_count,
    )


def _without_padding(trials: np.ndarray) -> tuple[Bool[np.ndarray, " N"] | None, tuple[str, ...]]:
    """Which rows of trials (T, steps, ...) are not NaN as a whole, as those are that fill up shorter ones."""
    if trials.dtype.kind != "f":
        return None, ()
    empty = np.asarray(np.isnan(np.asarray(trials).reshape(*trials.shape[:2], -1)).all(2))
    padding = np.logical_and.accumulate(empty, axis=1) | np.logical_and.accumulate(empty[:, ::-1], axis=1)[:, ::-1]
    if not padding.any():
        return None, ()
    note = f"{padding.sum()} rows at the ends of trials hold NaN alone, and are in no pair."
    return ~padding.ravel(), (note,)


def _of_series(data: Any, name: str) -> Contents:
    """A series of pynapple, of which each epoch of its time support is a session."""
    if not hasattr(data, "values") or hasattr(data, "keys"):
        raise ValueError(
            f"Expected {name} with a row for each time; got the times of events, {type(data).__name__}. Count them in "
            f"bins: recparam.data.spikes.bin_spikes({name}, width=...)."
        )
    values, times = np.asarray(data.values), np.asarray(data.t)
    epochs = np.searchsorted(np.asarray(data.time_support.start), times, side="right")
    return Contents(
        values.reshape(len(values), 1) if values.ndim == 1 else values,
        sessions=np.unique(epochs, return_inverse=True)[1].astype(np.int64),
        times=times,
        names=tuple(map(str, data.columns)) if hasattr(data, "columns") else None,
    )


def _of_frame(data: Any, name: str) -> Contents:
    """A data frame, whose index may say when a row was observed, and in which trial."""
    index = data.index
    if getattr(index, "nlevels", 1) == 1:
        clock = _clock(index, index.name)
        return Contents(data, times=clock, declared=clock is not None)
    levels = [(key, index.get_level_values(level)) for level, key in enumerate(index.names)]
    timed = [place for place, (key, _) in enumerate(levels) if is_clock(key)]
    key, level = levels.pop(timed[0] if timed else -1)
    unnamed = key is None and level.dtype.kind == "f"
    clock = _clock(level, "time" if unnamed else key)
    if clock is None and is_trial(key):
        levels.append((key, level))
    return Contents(data, **_sessions([np.asarray(level) for _, level in levels]), times=clock)


def _sessions(labels: Sequence[np.ndarray]) -> dict[str, Any]:
    """The session of each row, by one or several labels, and the names of the sessions."""
    if not labels:
        return {}
    if any(without_label(level).any() for level in labels):
        raise ValueError("Expected the session of each row; got none for some. Name it, or leave these rows out.")
    names = np.array(_joined(labels))
    codes = session_codes(names, len(names))
    return {"sessions": codes, "session_names": names_of_sessions(names, codes)}


def names_of_sessions(labels: np.ndarray, codes: Int[np.ndarray, " N"]) -> tuple[str, ...] | None:
    """What sessions are called, by the label of each of their rows; None: as they are numbered."""
    names = _joined([labels[np.r_[True, np.diff(codes) != 0]]])
    return None if names == tuple(map(str, range(len(names)))) else names


def _joined(labels: Sequence[np.ndarray]) -> tuple[str, ...]:
    """One text for the labels of each row; whole numbers without decimals."""
    texts = [level.astype(str) if level.dtype.kind in "mM" else level for level in labels]
    return tuple(
        ", ".join(f"{one:.17g}" if isinstance(one, float) else str(one) for one in row)
        for row in zip(*(level.tolist() for level in texts), strict=True)
    )
