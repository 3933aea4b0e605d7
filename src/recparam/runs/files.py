"""Files of values per row: labels that are read, latents that are written."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from recparam.data.checks import listed
from recparam.data.clocks import is_clock, unit_of
from recparam.data.readers import READ_AS_COLUMNS, read, read_columns, read_spikes
from recparam.data.recording import Recording
from recparam.utils.extras import optional
from recparam.utils.storage import replacing

_ENDINGS = (".npz", ".csv", ".parquet")
_MOST_LABELS = 6  # one picture each
_UNITS = ("unit", "units", "unit_id", "cluster", "cluster_id", "neuron", "neuron_id", "cell", "cell_id", "id")
_SPIKES = ("spike", "spikes", "spike_time", "spike_times")


def write_latents(
    path: Path, blocks: Mapping[str, Float[np.ndarray, "N D"]], *, recording: Recording
) -> None:
    """Write latents with the session, the time and the number of each row: npz, csv or parquet.

    Arrays of an npz are z, std, ..., sessions, times, rows, and session_names (one for each session); columns of a
    table are session, session_name, time, row, z1, ..., std1, .... Times and names are left out where they are unknown.

    Args:
        path: The file; its ending says which. Replaced as a whole, or not at all.
        blocks: Latents, standard deviations and so on, by name.
        recording: Gives the sessions and times of the rows, which are numbered from 0 over all of its sessions.

    Raises:
        ValueError: An unknown ending, or a missing package.
        OSError: The file cannot be written.
    """
    check_latents_path(path)
    sessions, times, rows = recording.sessions, recording.times, np.arange(len(recording))
    names = None if recording.session_names is None else np.array(recording.session_names)
    if path.suffix == ".npz":
        known = {"sessions": sessions, "session_names": names, "times": times, "rows": rows}
        arrays: Any = {**blocks, **{name: array for name, array in known.items() if array is not None}}
        with replacing(path) as file, file.open("wb") as stream:
            np.savez(stream, **arrays)
        return
    columns: dict[str, np.ndarray] = {"session": sessions}
    if names is not None:
        columns["session_name"] = names[sessions]
    if times is not None:
        columns["time"] = times
    columns["row"] = rows
    columns |= {f"{name}{k + 1}": block[:, k] for name, block in blocks.items() for k in range(block.shape[1])}
    with replacing(path) as file:
        if path.suffix == ".csv":
            with file.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(zip(*(_cells(values) for values in columns.values()), strict=True))
        else:
            optional("pandas", "tables").DataFrame(columns).to_parquet(file)


def _cells(values: np.ndarray) -> list[Any]:
    """Values as text from which they are read back: nine digits of single precision."""
    return [f"{value:.9g}" for value in values.tolist()] if values.dtype == np.float32 else values.tolist()


def check_latents_path(path: Path) -> None:
    """Refuse a file for latents before any work.

    Raises:
        ValueError: An unknown ending, a folder, or a missing package.
    """
    if path.suffix not in _ENDINGS:
        raise ValueError(f"Expected -o as a file that ends in {', '.join(_ENDINGS)}; got {path}.")
    if path.is_dir():
        raise ValueError(f"Expected -o as a file; got {path}, which is a folder.")
    if path.suffix == ".parquet":
        for name in ("pandas", "pyarrow"):
            optional(name, "tables")


def read_labels(path: Path, *, rows: int, key: str | None = None) -> dict[str, Float[np.ndarray, " N"]]:
    """Read values per row that colour the latents: columns of a table, or the arrays of an npz file.

    Args:
        path: .npy, .npz, or anything that `recparam.data.readers` reads as vectors.
        rows: Of the data of the fit.
        key: Name of one array, or of one column of a table; None: all with that many rows.

    Returns:
        Values by name, each of shape (rows,), at most six.

    Raises:
        ValueError: Another number of rows, too many columns, no numbers, or a file that cannot be read.
    """
    if path.suffix.lower() in READ_AS_COLUMNS:
        found = read_columns(path)
        arrays = {f"column {name}" if name.isdecimal() else name: array for name, array in found.items()}
    else:
        recording = read(path)
        names = recording.names or tuple(f"column {k}" for k in range(recording.shape[-1]))
        arrays = {name: recording[:][:, k] for k, name in enumerate(names)} if len(recording.shape) == 2 else {}
    if key is not None and key not in arrays:
        raise ValueError(f"Expected --key as one of {listed(arrays)}; got {key!r}, which is not in {path}.")
    arrays = {key: arrays[key]} if key is not None else arrays
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "biuf" and array.ndim in (1, 2)}
    fitting = {name: array for name, array in arrays.items() if len(array) == rows}
    if not fitting:
        found = listed(f"{array.shape} in {name}" for name, array in arrays.items()) or "no table of numbers"
        raise ValueError(f"Expected --labels with {rows} rows, one per row of the data; got {found} in {path}.")
    columns: dict[str, np.ndarray] = {}
    for name, array in fitting.items():
        values = array.astype(float).reshape(rows, -1)
        single = values.shape[1] == 1
        columns |= {name if single else f"{name} {k + 1}": values[:, k] for k in range(values.shape[1])}
    if len(columns) > _MOST_LABELS:
        raise ValueError(
            f"Expected --labels with at most {_MOST_LABELS} columns; got {len(columns)} in {path}. Name an array or a "
            f"column with --key."
        )
    return columns


def read_values(path: Path, *, key: str | None = None) -> np.ndarray:
    """Read what goes with each row, such as its session or a behaviour: numbers, or text.

    Args:
        path: .npy, .npz, .csv or .parquet.
        key: Arrays or columns, separated by commas; None: the only one.

    Returns:
        Shape (N, K).

    Raises:
        ValueError: No such file, array or column, or columns of different lengths.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a file with values of the rows; there is none. Check the path.")
    if path.suffix.lower() not in READ_AS_COLUMNS:
        raise ValueError(
            f"{path}: expected sessions and variables in {', '.join(READ_AS_COLUMNS)}; got {path.suffix}. Save them "
            "as one of these, and give sessions with --sessions."
        )
    found = read_columns(path)
    names = list(found) if key is None else [name.strip() for name in key.split(",")]
    if key is None and len(names) != 1:
        raise ValueError(f"{path}: expected one column, or the key of one; got {listed(names)}. Give its name.")
    for name in names:
        if name not in found:
            raise ValueError(f"{path}: expected one of {listed(found)}; got {name!r}, which is not in it.")
    columns = [np.atleast_1d(found[name]) for name in names]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"{path}: expected {listed(names)} with as many rows each; got others.")
    return np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)


