"""Neurodata Without Borders: series with their times and units, and spike times of units."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.checks import listed
from recparam.data.hdf5 import (
    at_path,
    data_set,
    is_data,
    load_data_set,
    members,
    number_of,
    opened,
    scaled,
    text_of,
    texts,
    wrong,
)
from recparam.data.recording import Recording
from recparam.data.stored import Stored, chosen

_NO_SERIES = {
    "IndexSeries": "numbers of images of another series",
    "AnnotationSeries": "text",
    "IntervalSeries": "beginnings and ends of intervals",
}


def read_nwb(path: Path, key: str | None) -> Recording:
    """The rows of a series with their times, in its unit; of other data sets only where `key` names one.

    Raises:
        ValueError: Several series that might be meant, or units, whose spike times have to be binned.
        OSError: The file cannot be read.
    """
    with opened(path) as file:
        found: list[Stored] = []
        for name, item in members(file):
            if _has_spikes(item):
                units = f"spike times of {len(item['spike_times_index'])} units"
                found.append(wrong(name, f"{units}. Bin them: bin_spikes(read_spikes(FILE), width=...)."))
            elif _is_series(item):
                found.append(_stored(name, item))
        if key is not None and (target := at_path(file, key)) is not None:
            part = target.name.rpartition("/")[2]
            if is_data(target):
                owner = target.parent
                if not (_is_series(owner) and part == "data") and not (_has_spikes(owner) and "spike_times" in part):
                    return data_set(key.strip("/"), target).recording()
                target = owner
            same = [one.name for one in found if at_path(file, one.name) == target]
            key = same[0] if same else key
        elif key is None and len(found) > 1 and any(one.wrong.startswith("spike times") for one in found):
            # A series next to spikes is behaviour or a field potential, and may not be what is meant.
            raise ValueError(
                f"Expected one series, or key= to choose; got {listed([str(one) for one in found])}. Give key=, or bin "
                "the spikes: bin_spikes(read_spikes(FILE), width=...)."
            )
        return chosen(found, key).recording()


def read_spikes(path: str | Path, *, key: str = "units") -> dict[str, np.ndarray]:
    """Spike times of the units of an .nwb file, to bin them: `bin_spikes(read_spikes(path), width=0.1)`.

    Args:
        path: The file.
        key: The table of units.

    Returns:
        Times of each unit in seconds, by its id.

    Raises:
        ValueError: No such table, no spike times in it, or a file that cannot be read.
    """
    path = Path(path)
    try:
        with opened(path) as file:
            units = at_path(file, key)
            if not _has_spikes(units):
                raise ValueError(f"Expected spike_times and spike_times_index in {key}; got none. Give key=.")
            times, ends = units["spike_times"][...], units["spike_times_index"][...].astype(np.int64)
            labels = units["id"][...].tolist() if "id" in units else list(range(len(ends)))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    if len(labels) != len(ends) or (len(ends) and ends[-1] > len(times)) or (np.diff(ends, prepend=0) < 0).any():
        raise ValueError(f"{path}: Expected an index into spike_times for each unit; got another. Mend {key}.")
    return dict(zip(map(str, labels), np.split(times, ends)[: len(ends)], strict=True))


def _has_spikes(item: Any) -> bool:
    return hasattr(item, "keys") and "spike_times" in item and "spike_times_index" in item


def _is_series(item: Any) -> bool:
    names = set(item) if hasattr(item, "keys") else set()  # of links, which may lead to nothing
    return "data" in names and bool(names & {"timestamps", "starting_time"})


def _stored(name: str, group: Any) -> Stored:
    data = at_path(group, "data")
    if not is_data(data):
        return wrong(name, "a link to data that are not there")
    if (outside := at_path(group, "external_file")) is not None:
        files = ", ".join(texts(outside) or [])
        return wrong(name, f"frames that are in other files, {files}. Read these.")
    kind = text_of(group, "neurodata_type")
    if kind in _NO_SERIES:
        return wrong(name, _NO_SERIES[kind])
    plain = data_set(name, data)
    if plain.problem:
        return plain
    factor: Any = number_of(data, "conversion", 1.0)
    offset = number_of(data, "offset", 0.0)
    notes, unit = [], text_of(data, "unit")
    if (channels := at_path(group, "channel_conversion")) is not None:
        factor = factor * channels[...].reshape(-1)
    if np.any(factor != 1) or offset:
        said = f"{factor:g}" if np.ndim(factor) == 0 else "a factor per channel"
        notes.append(f"{name} in {unit or 'its unit'}: its numbers times {said}, plus {offset:g}.")
    load = partial(scaled, data, factor, offset) if notes else partial(load_data_set, data)
    shape, stamps = data.shape, at_path(group, "timestamps")
    if stamps is None and "timestamps" in set(group):
        notes.append(f"The times of {name} are a link to nothing, and unknown.")
    if stamps is not None and len(shape) == 2 and shape[0] != len(stamps) == shape[1]:
        notes.append(f"{name} has a column for each of its times: it is read transposed.")
        shape, load = shape[::-1], partial(_transposed, load)
    elif stamps is not None and len(stamps) != shape[0]:
        return wrong(name, f"{len(stamps)} timestamps for {shape[0]} rows. Mend the file.")
    return Stored(name, shape, data.dtype, load, times=partial(_times, group, shape[0]), notes=tuple(notes))


def _transposed(load: Any) -> np.ndarray:
    return load().T


def _times(group: Any, rows: int) -> np.ndarray | None:
    """When each row of a series was observed, in seconds; None: the file does not say."""
    if (stamps := at_path(group, "timestamps")) is not None:
        return stamps[...]
    if (start := at_path(group, "starting_time")) is None:
        return None
    rate = number_of(start, "rate", np.nan)
    return float(start[()]) + np.arange(rows) / rate if rate > 0 else None


