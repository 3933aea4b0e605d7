"""Readers: a file, a folder of images, or one of them per session, as a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.checks import listed
from recparam.data.clocks import kind_of, told
from recparam.data.frames import IMAGES, VIDEOS, Wide, in_one_range
from recparam.data.hdf5 import read_hdf5
from recparam.data.images import read_images
from recparam.data.matlab import read_matlab
from recparam.data.numpy_files import read_numpy, stored_arrays
from recparam.data.nwb import read_nwb, read_spikes
from recparam.data.recording import Recording
from recparam.data.stored import AGAIN, Stored
from recparam.data.tables import check_data_left, chosen_columns, open_csv
from recparam.data.videos import read_video
from recparam.utils.extras import optional

__all__ = ["READ_AS_COLUMNS", "read", "read_columns", "read_spikes"]


def read(
    path: str | Path | Sequence[str | Path],
    *,
    key: str | None = None,
    size: int | None = None,
    grey: bool | None = None,
    without: Sequence[str] = (),
) -> Recording:
    """Read a recording; several paths are its sessions.

    Nothing in a file is ever unpickled. Arrays above 256 MB in .npy, uncompressed .npz and HDF5 files stay on disk, so
    that they may be larger than memory; their values are checked where rows are read.

    Args:
        path: .npy, .npz, .csv, .tsv, .parquet, .h5, .hdf5, .nc, .nwb, .mat, a video, an image of several pages, or a
            folder of images.
        key: Which array of a file with several (`group/name` in HDF5, `struct.field` in MATLAB), or which columns of a
            table, separated by commas; None: the only array that can be meant, or all columns.
        size: Pixels of the longer side of frames; None: as they are, at most 128.
        grey: Whether frames have one channel; None: as they are.
        without: Columns of a table that are no data, where key is None.

    Returns:
        The recording; videos and series have times in seconds, tables names, and `notes` say what was done to the
        data. Matrices in a cell of MATLAB are sessions.

    Raises:
        ValueError: One sentence that begins with the file: it does not exist, is damaged or cut off, holds Python
            objects, text or several arrays, or needs an optional dependency.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from recparam.data.readers import read
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(Path(folder) / "rat.npz", counts=np.ones((5, 3)), seconds=np.arange(5.0))
        ...     read(Path(folder) / "rat.npz")
        Recording((5, 3), float64, 1 session, in memory)
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]
    if not paths:
        raise ValueError("Expected path as one file or several, one per session; got none.")
    recordings = []
    for one in paths:
        try:
            recordings.append(_read_one(one, key=key, size=size, grey=grey, without=without))
        except ValueError as error:
            raise ValueError(f"{one}: {error}") from error
    try:
        sessions = in_one_range(recordings, paths)
        return sessions[0] if len(sessions) == 1 else Recording.join(sessions)
    except ValueError as error:
        raise ValueError(f"{listed(paths)}: {error}") from error


def _read_one(
    path: Path, *, key: str | None, size: int | None, grey: bool | None, without: Sequence[str]
) -> Recording | Wide:
    if not path.exists():
        raise ValueError("Expected a file or a folder of images; got a path at which there is nothing.")
    suffix = path.suffix.lower()
    images = path.is_dir() or suffix in IMAGES
    frames = read_images if images else read_video if suffix in VIDEOS else None
    if frames is not None:
        if key is not None:
            raise ValueError(f"Expected key= with arrays and tables; got key={key!r} with frames. Leave it out.")
        return frames(path, size=size, grey=grey)
    if size is not None or grey is not None:
        raise ValueError("Expected size= and grey= with videos and folders of images; got an array. Leave them out.")
    reader = _READERS.get(suffix)
    if reader is None:
        known = ", ".join([*_READERS, *VIDEOS])
        raise ValueError(
            f"Expected one of {known}, or images or a folder of them ({', '.join(IMAGES)}); got {suffix!r}. Save the "
            "data as one of these."
        )
    try:
        if suffix in _TABLES:
            return _TABLES[suffix](path, key, without)
        return reader(path, key)
    except OSError as error:
        raise ValueError(f"Expected a file that can be read; got {error}. {AGAIN}") from error


