"""What people give as data, read as arrays and labels of rows; everything that is wrong with it is said here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.lib.recfunctions import structured_to_unstructured
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recparam.utils.checks import check_unmasked

_SHOWN = 8  # names listed in a message
_LONGEST = 80  # characters of each
_TIMES = (date, timedelta, np.datetime64, np.timedelta64)


class NotNumbersError(ValueError, TypeError):
    """Data hold something that is no number; a TypeError too, as scikit-learn's conventions ask."""


def is_list_of_sessions(data: Any) -> bool:
    """Whether data are a list of arrays, one per session; or an array of arrays, which differ in length."""
    of_arrays = isinstance(data, np.ndarray) and data.dtype == object and data.ndim == 1
    if not (of_arrays or isinstance(data, list | tuple)) or not len(data):
        return False
    return all(getattr(part, "ndim", 0) >= 2 for part in data)


def array_and_names(data: Any, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The array of data, and what its columns are called, if that is known."""
    names = None
    if isinstance(data, Tensor):
        array = _of_tensor(data, name)
    elif hasattr(data, "to_numpy") and hasattr(data, "columns"):
        names = tuple(str(column) for column in data.columns)
        array = data.to_numpy()
        timed = any(getattr(kind, "kind", " ") in "mM" for kind in getattr(data, "dtypes", ()))
        if array.dtype.kind == "O" and not timed:
            with suppress(TypeError, ValueError):  # text: said below, with its columns
                array = data.to_numpy(dtype=np.float64, na_value=np.nan)
    elif hasattr(data, "toarray"):
        raise ValueError(f"Expected {name} as a dense array; got a sparse matrix. Use {name}.toarray().")
    elif data is None or isinstance(data, Mapping | Iterator | Dataset | DataLoader):
        kind = type(data).__name__
        raise NotNumbersError(f"Expected {name} as an array of numbers; got {kind}. Give an array, or a tensor.")
    elif isinstance(data, str | bytes | Path):
        raise ValueError(
            f"Expected {name} as an array; got a path. Use recparam.data.readers.read({str(data)!r})."
        )
    else:
        try:
            # Of a subclass, such as a matrix, which keeps two dimensions, and a masked array, the array alone.
            array = data if type(data) in (np.ndarray, np.memmap) else np.asarray(data)
        except ValueError as error:
            raise ValueError(
                f"Expected {name} with rows of one shape; got rows that differ. Pad or cut them, give sessions of "
                "different lengths as a list of arrays of shape (N, ...), or bin spike times by bin_spikes."
            ) from error
        if array.dtype.names and array.ndim == 1:
            names = array.dtype.names
            with suppress(TypeError, ValueError):  # fields that are no numbers: said below
                array = structured_to_unstructured(array)
    return _numbers(array, name, names), names


def hidden(part: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "N ..."]:
    """Which values a masked array hides; of others none."""
    if not isinstance(part, np.ma.MaskedArray):
        return np.zeros(shape, dtype=bool)
    mask: Any = np.ma.getmaskarray(part)
    return structured_to_unstructured(mask) if mask.dtype.names else np.asarray(mask)


def _of_tensor(data: Tensor, name: str) -> np.ndarray:
    if data.layout != torch.strided or data.is_nested or data.is_quantized or data.is_meta:
        raise ValueError(
            f"Expected {name} as a dense tensor of numbers; got one that is sparse, nested, quantised or without "
            f"values. Use {name}.to_dense(), or {name}.dequantize()."
        )
    data = data.detach().cpu()
    return (data.float() if data.dtype.itemsize < 4 and data.is_floating_point() else data).numpy()


def _numbers(array: np.ndarray, name: str, names: tuple[str, ...] | None) -> np.ndarray:
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"Complex data not supported. Expected {name} as real numbers; got {array.dtype}.")
    if kind == "O":
        columns = range(array.shape[1]) if array.ndim == 2 else ()
        try:
            array = _from_objects(array)
        except (TypeError, ValueError) as error:
            bad = [column for column in columns if not _is_numeric(array[:, column])]
            where = f" in {listed([column_name(names, column) for column in bad])}" if bad else ""
            times = any(isinstance(array[0, column], _TIMES) for column in bad)
            raise NotNumbersError(
                f"Expected {name} as an array of numbers; got objects{where} ({error}). Drop what is no number, "
                f"or turn it into numbers.{' When rows were observed is given as times=.' * times}"
            ) from error
    elif kind not in "biuf":
        raise NotNumbersError(
            f"Expected {name} as an array of numbers; got {array.dtype}. Drop what is no number, or convert it."
        )
    if array.ndim < 2:
        raise ValueError(
            f"Expected {name} of shape (N, ...), a row for each time; got {array.shape}. Reshape your data if each row "
            f"is one number. Use {name}.reshape(-1, 1)."
        )
    if not len(array):
        raise ValueError(f"Expected {name} with at least one row; got 0 samples (shape={array.shape}). Give more data.")
    if not array[:1].size:
        raise ValueError(
            f"Expected {name} with at least one number per row; got 0 feature(s) (shape={array.shape}) while a "
            "minimum of 1 is required."
        )
    return array


def _from_objects(array: np.ndarray) -> Float[np.ndarray, ...]:
    """Fractions, decimals and other numbers in double precision; what is missing as NaN."""
    if any(isinstance(value, _TIMES) for value in array.ravel()):  # of which numpy makes whole numbers
        raise TypeError("dates and durations are no numbers")
    return np.where(without_label(array), np.nan, array).astype(np.float64)


def _is_numeric(column: np.ndarray) -> bool:
    try:
        _from_objects(column)
    except (TypeError, ValueError):
        return False
    return True


def check_shapes(blocks: Sequence[np.ndarray], columns: Sequence[tuple[str, ...] | None]) -> None:
    """That sessions have rows of one shape, and the same columns."""
    for number, (block, names) in enumerate(zip(blocks, columns, strict=True)):
        if block.shape[1:] != blocks[0].shape[1:]:
            raise ValueError(
                f"Expected sessions with rows of one shape; got {blocks[0].shape[1:]} in session 0 and "
                f"{block.shape[1:]} in session {number}. Keep the columns that all of them have. Or give each an "
                "encoder of its own with recparam.data.channels.own_channels."
            )
        if names != columns[0]:
            sides = [list(side or ["columns without names"]) for side in (columns[0], names)]
            same = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(*sides, strict=False)))
            first, other = (listed(side[same:]) or "none" for side in sides)
            after = f" after column {same - 1}" if same else ""
            raise ValueError(
                f"Expected sessions with the same columns in the same order; got {first}{after} in session 0 and "
                f"{other} in session {number}. Reorder them."
            )


def without_label(labels: Any) -> Bool[np.ndarray, ...]:
    """Which labels are missing: NaN, None, NaT, NA of pandas, an empty text, or masked."""
    if isinstance(labels, np.ma.MaskedArray):
        return np.ma.getmaskarray(labels) | without_label(labels.data)
    array = labels if isinstance(labels, np.ndarray) else np.asarray(labels, dtype=object)
    if array.dtype.kind in "biu":
        return np.zeros(array.shape, dtype=bool)
    return np.array([_is_missing(label) for label in array.ravel()], dtype=bool).reshape(array.shape)


def _is_missing(label: Any) -> bool:
    if label is None or (isinstance(label, str) and not label.strip()):
        return True
    try:
        return bool(label != label)  # NaN and NaT alone
    except (TypeError, ValueError):  # NA of pandas is neither equal to itself nor not
        return True


def session_codes(sessions: Any, rows: int) -> Int[np.ndarray, " N"]:
    """The session of each row, counted from 0."""
    if sessions is None:
        return np.zeros(rows, dtype=np.int64)
    labels = per_row("sessions", sessions, [rows])
    if (lost := without_label(sessions)).shape == labels.shape and lost.any():
        raise ValueError(
            f"Expected the session of each row; got none for {lost.sum()} rows, the first is row "
            f"{lost.argmax()}. Name their session, or leave these rows out."
        )
    begins = np.r_[True, labels[1:] != labels[:-1]]
    names = labels[begins]
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        raise ValueError(
            f"Expected sessions whose rows follow each other; got {unique[counts > 1][0]!s} in several places. Sort "
            "the rows by session, or give each segment a label of its own."
        )
    return np.cumsum(begins) - 1


def masks(
    mask: Any, parts: Sequence[Any], blocks: Sequence[np.ndarray]
) -> tuple[Bool[np.ndarray, " N"] | None, Bool[np.ndarray, "N ..."] | None]:
    """Which rows may be used, and which single values were observed, from a mask of either; None: all.

    What masked arrays among the parts of the data hide was not observed, whatever else the mask says.
    """
    observed, known = (None, None) if mask is None else _from_mask(mask, [len(b) for b in blocks], blocks[0].shape[1:])
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        lost = np.concatenate([hidden(part, block.shape) for part, block in zip(parts, blocks, strict=True)])
        known = known & ~lost if known is not None else ~lost if lost.any() else None
    if known is not None:
        some = np.asarray(known.reshape(len(known), -1).any(1))
        observed = some if observed is None else observed & some
    return (None if observed is None or known is not None and observed.all() else observed), known


def _from_mask(
    mask: Any, lengths: Sequence[int], row: tuple[int, ...]
) -> tuple[Bool[np.ndarray, " N"] | None, Bool[np.ndarray, "N ..."] | None]:
    array = _of_sessions("mask", mask, lengths)
    if array.shape[1:] not in ((), row) or len(array) != sum(lengths):
        raise ValueError(
            f"Expected mask of shape {(sum(lengths),)}, one per row, or {(sum(lengths), *row)}, one per value; got "
            f"{array.shape}."
        )
    if array.dtype != np.bool_:
        raise ValueError(
            f"Expected mask as truth values, True where a row or value was observed; got {array.dtype}. Use mask == 1."
        )
    return (array, None) if array.ndim == 1 else (None, array)


def per_row(name: str, values: Any, lengths: Sequence[int]) -> np.ndarray:
    """Labels of the rows, (N,), given as one array or as one per session."""
    array = _of_sessions(name, values, lengths, flat=True)
    if array.shape != (sum(lengths),):
        raise ValueError(f"Expected {name} of shape ({sum(lengths)},), one per row; got {array.shape}.")
    return array


def _of_sessions(name: str, values: Any, lengths: Sequence[int], *, flat: bool = False) -> np.ndarray:
    """One array of values that come as one, or as a list of one array per session, of one dimension if flat."""
    dims = [getattr(part, "ndim", 0) for part in values] if isinstance(values, list | tuple) else []
    if dims and all(dim == 1 if flat else dim for dim in dims):
        found = [len(part) for part in values]
        if found != list(lengths):
            raise ValueError(f"Expected {name} of lengths [{listed(lengths)}], as the sessions; got [{listed(found)}].")
        values = np.ma.concatenate(values) if any(map(np.ma.is_masked, values)) else np.concatenate(values)
    if name != "sessions":  # of which `session_codes` says where they are missing
        check_unmasked(name, values)
    return np.asarray(values)


def in_seconds(times: np.ndarray, sessions: np.ndarray) -> Float[np.ndarray, " N"]:
    """When each row was observed, checked."""
    if times.dtype.kind == "M":
        # Since the first row: seconds since 1970 would leave microseconds to rounding.
        times = np.where(np.isnat(times), np.nan, (times - times[0]) / np.timedelta64(1, "s"))
    if times.dtype.kind not in "iuf":
        raise ValueError(f"Expected times in seconds or as datetime64; got {times.dtype}. Convert them.")
    times = times.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise ValueError(f"Expected finite times; got {times[bad[0]]} in row {bad[0]}. Drop such rows.")
    back = np.flatnonzero((np.diff(times) <= 0) & (np.diff(sessions) == 0))
    if len(back):
        raise ValueError(
            f"Expected times that increase within a session; got {times[back[0]]:g} s in row {back[0]} and "
            f"{times[back[0] + 1]:g} s in the next. Sort the rows, or say with sessions= where one ends."
        )
    return times


def column_name(names: tuple[str, ...] | None, column: int) -> str:
    """What a message calls a column."""
    return f"column {column}" if names is None else f"column {column} ({names[column]!r})"


def listed(names: Iterable[object]) -> str:
    """Names for a message, the first few of many."""
    names = [shortened(str(name)) for name in names]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def shortened(text: str) -> str:
    """A text for a message, its beginning if it is long."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
