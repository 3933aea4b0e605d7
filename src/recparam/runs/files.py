"""Files of values per row: labels that are read, latents that are written."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from recparam.data.frames import optional
from recparam.data.readers import read
from recparam.data.recording import Recording
from recparam.storage import replacing

_ENDINGS = (".npz", ".csv", ".parquet")
_MOST_LABELS = 6  # one picture each


def write_latents(
    path: Path, z: Float[np.ndarray, "N D"], *, recording: Recording, std: Float[np.ndarray, "N D"] | None = None
) -> None:
    """Write latents as npz (arrays z, std, sessions, times), csv or parquet (columns z1, ..., std1, ...).

    Args:
        path: The file; its ending says which. Replaced as a whole, or not at all.
        z: Mean latents.
        recording: Gives the sessions and times of the rows.
        std: Standard deviations of the latents.

    Raises:
        ValueError: An unknown ending, or a missing package.
        OSError: The file cannot be written.
    """
    check_latents_path(path)
    blocks = {"z": z} if std is None else {"z": z, "std": std}
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
        key: Name of one array, or of one column of a table; None: all that have so many rows.

    Returns:
        Values by name, each of shape (rows,), at most six.

    Raises:
        ValueError: Another number of rows, too many columns, no numbers, or a file that cannot be read.
    """
    if path.suffix in (".npy", ".npz"):
        arrays = read_arrays(path)
    else:
        recording = read(path)
        names = recording.names or tuple(f"column {k}" for k in range(recording.shape[-1]))
        arrays = {name: recording[:][:, k] for k, name in enumerate(names)} if len(recording.shape) == 2 else {}
    if key is not None and key not in arrays:
        raise ValueError(f"Expected --key as one of {', '.join(arrays)}; got {key!r}, which is not in {path}.")
    arrays = {key: arrays[key]} if key is not None else arrays
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "biuf" and array.ndim in (1, 2)}
    fitting = {name: array for name, array in arrays.items() if len(array) == rows}
    if not fitting:
        found = ", ".join(f"{array.shape} in {name}" for name, array in arrays.items()) or "no table of numbers"
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


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an npy or npz file, by name, without unpickling."""
    try:
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            return {path.stem: found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: no arrays can be read from it ({error}). Restore it from a copy.") from error
