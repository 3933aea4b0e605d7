"""Arrays that numpy saved, .npy and .npz, of which nothing is unpickled."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data import stored
from recparam.data.recording import Recording
from recparam.data.stored import AGAIN, Stored, chosen, no_rows

_SINGLE = b"\x93NUMPY"
_ARCHIVE = b"PK"
_LONGEST_HEADER = 1 << 20  # bytes: records of many fields pass numpy's 10,000
_SPARSE = {"format", "shape", "data"}  # what scipy.sparse.save_npz writes, among others

_Header = tuple[tuple[int, ...], np.dtype[Any], bool]


def read_numpy(path: Path, key: str | None) -> Recording:
    """The rows of a .npy or .npz file.

    Raises:
        ValueError: A damaged file, several arrays that might be meant, or one without rows of numbers.
        OSError: The file cannot be read.
    """
    found = stored_arrays(path)
    if _holds(path, _SINGLE):
        if key is not None:
            raise ValueError(f"Expected key= with files of several arrays; got key={key!r} with a single one. Omit it.")
        return found[path.stem].recording()
    if found.keys() >= _SPARSE and key is None:
        from scipy.sparse import load_npz

        with _whole(path):
            matrix = load_npz(path)
        return Recording.of(matrix.toarray()).noted("A sparse matrix, read as a dense one.")
    return chosen(found.values(), key).recording()


def stored_arrays(path: Path) -> dict[str, Stored]:
    """The arrays of a .npy or .npz file by name, of which nothing is read before it is loaded; nothing is unpickled.

    The content decides which of the two a file is, and not its ending.

    Raises:
        ValueError: A damaged file.
        OSError: The file cannot be read.
    """
    if _holds(path, _SINGLE) or (path.suffix.lower() == ".npy" and not _holds(path, _ARCHIVE)):
        with path.open("rb") as file:
            return {path.stem: _stored(path, None, _header(file), file.tell())}
    found: dict[str, Stored] = {}
    with _whole(path), zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = info.filename.removesuffix(".npy")
            if info.flag_bits & 1:
                found[name] = _no_array(info.filename, "encrypted. Save it without a password.")
                continue
            with archive.open(info) as file:
                if file.read(len(_SINGLE)) != _SINGLE:
                    found[info.filename] = _no_array(info.filename, "no array that numpy saved")
                    continue
                file.seek(0)
                header, length = _header(file), file.tell()
            raw.seek(info.header_offset)
            before = 30 + sum(struct.unpack("<26x2H", raw.read(30)))  # lengths of the name and of what follows it
            start = info.header_offset + before + length if info.compress_type == zipfile.ZIP_STORED else None
            found[name] = _stored(path, info.filename, header, start)
    return found


def _holds(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _no_array(name: str, wrong: str) -> Stored:
    def load() -> np.ndarray:
        raise ValueError(f"Expected {name} as an array of numbers; got a file that is {wrong}")

    return Stored(name, None, np.dtype("V"), load, wrong)


def _stored(path: Path, member: str | None, header: _Header, start: int | None) -> Stored:
    """An array in a file; `start` is where its numbers begin, None: it is compressed."""
    shape, dtype, fortran = header
    name = path.stem if member is None else member.removesuffix(".npy")
    return Stored(name, shape, dtype, partial(_load, path, member, shape, dtype, fortran, start))


def _load(
    path: Path, member: str | None, shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, start: int | None
) -> np.ndarray:
    """The array, memory-mapped where it is large."""
    if dtype.hasobject:
        raise ValueError(f"Expected {member or 'the array'} as an array of numbers; got {no_rows(shape, dtype)}")
    with _whole(path):
        if start is not None and math.prod(shape) * dtype.itemsize > stored.IN_MEMORY:
            return np.memmap(path, dtype, mode="r", offset=start, shape=shape, order="F" if fortran else "C")
        if member is None:
            with path.open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False, max_header_size=_LONGEST_HEADER)
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False, max_header_size=_LONGEST_HEADER)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of what comes of a damaged file that it is damaged."""
    try:
        yield
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError) as error:
        if str(error).startswith("Expected"):
            raise
        problem = f"one that is damaged or cut off ({error})"
        raise ValueError(f"Expected a whole {path.suffix.lower()} file; got {problem}. {AGAIN}") from error


def _header(file: Any) -> _Header:
    """Shape, type and whether columns follow each other, of an array in numpy's format, of which no more is read."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file, max_header_size=_LONGEST_HEADER)
    except ValueError as error:
        raise ValueError(f"Expected an array that numpy saved; got another or a damaged file. {AGAIN}") from error
    if version >= (3, 0) and dtype.names:  # whose names are UTF-8, which numpy's public reader takes for Latin-1
        dtype.names = tuple(name.encode("latin1").decode() for name in dtype.names)
    return shape, dtype, fortran
