"""MATLAB's files: matrices, structs, cells of trials and sparse matrices, of versions 4 to 7 and 7.3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.hdf5 import at_path, load_data_set, opened, text_of, wrong
from recparam.data.recording import Recording
from recparam.data.stored import AGAIN, Stored, chosen
from recparam.utils.extras import optional

_HEADER = b"\x89HDF"
_OBJECT = "an object of MATLAB, as tables, strings and dates are. Save it as a matrix, as by table2array."


def read_matlab(path: Path, key: str | None) -> Recording:
    """The rows of a matrix, or of a cell of matrices, which are sessions; a vector has rows of one number.

    Args:
        path: The file.
        key: A variable, with the fields of structs after dots and the numbers of cells in braces: `rec.spikes`,
            `trials{2}`.

    Raises:
        ValueError: A damaged file, several variables that might be meant, or one without rows of numbers.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(516)
    if start[:4] == _HEADER or start[512:] == _HEADER:  # version 7.3
        with opened(path) as file:
            names = [name for name in file if not name.startswith("#")]
            return _chosen([one for name in names for one in _variable_73(name, at_path(file, name))], key)
    from scipy.io import loadmat

    try:
        content = loadmat(path, chars_as_strings=True)
    except Exception as error:  # a damaged file makes it raise nearly anything
        raise ValueError(f"Expected a whole .mat file; got one that is damaged ({error}). {AGAIN}") from error
    values = [(name, value) for name, value in content.items() if not name.startswith("__")]
    return _chosen([one for name, value in values for one in _variable(name, value)], key)


def _chosen(found: Sequence[Stored], key: str | None) -> Recording:
    return chosen(found, key, separator=".").recording()


def _variable(name: str, value: Any) -> Iterator[Stored]:
    """What is to choose in a variable of versions up to 7."""
    from scipy.io.matlab import MatlabFunction, MatlabOpaque

    if value is None:
        yield wrong(name, "empty")
    elif isinstance(value, MatlabFunction | MatlabOpaque):
        yield wrong(name, _OBJECT)
    elif hasattr(value, "toarray"):
        yield _matrix(name, value.shape, value.dtype, value.toarray, notes=(f"{name} is sparse, and read as dense.",))
    elif value.dtype.names is not None:
        for field in value.dtype.names:
            parts = [element[field] for element in value.reshape(-1)]
            yield from _variable(f"{name}.{field}", parts[0]) if len(parts) == 1 else _cell(f"{name}.{field}", parts)
    elif value.dtype.kind == "O":
        yield from _cell(name, list(value.reshape(-1, order="F")))
    else:
        yield _matrix(name, value.shape, value.dtype, lambda: value)


def _variable_73(name: str, item: Any) -> Iterator[Stored]:
    """What is to choose in a variable of version 7.3, whose arrays are transposed in the file."""
    h5py = optional("h5py", "hdf5")

    if item is None:
        yield wrong(name, "a link to nothing")
    elif "MATLAB_object_decode" in item.attrs:
        yield wrong(name, _OBJECT)
    elif "MATLAB_sparse" in item.attrs:
        shape = (int(item.attrs["MATLAB_sparse"]), len(item["jc"]) - 1 if "jc" in item else 0)
        kind = item["data"].dtype if "data" in item else np.dtype(np.float64)
        note = f"{name} is sparse, and read as dense."
        yield _matrix(name, shape, kind, partial(_dense, item, shape), notes=(note,))
    elif isinstance(item, h5py.Group):
        for field in item:
            yield from _variable_73(f"{name}.{field}", item[field])
    elif text_of(item, "MATLAB_class") == "char":
        yield wrong(name, "text")
    elif item.shape is None or "MATLAB_empty" in item.attrs:
        yield wrong(name, "empty")
    elif h5py.check_ref_dtype(item.dtype) is not None:  # a cell, or a field of an array of structs
        yield from _cell(name, [item.file[reference] for reference in item[...].reshape(-1) if reference])
    else:
        logical = text_of(item, "MATLAB_class") == "logical"
        kind = np.dtype(bool) if logical else item.dtype
        yield _matrix(name, item.shape[::-1], kind, partial(_transposed, item, logical))


def _transposed(item: Any, logical: bool) -> np.ndarray:
    array = load_data_set(item).T  # MATLAB's first dimension varies fastest
    return array.astype(bool) if logical else array


def _dense(item: Any, shape: tuple[int, int]) -> np.ndarray:
    from scipy.sparse import csc_array

    if "data" not in item:  # MATLAB leaves it out where all is zero
        return np.zeros(shape)
    rows, starts = (item[part][...].astype(np.int64) for part in ("ir", "jc"))
    return csc_array((item["data"][...], rows, starts), shape=shape).toarray()


def _matrix(
    name: str, shape: tuple[int, ...], kind: np.dtype[Any], load: Any, *, notes: tuple[str, ...] = ()
) -> Stored:
    """A matrix, whose vectors have no direction, as MATLAB's functions take them."""
    if len(shape) == 2 and 1 in shape and 0 not in shape:
        rows = (max(shape),)
        if rows == (1,):
            return wrong(name, "text" if kind.kind in "US" else "a single number")
        return Stored(name, rows, kind, lambda: load().reshape(-1), notes=notes)
    return Stored(name, shape, kind, load, notes=notes)


def _cell(name: str, parts: Sequence[Any]) -> Iterator[Stored]:
    """A cell: of matrices with the same columns, which are sessions, or of things to choose from."""
    inside = [
        list(_variable_73(f"{name}{{{k}}}", part) if hasattr(part, "attrs") else _variable(f"{name}{{{k}}}", part))
        for k, part in enumerate(parts, 1)
    ]
    empty = [len(found) == 1 and found[0].problem.startswith("empty") for found in inside]
    inside, parts = ([one for one, lost in zip(every, empty, strict=True) if not lost] for every in (inside, parts))
    if not inside or any(len(found) != 1 or found[0].problem or found[0].name[-1] != "}" for found in inside):
        yield from (one for found in inside for one in found)
        if not inside:
            yield wrong(name, "an empty cell")
        return
    plain = [replace(found[0], part=True) for found in inside]
    yield from plain
    shapes = [_shape(part, one) for part, one in zip(parts, plain, strict=True)]
    if all(len(shape) == 2 and 1 in shape for shape in shapes):
        problem = f"a cell of {len(shapes)} vectors, as spike times are. Bin them with bin_spikes, which takes a list"
        yield wrong(name, f"{problem} of times, or choose one: key={plain[0].name!r}.")
    elif len({shape[1:] for shape in shapes}) > 1:
        problem = f"a cell of matrices with other columns each, {', '.join(map(str, shapes[:3]))}. Save them as"
        yield wrong(name, f"{problem} (time, channels), or choose one: key={plain[0].name!r}.")
    else:
        loads = [one.load for one in plain]
        said = f"{sum(empty)} empty matrices of {name} are left out."
        yield Stored(
            name,
            (sum(shape[0] for shape in shapes), *shapes[0][1:]),
            np.result_type(*(one.dtype for one in plain)),
            lambda: [load().reshape(shape) for load, shape in zip(loads, shapes, strict=True)],
            notes=(f"The {len(shapes)} matrices of {name} are sessions.", *([said] if any(empty) else [])),
        )


def _shape(part: Any, one: Stored) -> tuple[int, ...]:
    """Of a matrix before it is taken for a vector."""
    if hasattr(part, "attrs"):
        return part.shape[::-1] if hasattr(part, "shape") else one.shape or ()
    return part.shape
