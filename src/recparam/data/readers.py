"""Readers: a file, a folder of images, or one of them per session, as a recording."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.frames import IMAGES, VIDEOS, read_images, read_video
from recparam.data.recording import Recording
from recparam.data.tables import chosen_columns, open_csv
from recparam.utils.extras import optional

_IN_MEMORY = 1 << 28  # bytes; larger arrays stay on disk where their file allows it
_HEADER = b"\x89HDF"
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
        path: .npy, .npz, .csv, .tsv, .parquet, .h5, .hdf5, .nwb, .mat, a video, or a folder of images.
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


@dataclass(frozen=True)
class Stored:
    """An array in a .npy or .npz file, of which only the header was read.

    Args:
        path: The file.
        member: Its name in an archive; None: the file is the array.
        shape: Of the array.
        dtype: Of its numbers.
        fortran: Whether columns follow each other in the file.
        start: Where its numbers begin in the file; None: it is compressed.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int | None

    def load(self) -> np.ndarray:
        """The array, memory-mapped where it is large.

        Raises:
            ValueError: Python objects, or a damaged file.
        """
        _check_no_objects(self.member or "the array", self.dtype)
        if self.start is not None and math.prod(self.shape) * self.dtype.itemsize > _IN_MEMORY:
            order = "F" if self.fortran else "C"
            with _whole(self.path):
                return np.memmap(self.path, self.dtype, mode="r", offset=self.start, shape=self.shape, order=order)
        with _whole(self.path), ExitStack() as opened:
            if self.member is None:
                file = opened.enter_context(self.path.open("rb"))
            else:
                file = opened.enter_context(zipfile.ZipFile(self.path)).open(f"{self.member}.npy")
            return np.lib.format.read_array(file, allow_pickle=False)


def stored_arrays(path: Path) -> dict[str, Stored]:
    """The arrays of a .npy or .npz file by name, of which nothing is read before it is loaded; nothing is unpickled.

    Raises:
        ValueError: A damaged file.
        OSError: The file cannot be read.
    """
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return {path.stem: Stored(path, None, *_header(file), file.tell())}
    found: dict[str, Stored] = {}
    with _whole(path), zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                header, length = _header(file), file.tell()
            raw.seek(info.header_offset)
            before = 30 + sum(struct.unpack("<26x2H", raw.read(30)))  # lengths of the name and of what follows it
            start = info.header_offset + before + length if info.compress_type == zipfile.ZIP_STORED else None
            found[name] = Stored(path, name, *header, start)
    return found


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of what comes of a damaged file that it is damaged."""
    try:
        yield
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError) as error:
        if str(error).startswith("Expected"):
            raise
        kind = path.suffix.lower()
        raise ValueError(
            f"Expected a whole {kind} file; got one that is damaged or cut off ({error}). {_AGAIN}"
        ) from error


def _numpy(path: Path, key: str | None) -> Recording:
    found = stored_arrays(path)
    if path.suffix.lower() == ".npy":
        if key is not None:
            raise ValueError(f"Expected key= with files of several arrays; got key={key!r} with a single one.")
        return Recording.of(found[path.stem].load())
    return Recording.of(found[_chosen({name: (one.shape, one.dtype) for name, one in found.items()}, key)].load())


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape, type and whether columns follow each other, of an array in numpy's format, of which no more is read."""
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
        # Neurodata Without Borders keeps the times of a series next to its data.
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
    table = _read_parquet(path)
    return Recording.of(table.iloc[:, chosen_columns([str(name) for name in table.columns], key, without)])


def _read_parquet(path: Path) -> Any:
    pandas = optional("pandas", "tables")
    optional("pyarrow", "tables")
    return pandas.read_parquet(path)


def _csv(path: Path, key: str | None, without: Sequence[str] = ()) -> Recording:
    table = open_csv(path)
    frame = table.numbers(key, without)
    recording = Recording.of(frame if table.named else frame.values)
    for note in frame.notes:
        recording.noted(note)
    return recording


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npy or .npz file, or the columns of a table, by name: numbers, or text where some are none.

    Args:
        path: One of `READ_AS_COLUMNS`; cells of tables that are empty are NaN, columns without a name are numbered.

    Raises:
        ValueError: One sentence that begins with the file: it is damaged, or holds Python objects.
        OSError: The file cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".npy", ".npz"):
            return {name: stored.load() for name, stored in stored_arrays(path).items()}
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
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return array.astype(str)


READ_AS_COLUMNS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
_TABLES: dict[str, Callable[[Path, str | None, Sequence[str]], Recording]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
_READERS: dict[str, Callable[..., Recording]] = {
    ".npy": _numpy,
    ".npz": _numpy,
    **_TABLES,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".nwb": _hdf5,
    ".mat": _mat,
}