def read_spike_times(path: Path, *, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the spike times of each unit: the arrays of an npz file, or a table with a column of units and one of times.

    Args:
        path: .npz, .csv, .tsv, .parquet or .nwb.
        key: Of a table the columns, units first, separated by a comma; of an npz file the units that are read; of an
            nwb file the table of units.

    Returns:
        Times by unit, in the order of the file, of an npz file all that have one dimension.

    Raises:
        ValueError: No such file, arrays or columns.
    """
    suffix = path.suffix.lower()
    if path.is_file() and suffix == ".nwb":
        return read_spikes(path, key=key or "units")
    if not path.is_file() or suffix not in READ_AS_COLUMNS or suffix == ".npy":
        raise ValueError(
            f"{path}: expected spike times as .npz with an array for each unit, or as a table with columns unit and "
            "time; got another file, or none. Save them as one of these."
        )
    found = read_columns(path)
    wanted = None if key is None else [name.strip() for name in key.split(",")]
    unknown = [name for name in wanted or () if name not in found]
    if unknown:
        raise ValueError(f"{path}: expected --key as some of {listed(list(found))}; got {listed(unknown)}.")
    if suffix == ".npz":
        chosen = wanted or [name for name, array in found.items() if array.ndim == 1]
        if not chosen:
            raise ValueError(f"{path}: expected an array of spike times for each unit; got none. Save them flat.")
        return {name: found[name] for name in chosen}
    times = [name for name in found if is_clock(name) or name.lower() in _SPIKES]
    units = [name for name in found if name.lower() in _UNITS]
    if wanted is None and len(times) == len(units) == 1:
        wanted = [units[0], times[0]]
    if wanted is None or len(wanted) != 2:
        raise ValueError(
            f"{path}: expected a table of spikes with columns unit and time; got {listed(list(found))}. Name the "
            "two with --key UNIT,TIME."
        )
    labels, clock = found[wanted[0]], found[wanted[1]]
    clock = clock * unit_of(wanted[1])[1] if clock.dtype.kind in "iuf" else clock
    texts = [f"{label:g}" if isinstance(label, float) else str(label) for label in labels.tolist()]
    order: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        order.setdefault(text, []).append(row)
    return {text: clock[rows] for text, rows in order.items()}
