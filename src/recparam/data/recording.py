"""Recordings: rows in the order in which they were observed, of one or several sessions, in memory or on disk."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from recparam.ops.checks import check_finite

_BLOCK_BYTES = 1 << 26  # looked at together, so that a column scan of a mapped file needs little memory
_MAPPED_BYTES = 1 << 28  # pages of mapped files that may stay resident before they are handed back
_FAULT_BYTES = 1 << 16  # what Linux maps around one touched byte
_SHOWN = 8  # names listed in a message


class NotNumbersError(ValueError, TypeError):
    """Data hold something that is no number; a TypeError too, as scikit-learn's conventions ask."""


class Recording:
    """N rows of one or several sessions, in the order in which they were observed; make one with `Recording.of`.

    Rows of memory-mapped arrays are read when they are asked for, and only those.

    Attributes:
        sessions: The session of each row, whole numbers from 0 that never decrease, (N,).
        times: When each row was observed, in seconds, increasing within a session, (N,); None: unknown.
        observed: Which rows may be used, (N,); None: all. Pairs never hold another row.
        names: What the columns of vectors are called; None: unknown.
        notes: What a reader did to the data, a sentence each.
    """

    def __init__(
        self,
        blocks: Sequence[np.ndarray],
        *,
        sessions: Int[np.ndarray, " N"],
        times: Float[np.ndarray, " N"] | None = None,
        observed: Bool[np.ndarray, " N"] | None = None,
        names: tuple[str, ...] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        mapped = [memory_map(block) for block in blocks]
        if len(blocks) > 1 and not any(mapped):
            blocks, mapped = [np.concatenate(blocks)], [None]
        self._blocks = list(blocks)
        self._maps = [block_map for block_map in mapped if block_map]
        self._ends = np.cumsum([len(block) for block in blocks])
        self._touched = 0
        self.sessions, self.times, self.observed, self.names, self.notes = sessions, times, observed, names, notes

    @classmethod
    def of(cls, data: Any, *, sessions: Any = None, times: Any = None, mask: Any = None) -> Recording:
        """A recording of an array, a tensor or a data frame, or of a list of them, one per session.

        Args:
            data: Numbers of shape (N, ...): a numpy array (memory-mapped ones stay on disk), a torch tensor, a
                pandas data frame, nested lists, or a recording. A list of arrays, tensors or data frames, each
                of two or more dimensions, is a list of sessions.
            sessions: The session of each row, (N,): numbers or names. The rows of a session follow each other.
            times: When each row was observed, in seconds or as datetime64, (N,), or a list with one array per
                session; increasing within a session. None: unknown.
            mask: True where a row was observed, (N,), or a list with one array per session. Other rows may hold
                NaN and are in no pair. None: all rows were.

        Returns:
            The recording. Values in memory are checked now; those on disk where they are read.

        Raises:
            ValueError: Numbers that are not finite (their columns are named), objects, complex numbers or text,
                sessions whose rows differ in shape, no rows, no columns, labels of another length.

        Example:
            >>> import numpy as np
            >>> from recparam.data.recording import Recording
            >>> recording = Recording.of([np.zeros((5, 3)), np.ones((4, 3))])
            >>> recording.shape, recording.sessions.tolist()
            ((9, 3), [0, 0, 0, 0, 0, 1, 1, 1, 1])
        """
        if isinstance(data, Recording):
            if sessions is None and times is None and mask is None:
                return data
            raise ValueError(
                "Expected a recording alone; got sessions=, times= or mask= with it. Give them to Recording.of, "
                "with the array."
            )
        several = _is_list_of_sessions(data)
        if several and sessions is not None:
            raise ValueError(
                "Expected sessions= with a single array; got a list of arrays, which says where each session ends. "
                "Leave sessions= out, or concatenate the arrays."
            )
        parts = list(data) if several else [data]
        named = [_array_and_names(part, "data" if not several else f"data[{k}]") for k, part in enumerate(parts)]
        blocks, columns = [block for block, _ in named], [names for _, names in named]
        _check_shapes(blocks, columns)
        lengths = [len(block) for block in blocks]
        codes = np.repeat(np.arange(len(blocks)), lengths) if several else _codes(sessions, lengths[0])
        observed = None if mask is None else _flat("mask", mask, lengths)
        if observed is not None and observed.dtype != np.bool_:
            raise ValueError(
                f"Expected mask as truth values, True where a row was observed; got {observed.dtype}. Use mask == 1."
            )
        seconds = None if times is None else _seconds(_flat("times", times, lengths), codes)
        recording = cls(blocks, sessions=codes, times=seconds, observed=observed, names=columns[0])
        recording._check_values()
        return recording

    @classmethod
    def join(cls, recordings: Sequence[Recording]) -> Recording:
        """One recording of several, whose sessions stay apart; memory-mapped rows stay on disk.

        Args:
            recordings: At least one, with rows of the same shape and names; times of all or of none are kept.

        Raises:
            ValueError: Rows of different shapes or names.
        """
        blocks = [block for recording in recordings for block in recording._blocks]
        columns = [recording.names for recording in recordings for _ in recording._blocks]
        _check_shapes(blocks, columns)
        starts = np.cumsum([0, *(int(recording.sessions[-1]) + 1 for recording in recordings[:-1])])
        times = [recording.times for recording in recordings if recording.times is not None]
        masked = any(recording.observed is not None for recording in recordings)
        return cls(
            blocks,
            sessions=np.concatenate([r.sessions + start for r, start in zip(recordings, starts, strict=True)]),
            times=np.concatenate(times) if len(times) == len(recordings) else None,
            observed=np.concatenate([recording.usable for recording in recordings]) if masked else None,
            names=columns[0],
            notes=tuple(note for recording in recordings for note in recording.notes),
        )

    def noted(self, note: str) -> Recording:
        """The recording with one more sentence in its notes."""
        self.notes = (*self.notes, note)
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (N, ...) of all rows together."""
        return (len(self), *self._blocks[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that rows are read as."""
        return np.result_type(*self._blocks)

    @property
    def usable(self) -> Bool[np.ndarray, " N"]:
        """Which rows may be in a pair."""
        return np.ones(len(self), dtype=bool) if self.observed is None else self.observed

    @property
    def on_disk(self) -> bool:
        """Whether rows are read from memory-mapped files."""
        return bool(self._maps)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __repr__(self) -> str:
        """Shape, type, sessions and where the rows are."""
        sessions = int(self.sessions[-1]) + 1
        where = "on disk" if self.on_disk else "in memory"
        return f"Recording({self.shape}, {self.dtype}, {sessions} session{'s' * (sessions > 1)}, {where})"

    def __getitem__(self, rows: slice | Int[np.ndarray, " rows"] | Bool[np.ndarray, " N"]) -> Shaped[np.ndarray, ...]:
        """The rows of a slice, of indices or of a mask, as a new array where they come from disk.

        Raises:
            NonFiniteError: A row that was read from disk, and that the mask does not leave out, is not finite.
        """
        if not self._maps:
            return self._blocks[0][rows]
        index = np.arange(len(self))[rows]
        homes = np.searchsorted(self._ends, index, side="right")
        found = np.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        for home in np.unique(homes):
            here = homes == home
            block = self._blocks[home]
            found[here] = block[index[here] - (self._ends[home] - len(block))]
        self._hand_back(len(index) * max(_FAULT_BYTES, found[:1].nbytes))
        self._check_read(found, index)
        return found

    def constant_columns(self) -> list[str]:
        """Names or numbers of the columns of vectors that never change; none for images and other shapes.

        A memory-mapped recording is read whole only where its first rows leave a column in doubt.
        """
        if len(self.shape) != 2:
            return []
        usable = np.flatnonzero(self.usable)
        step = max(1, _BLOCK_BYTES // max(1, self._blocks[0][:1].nbytes))
        constant = np.arange(self.shape[1])
        first = self[usable[:1]]
        for start in range(0, len(usable), step):
            rows = self[usable[start : start + step]]
            constant = constant[(rows[:, constant] == first[:, constant]).all(0)]
            if not len(constant):
                break
        return [_column(self.names, int(column)) for column in constant]

    def _check_values(self) -> None:
        if self._maps:  # read whole, a file larger than memory would take minutes: its rows are checked as they come
            return
        values = self._blocks[0]
        if self.observed is not None and values.dtype.kind == "f":
            values = values[self.observed]
        if values.ndim == 2 and values.dtype.kind == "f" and not np.isfinite(values.sum()):
            bad = ~np.isfinite(values)
            columns = np.flatnonzero(bad.any(0))
            if len(columns):
                usable = np.flatnonzero(self.usable)
                names = _listed([_column(self.names, int(column)) for column in columns])
                raise ValueError(
                    f"Expected finite numbers in data; got NaN or infinity in {names}, first in row "
                    f"{usable[bad.any(1)][0]} of {len(self)}. Drop these columns, impute them, or declare the rows "
                    "that were observed with mask=."
                )
            return
        check_finite("data", values)

    def _check_read(self, values: np.ndarray, index: np.ndarray) -> None:
        if values.dtype.kind != "f":
            return
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        bad = index[~finite & self.usable[index]]
        if len(bad):
            raise ValueError(
                f"Expected finite numbers in data; got NaN or infinity in row {bad[0]} of {len(self)}, read from "
                "disk. Impute it, or declare the rows that were observed with mask=."
            )

    def _hand_back(self, read: int) -> None:
        """Let go of pages of mapped files, which count as resident memory until somebody does."""
        self._touched += read
        if self._touched > _MAPPED_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


def memory_map(array: np.ndarray) -> mmap.mmap | None:
    """The file mapping behind an array or a view of one; None for arrays in memory and copy-on-write maps."""
    base: Any = array
    while isinstance(base, np.ndarray):
        mapped = getattr(base, "_mmap", None)
        if mapped is not None:
            # Pages of a copy-on-write map may hold changes, which handing them back would lose.
            return None if getattr(base, "mode", None) == "c" else mapped
        base = base.base
    return None


def _is_list_of_sessions(data: Any) -> bool:
    return (
        isinstance(data, list | tuple) and len(data) > 0 and all(getattr(part, "ndim", 0) >= 2 for part in data)
    )


def _array_and_names(data: Any, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    names = None
    if isinstance(data, Tensor):
        data = data.detach().cpu()
        array = (data.float() if data.dtype.itemsize < 4 and data.is_floating_point() else data).numpy()
    elif hasattr(data, "to_numpy") and hasattr(data, "columns"):
        names = tuple(str(column) for column in data.columns)
        array = data.to_numpy()
        if array.dtype.kind == "O":
            with suppress(TypeError, ValueError):  # text: said below, with its columns
                array = data.to_numpy(dtype=np.float64, na_value=np.nan)
    elif hasattr(data, "toarray"):
        raise ValueError(f"Expected {name} as a dense array; got a sparse matrix. Use {name}.toarray().")
    elif isinstance(data, str | bytes | Path):
        raise ValueError(
            f"Expected {name} as an array; got a path. Use recparam.data.readers.read({str(data)!r})."
        )
    else:
        try:
            array = data if isinstance(data, np.ndarray) else np.asarray(data)
        except ValueError as error:
            raise ValueError(
                f"Expected {name} with rows of one shape; got rows that differ. Pad or cut them, or give sessions "
                "of different lengths as a list of arrays of shape (N, ...)."
            ) from error
    return _numbers(array, name, names), names


def _numbers(array: np.ndarray, name: str, names: tuple[str, ...] | None) -> np.ndarray:
    kind = array.dtype.kind
    if kind == "c":
        raise ValueError(f"Complex data not supported. Expected {name} as real numbers; got {array.dtype}.")
    if kind == "O":
        columns = range(array.shape[1]) if array.ndim == 2 else ()
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            bad = [_column(names, column) for column in columns if not _is_numeric(array[:, column])]
            where = f" in {_listed(bad)}" if bad else ""
            raise NotNumbersError(
                f"Expected {name} as an array of numbers; got objects{where} ({error}). Drop what is no number, "
                f"or turn it into numbers."
            ) from error
    elif kind not in "biuf":
        raise NotNumbersError(
            f"Expected {name} as an array of numbers; got {array.dtype}. Drop what is no number, or convert it."
        )
    if array.ndim < 2:
        raise ValueError(
            f"Expected {name} of shape (N, ...), a row for each time; got {array.shape}. Reshape your data: "
            f"{name}.reshape(-1, 1) if each row is one number."
        )
    if not len(array):
        raise ValueError(f"Expected {name} with at least one row; got 0 samples (shape={array.shape}). Give more data.")
    if not array[:1].size:
        raise ValueError(
            f"Expected {name} with at least one number per row; got 0 feature(s) (shape={array.shape}) while a "
            "minimum of 1 is required."
        )
    return array


def _is_numeric(column: np.ndarray) -> bool:
    try:
        column.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _check_shapes(blocks: Sequence[np.ndarray], columns: Sequence[tuple[str, ...] | None]) -> None:
    for number, (block, names) in enumerate(zip(blocks, columns, strict=True)):
        if block.shape[1:] != blocks[0].shape[1:]:
            raise ValueError(
                f"Expected sessions with rows of one shape; got {blocks[0].shape[1:]} in session 0 and "
                f"{block.shape[1:]} in session {number}. Keep the columns that all of them have."
            )
        if names != columns[0]:
            raise ValueError(
                f"Expected sessions with the same columns in the same order; got {columns[0]} in session 0 and "
                f"{names} in session {number}. Reorder them."
            )


def _codes(sessions: Any, rows: int) -> Int[np.ndarray, " N"]:
    if sessions is None:
        return np.zeros(rows, dtype=np.int64)
    labels = _flat("sessions", sessions, [rows])
    begins = np.r_[True, labels[1:] != labels[:-1]]
    names = labels[begins]
    unique, counts = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        raise ValueError(
            f"Expected sessions whose rows follow each other; got {unique[counts > 1][0]!s} in several places. Sort "
            "the rows by session, or give each stretch a label of its own."
        )
    return np.cumsum(begins) - 1


def _flat(name: str, values: Any, lengths: Sequence[int]) -> np.ndarray:
    """Labels of the rows, (N,), given as one array or as one per session."""
    if isinstance(values, list | tuple) and len(values) and all(getattr(part, "ndim", 0) == 1 for part in values):
        given = [len(part) for part in values]
        if given != list(lengths):
            raise ValueError(f"Expected {name} of lengths {list(lengths)}, as the sessions; got {given}.")
        values = np.concatenate([np.asarray(part) for part in values])
    array = np.asarray(values)
    if array.shape != (sum(lengths),):
        raise ValueError(f"Expected {name} of shape ({sum(lengths)},), one per row; got {array.shape}.")
    return array


def _seconds(times: np.ndarray, sessions: np.ndarray) -> Float[np.ndarray, " N"]:
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


def _column(names: tuple[str, ...] | None, column: int) -> str:
    return f"column {column}" if names is None else f"column {column} ({names[column]!r})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
