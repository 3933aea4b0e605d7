"""Readers: a file, a folder of images, or one of them per session, as a recording."""

from __future__ import annotations

import csv
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.frames import IMAGES, VIDEOS, optional, read_images, read_video
from recparam.data.recording import Recording

_IN_MEMORY = 1 << 28  # bytes; larger arrays stay on disk where their file allows it
_HEADER = b"\x89HDF"
_MISSING = ("", "NA", "NULL", "null")  # what tables write where a value is missing, other than nan
_AGAIN = "Copy or save it again."


def read(
    path: str | Path | Sequence[str | Path],
    *,
    key: str | None = None,
    size: int | None = None,
    grey: bool | None = None,
    without: Sequence[str] = (),
) -> Recording:
    """Read a recording; several paths are its sessions.

    Nothing in a file is ever unpickled. Arrays above 256 MB in .npy, uncompressed .npz and contiguous HDF5 files are
    memory-mapped, so that they may be larger than memory; their values are checked where rows are read.

    Args:
        path: .npy, .npz, .csv, .parquet, .h5, .hdf5, .nwb, .mat, a video, or a folder of images.
        key: Which array of a file with several (`group/name` in HDF5), or which columns of a table, separated by
            commas; None: the only array of two or more dimensions, or all columns.
        size: Pixels of the longer side of frames; None: as they are, at most 128.
        grey: Whether frames have one channel; None: as they are.
        without: Columns of a table that are no data, where key is None.

    Returns:
        The recording; videos have times in seconds, tables names, and `notes` say what was done to the data.

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
        return recordings[0] if len(recordings) == 1 else Recording.join(recordings)
    except ValueError as error:
        raise ValueError(f"{', '.join(map(str, paths))}: {error}") from error


def _read_one(
    path: Path, *, key: str | None, size: int | None, grey: bool | None, without: Sequence[str]
) -> Recording:
    if not path.exists():
        raise ValueError("Expected a file or a folder of images; got a path at which there is nothing.")
    suffix = path.suffix.lower()
    frames = read_images if path.is_dir() else read_video if suffix in VIDEOS else None
    if frames is not None:
        if key is not None:
            raise ValueError(f"Expected key= with arrays and tables; got key={key!r} with frames. Leave it out.")
        return frames(path, size=size, grey=grey)
    if size is not None or grey is not None:
        raise ValueError("Expected size= and grey= with videos and folders of images; got an array. Leave them out.")
    reader = _READERS.get(suffix)
    if reader is None:
        known = ", ".join([*_READERS, *VIDEOS])
        raise ValueError(f"Expected one of {known}, or a folder of images ({', '.join(IMAGES)}); got {suffix!r}.")
    try:
        if suffix in _TABLES:
            return _TABLES[suffix](path, key, without)
        return reader(path, key)
    except OSError as error:
        raise ValueError(f"Expected a file that can be read; got {error}. {_AGAIN}") from error


# Arrays


def _npy(path: Path, key: str | None) -> Recording:
    if key is not None:
        raise ValueError(f"Expected key= with files of several arrays; got key={key!r} with a single one.")
    with path.open("rb") as file:
        _, dtype, _ = _header(file)
    _check_no_objects("the array", dtype)
    try:
        return Recording.of(np.load(path, mmap_mode="r" if path.stat().st_size > _IN_MEMORY else None))
    except (ValueError, EOFError) as error:
        if isinstance(error, ValueError) and str(error).startswith("Expected"):
            raise
        raise ValueError(f"Expected a whole .npy file; got one that is cut off ({error}). {_AGAIN}") from error


def _npz(path: Path, key: str | None) -> Recording:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
            headers, starts = {}, {}
            for name, info in members.items():
                with archive.open(info) as file:
                    headers[name] = _header(file)
                    starts[name] = file.tell()
            name = _chosen({name: (shape, dtype) for name, (shape, dtype, _) in headers.items()}, key)
            shape, dtype, fortran = headers[name]
            _check_no_objects(name, dtype)
            info = members[name]
            if info.compress_type == zipfile.ZIP_STORED and info.file_size > _IN_MEMORY:
                with path.open("rb") as file:
                    file.seek(info.header_offset)
                    before = struct.unpack("<26x2H", file.read(30))  # lengths of the name and of what follows it
                offset = info.header_offset + 30 + sum(before) + starts[name]
                order = "F" if fortran else "C"
                array = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
            else:
                with archive.open(info) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"Expected a whole .npz file; got one that is damaged ({error}). {_AGAIN}") from error
    return Recording.of(array)


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and column order of an array in numpy's format, before anything of it is read."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
    except ValueError as error:
        raise ValueError(f"Expected an array that numpy saved; got another or a damaged file. {_AGAIN}") from error
    return shape, dtype, fortran


def _check_no_objects(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise ValueError(
            f"Expected {name} as an array of numbers; got Python objects, which may run code when they are read. "
            "Save it as an array of numbers, or as one array per session."
        )


def _chosen(arrays: Mapping[str, tuple[tuple[int, ...], Any]], key: str | None) -> str:
    """The array that is asked for, or the only one with rows of more than one number."""
    listed = ", ".join(f"{name} {shape}" for name, (shape, _) in arrays.items()) or "nothing"
    if key is not None:
        if key not in arrays:
            raise ValueError(f"Expected key= as one of its arrays, {listed}; got {key!r}.")
        return key
    wide = [name for name, (shape, dtype) in arrays.items() if len(shape) >= 2 and dtype.kind in "biufO"]
    if len(wide) != 1:
        raise ValueError(f"Expected one array of shape (N, ...), or key= to choose; got {listed}. Give key=.")
    return wide[0]


# Other people's formats


def _hdf5(path: Path, key: str | None, *, matlab: bool = False) -> Recording:
    h5py = optional("h5py", "hdf5")
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        key = None if key is None else key.strip("/")
        name = _chosen({name: (item.shape, item.dtype) for name, item in found.items()}, key)
        dataset = found[name]
        _check_no_objects(name, dataset.dtype)
        offset = dataset.id.get_offset()
        if offset is not None and dataset.nbytes > _IN_MEMORY:
            array = np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
        else:
            array = dataset[...]
        # Neurodata Without Borders keeps the times of a series beside its data.
        stamps = found.get(f"{name.rpartition('/')[0]}/timestamps") if path.suffix.lower() == ".nwb" else None
        times = None if stamps is None else stamps[...]
    return Recording.of(array.T if matlab else array, times=times)  # MATLAB's first dimension varies fastest


def _mat(path: Path, key: str | None) -> Recording:
    from scipy.io import loadmat

    with path.open("rb") as file:
        start = file.read(516)
    if start[:4] == _HEADER or start[512:] == _HEADER:  # version 7.3
        return _hdf5(path, key, matlab=True)
    try:
        content = loadmat(path)
    except Exception as error:  # a damaged file makes it raise nearly anything
        raise ValueError(f"Expected a whole .mat file; got one that is damaged ({error}). {_AGAIN}") from error
    arrays = {name: value for name, value in content.items() if not name.startswith("__")}
    # MATLAB's numbers and vectors are matrices too.
    shapes = {n: (tuple(k for k in a.shape if k > 1) if key is None else a.shape, a.dtype) for n, a in arrays.items()}
    name = _chosen(shapes, key)
    _check_no_objects(name, arrays[name].dtype)
    return Recording.of(arrays[name])


# Tables


def _parquet(path: Path, key: str | None, without: Sequence[str] = ()) -> Recording:
    pandas = optional("pandas", "tables")
    optional("pyarrow", "tables")
    table = pandas.read_parquet(path)
    return Recording.of(table[_columns([str(c) for c in table.columns], key, without)])


def _csv(path: Path, key: str | None, without: Sequence[str] = ()) -> Recording:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(csv.reader(file), [])
    named = not all(map(_is_number, first))
    names = [name.strip() for name in first] if named else [str(number) for number in range(len(first))]
    if not names:
        raise ValueError("Expected a table with columns of numbers; got an empty file.")
    chosen = _columns(names, key, without)
    places = [names.index(name) for name in chosen]
    try:
        values = np.loadtxt(
            path, delimiter=",", skiprows=int(named), ndmin=2, usecols=places, encoding="utf-8-sig", quotechar='"'
        )
    except ValueError:
        values = _careful_csv(path, names, places, skip=int(named))
    return Recording.of(_Table(values, chosen) if named else values)


def _careful_csv(path: Path, names: list[str], places: list[int], *, skip: int) -> np.ndarray:
    """A table with missing values, which are NaN, or the sentence that says what else is wrong with it."""
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if number <= skip or not row:
                continue
            if len(row) != len(names):
                raise ValueError(f"Expected {len(names)} columns in each row; got {len(row)} in line {number}.")
            for place in places:
                if row[place].strip() not in _MISSING and not _is_number(row[place]):
                    raise ValueError(
                        f"Expected columns of numbers; got {row[place]!r} in column {names[place]!r} of line {number}. "
                        "Choose columns with key=, names separated by commas."
                    )
            rows.append([math.nan if row[place].strip() in _MISSING else float(row[place]) for place in places])
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(places))


class _Table:
    """Columns with names, as `Recording.of` takes them from a data frame."""

    def __init__(self, values: np.ndarray, columns: list[str]) -> None:
        self.values, self.columns = values, columns

    def to_numpy(self) -> np.ndarray:
        """The values, a row for each line."""
        return self.values


def _columns(names: list[str], key: str | None, without: Sequence[str]) -> list[str]:
    if key is None:
        return [name for name in names if name not in without]
    chosen = [name.strip() for name in key.split(",")]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ValueError(f"Expected key= as columns of {', '.join(names)}; got {', '.join(unknown)}.")
    return chosen


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_TABLES: dict[str, Callable[[Path, str | None, Sequence[str]], Recording]] = {".csv": _csv, ".parquet": _parquet}
_READERS: dict[str, Callable[[Path, str | None], Recording]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".nwb": _hdf5,
    ".mat": _mat,
}