# Tables


def _parquet(path: Path, key: str | None, without: Sequence[str] = ()) -> Recording:
    table = _read_parquet(path)
    index = table.index  # with levels, such as (trial, time), it is understood by `Recording.of`
    if index.nlevels == 1 and (index.dtype.kind == "M" or index.name is not None and kind_of(str(index.name))):
        table = table.reset_index()
    names = [str(name) for name in table.columns]
    places = chosen_columns(names, key, without)
    aside = places if key else []
    known = [k for k, name in enumerate(names) if name not in without and k not in aside]
    dates = {k: _seconds(table.iloc[:, k]) for k in known}
    known = [k for k in known if dates[k] is not None or table.dtypes.iloc[k].kind in "iuf"]
    if key:
        known = [k for k in known if dates[k] is not None or kind_of(names[k]) == "clock"][:1]
    columns = [_floats(table.iloc[:, k]) if (seconds := dates[k]) is None else seconds for k in known]
    about = told([names[k] for k in known], columns, [j for j, k in enumerate(known) if dates[k] is not None])
    left_out = [known[j] for j in about.left_out]
    places = places if key else [k for k in places if k not in left_out]
    check_data_left([names[k] for k in places], names)
    return _noted(Recording.of(table.iloc[:, places], times=about.times, sessions=about.sessions), about.notes)


def _seconds(column: Any) -> np.ndarray | None:
    """Seconds since the first row, of a column of dates or of durations; None: it is none."""
    if column.dtype.kind not in "Mm" or not len(column):
        return None
    return _floats((column - column.iloc[0]).dt.total_seconds())


def _floats(column: Any) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _read_parquet(path: Path) -> Any:
    pandas = optional("pandas", "tables")
    optional("pyarrow", "tables")
    return pandas.read_parquet(path)


def _csv(path: Path, key: str | None, without: Sequence[str] = ()) -> Recording:
    table = open_csv(path)
    frame = table.numbers(key, without)
    data = frame if table.named else frame.values
    return _noted(Recording.of(data, times=frame.times, sessions=frame.sessions), frame.notes)


def _noted(recording: Recording, notes: Sequence[str]) -> Recording:
    for note in notes:
        recording.noted(note)
    return recording


class _Arrays(Mapping[str, np.ndarray]):
    """Arrays of a file, each read when it is asked for."""

    def __init__(self, path: Path, stored: Mapping[str, Stored]) -> None:
        self._path, self._stored = path, stored

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._stored[name].load()
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def read_columns(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of a .npy or .npz file, or the columns of a table, by name: numbers, or text where some are none.

    Args:
        path: One of `READ_AS_COLUMNS`; cells of tables that are empty are NaN, columns without a name are numbered.

    Raises:
        ValueError: One sentence that begins with the file: it is damaged, or holds Python objects, which is found where
            the array is asked for.
        OSError: The file cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return _Arrays(path, stored_arrays(path))
        if suffix == ".npy":
            return {path.stem: stored_arrays(path)[path.stem].load()}
        if suffix != ".parquet":
            return open_csv(path).columns()
        table = _read_parquet(path)
        return {str(name): _number_or_text(table[name]) for name in table.columns}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _number_or_text(column: Any) -> np.ndarray:
    """A column of a data frame, in which objects are numbers with missing ones among them, or text."""
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert(None)
    if (array := column.to_numpy()).dtype.kind != "O":
        return array
    try:
        return _floats(column)
    except (TypeError, ValueError):
        return array.astype(str)


READ_AS_COLUMNS = (".npy", ".npz", ".csv", ".tsv", ".txt", ".parquet")
_TABLES: dict[str, Callable[[Path, str | None, Sequence[str]], Recording]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,
    ".parquet": _parquet,
}
_READERS: dict[str, Callable[..., Recording]] = {
    ".npy": read_numpy,
    ".npz": read_numpy,
    **_TABLES,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".nc": read_hdf5,
    ".nwb": read_nwb,
    ".mat": read_matlab,
}
