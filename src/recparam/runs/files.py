"""Files of values per row: labels that are read, latents that are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from recparam.data.checks import listed
from recparam.data.readers import READ_AS_COLUMNS, read, read_columns
from recparam.data.recording import Recording
from recparam.utils.extras import optional
from recparam.utils.storage import replacing

_ENDINGS = (".npz", ".csv", ".parquet")
_MOST_LABELS = 6  # one picture each


def write_latents(
    path: Path, blocks: Mapping[str, Float[np.ndarray, "N D"]], *, recording: Recording
) -> None:
    """Write latents as npz (arrays z, std, ..., sessions, times), csv or parquet (columns z1, ..., std1, ...).

    Args:
        path: The file; its ending says which. Replaced as a whole, or not at all.
        blocks: Latents, standard deviations and so on, by name.
        recording: Gives the sessions and times of the rows.

    Raises:
        ValueError: An unknown ending, or a missing package.
        OSError: The file cannot be written.
    """
    check_latents_path(path)
    rows: dict[str, np.ndarray] = {"sessions": recording.sessions}
    if recording.times is not None:
        rows["times"] = recording.times
    if path.suffix == ".npz":
        with replacing(path) as file, file.open("wb") as stream:
            arrays: Any = {**blocks, **rows}
            np.savez(stream, **arrays)
        return
    named = {f"{name}{k + 1}": block[:, k] for name, block in blocks.items() for k in range(block.shape[1])}
    columns = {**{name.removesuffix("s"): values for name, values in rows.items()}, **named}
    with replacing(path) as file:
        if path.suffix == ".csv":
            with file.open("w", encoding="utf-8") as stream:
                stream.write(",".join(columns) + "\n")
                for row in zip(*(values.tolist() for values in columns.values()), strict=True):
                    stream.write(",".join(f"{value:.9g}" for value in row) + "\n")  # single precision, and back
        else:
            optional("pandas", "tables").DataFrame(columns).to_parquet(file)


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
