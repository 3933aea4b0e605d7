"""Recordings: rows in the order in which they were observed, of one or several sessions, in memory or on disk."""

from __future__ import annotations

import copy
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from recparam.data.axes import warn_of_axes
from recparam.data.checks import (
    array_and_names,
    check_shapes,
    column_name,
    is_list_of_sessions,
    listed,
)
from recparam.data.clocks import named_clocks, ticks
from recparam.data.containers import contents_of, is_list_of_series
from recparam.data.mapped import MAPPED_BYTES, memory_map, portions
from recparam.data.parts import joined_names, joined_times, known_of, sessions_of, times_of
from recparam.utils.checks import check_finite

_BLOCK_BYTES = 1 << 26  # scanned at once, so that a column scan of a mapped file needs little memory
_ROWS_OF_DIGITS = 1000  # from which means and spreads are told


class Recording:
    """N rows of one or several sessions, in the order in which they were observed; make one with `Recording.of`.

    Rows of memory-mapped arrays are read when they are asked for, and only those.

    Attributes:
        sessions: The session of each row, whole numbers from 0 that never decrease, (N,).
        session_names: What the sessions are called; None: they have no names.
        times: When each row was observed, in seconds, increasing within a session, (N,); None: unknown.
        origin: The date that times are counted from, in UTC where dates had a time zone; None: unknown.
        observed: Which rows may be used, (N,); None: all. Pairs never hold another row.
        known: Which single values were observed, of the shape of the data; None: all. Others are read as NaN.
        names: What the columns of vectors are called; None: unknown.
        row_shapes: The shape of a row of each session, where sessions have channels of their own and a row says which
            session it is of (`recparam.data.channels`); None: all are alike.
        notes: What a reader did to the data, a sentence each.
        overlap: Other rows that a row holds, where it is a window.
        double: Whether networks get the rows in double precision; see `in_double`.
    """

    overlap: int = 0
    parted = False
    double: bool = False

    def __init__(
        self,
        blocks: Sequence[np.ndarray],
        *,
        sessions: Int[np.ndarray, " N"],
        times: Float[np.ndarray, " N"] | None = None,
        observed: Bool[np.ndarray, " N"] | None = None,
        known: Bool[np.ndarray, "N ..."] | None = None,
        names: tuple[str, ...] | None = None,
        notes: tuple[str, ...] = (),
        row_shapes: tuple[tuple[int, ...], ...] | None = None,
        session_names: tuple[str, ...] | None = None,
        origin: np.datetime64 | None = None,
    ) -> None:
        mapped = [memory_map(block) for block in blocks]
        if len(blocks) > 1 and not any(mapped):
            blocks, mapped = [np.concatenate(blocks)], [None]
        self._blocks = list(blocks)
        self._maps = [block_map for block_map in mapped if block_map]
        self._ends = np.cumsum([len(block) for block in blocks])
        self._touched = 0
        self.sessions, self.times, self.names, self.notes = sessions, times, names, notes
        self.observed, self.known, self.row_shapes = observed, known, row_shapes
        self.session_names, self.origin = session_names, origin
        self._unknown: np.ndarray | None = None

    @classmethod
    def of(
        cls, data: Any, *, sessions: Any = None, times: Any = None, mask: Any = None, dims: Sequence[str] | None = None
    ) -> Recording:
        """A recording of an array, a tensor or a data frame, or of a list of them, one per session.

        Args:
            data: Numbers of shape (N, ...): a numpy array (memory-mapped ones stay on disk), a torch tensor, a
                pandas data frame, nested lists, or a recording. A list of arrays, tensors or data frames, each
                of two or more dimensions, is a list of sessions. A data frame whose index is dates, or is called
                time, has times, and one with a MultiIndex (trial, time) sessions too; so have arrays of xarray, by
                the names of their dimensions, and series of pynapple, whose epochs are sessions. What a masked array
                hides was not observed.
            sessions: The session of each row, (N,): numbers or names. The rows of a session follow each other.
            times: When each row was observed, in seconds or as dates, (N,), or a list with one array per
                session; increasing within a session. Of trials also (steps,), the same for each. None: unknown.
            mask: True where a row was observed, (N,), or where a single value was, of the shape of the data; or a
                list with one such array per session. Other rows, and values, may hold NaN. A row of which nothing
                was observed is in no pair. None: all were.
            dims: What each axis of the data is, such as ("trial", "time", "channel") or ("channel", "time"). Trials
                are sessions, one after the other; rows at their ends that are NaN alone are in no pair. None: the
                first axis is time, or what the data say.

        Returns:
            The recording. Values in memory are checked now; those on disk where they are read.

        Raises:
            ValueError: Numbers that are not finite (their columns are named), objects, complex numbers or text,
                sessions whose rows differ in shape, no rows, no columns, labels of another length.

        Warns:
            DataWarning: Numbers that look like trials, or like channels in rows, where nothing is declared.

        Example:
            >>> import numpy as np
            >>> from recparam.data.recording import Recording
            >>> recording = Recording.of([np.zeros((5, 3)), np.ones((4, 3))])
            >>> recording.shape, recording.sessions.tolist()
            ((9, 3), [0, 0, 0, 0, 0, 1, 1, 1, 1])
            >>> Recording.of(np.zeros((20, 5, 3)), dims=("trial", "time", "channel"))
            Recording((100, 3), float64, 20 sessions, in memory)
        """
        if isinstance(data, Recording):
            if sessions is None and times is None and mask is None and dims is None:
                return data
            raise ValueError(
                "Expected a recording alone; got sessions=, times=, mask= or dims= with it. Give them to Recording.of, "
                "with the array."
            )
        several = is_list_of_sessions(data) or is_list_of_series(data)
        if several and sessions is not None:
            raise ValueError(
                "Expected sessions= with a single array; got a list of arrays, which says where each session ends. "
                "Leave sessions= out, or concatenate the arrays."
            )
        parts = [(f"data[{k}]", part) for k, part in enumerate(data)] if several else [("data", data)]
        found = [contents_of(part, name, dims=dims) for name, part in parts]
        named = [array_and_names(one.values, name) for one, (name, _) in zip(found, parts, strict=True)]
        blocks = [block for block, _ in named]
        columns = [one.names or names for one, (_, names) in zip(found, named, strict=True)]
        check_shapes(blocks, columns)
        if not found[0].declared and sessions is times is mask is None:
            warn_of_axes(blocks[0], stacklevel=2)
        lengths = [len(block) for block in blocks]
        codes, session_names = sessions_of(found, lengths, sessions)
        seconds, origin = times_of(found, lengths, codes, times)
        counted = [] if origin is None else [f"Times are in seconds since {origin}."]
        observed, known = known_of(found, blocks, mask)
        recording = cls(
            blocks,
            sessions=codes,
            times=seconds,
            observed=observed,
            known=known,
            names=columns[0],
            notes=(*(note for one in found for note in one.notes), *counted),
            session_names=session_names,
            origin=origin,
        )
        recording._check_values()
        return recording

    @classmethod
    def join(cls, recordings: Sequence[Recording]) -> Recording:
        """One recording of several, whose sessions stay apart; memory-mapped rows stay on disk.

        Args:
            recordings: At least one, with rows of the same shape and names. Times are kept where all have them.

        Raises:
            ValueError: Rows of different shapes or names, of sessions with channels of their own, or windows.

        Warns:
            DataWarning: Some have times and some have none.
        """
        if any(type(recording) is not Recording for recording in recordings):
            raise ValueError(
                "Expected recordings of rows; got windows of rows. Join what they are windows of, and make windows of "
                "that: windowed(Recording.join(...), before=...)."
            )
        if any(recording.row_shapes for recording in recordings):
            raise ValueError("Expected recordings that share their columns; got own channels. Use own_channels of all.")
        return cls._joined(recordings)

    @classmethod
    def _joined(cls, recordings: Sequence[Recording]) -> Recording:
        """`join`, of parts whose rows may say which session they are of (`recparam.data.channels`)."""
        blocks = [block for recording in recordings for block in recording._blocks]
        columns = [recording.names for recording in recordings for _ in recording._blocks]
        check_shapes(blocks, columns)
        starts = np.cumsum([0, *(int(recording.sessions[-1]) + 1 for recording in recordings[:-1])])
        times, origin = joined_times([(recording.times, recording.origin) for recording in recordings])
        masked = any(recording.observed is not None for recording in recordings)
        missing = any(recording.known is not None for recording in recordings)
        return cls(
            blocks,
            sessions=np.concatenate([r.sessions + start for r, start in zip(recordings, starts, strict=True)]),
            times=times,
            origin=origin,
            session_names=joined_names([(recording.session_names, recording.sessions) for recording in recordings]),
            observed=np.concatenate([recording.usable for recording in recordings]) if masked else None,
            known=np.concatenate([recording._all_known() for recording in recordings]) if missing else None,
            names=columns[0],
            row_shapes=recordings[0].row_shapes,
            notes=tuple(note for recording in recordings for note in recording.notes),
        )

    def noted(self, note: str) -> Recording:
        """The recording with one more sentence in its notes."""
        self.notes = (*self.notes, note)
        return self

    def filled(self, values: Float[np.ndarray, ...]) -> Recording:
        """The recording with missing values read as these, of the shape of a row, where a row has known ones.

        Sessions with channels of their own take a row each, (S, ...).
        """
        filled = copy.copy(self)
        filled._unknown = values if self.row_shapes else np.broadcast_to(values, self.shape[1:])
        return filled

    def in_double(self) -> Recording:
        """The recording with rows that networks get in double precision, for one that subtracts a large mean first."""
        found = copy.copy(self)
        found.double = True
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (N, ...) of all rows together."""
        return (len(self), *self._blocks[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that rows are read as: floats where values are missing."""
        return np.result_type(*self._blocks, *([] if self.known is None else [np.float32]))

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
        """The rows of a slice, of indices or of a mask; a new array where they come from disk or values are missing.

        Raises:
            ValueError: A row that was read from disk, and that the mask does not leave out, is not finite.
        """
        if self.known is None:
            return self._read(rows)
        known, values = self.known[rows], self._read(rows)
        some = self.usable[rows].reshape(-1, *[1] * (known.ndim - 1))
        filling = np.full(self.shape[1:], np.nan) if self._unknown is None else self._unknown
        filling = filling[values[:, 0].astype(np.int64)] if self.row_shapes and self._unknown is not None else filling
        return np.where(known, values, np.where(some, filling, np.nan)).astype(self.dtype)

    def as_x(self, rows: Int[np.ndarray, " rows"] | slice) -> Shaped[np.ndarray, ...]:
        """Rows as the x of pairs: themselves, but of windows that are `parted` their past half."""
        return self[rows]

    as_x_prime = as_x  # of windows that are `parted` the future half

    def _read(self, rows: slice | Int[np.ndarray, " rows"] | Bool[np.ndarray, " N"]) -> Shaped[np.ndarray, ...]:
        if not self._maps:
            return self._blocks[0][rows]
        index = np.arange(len(self))[rows]
        homes = np.searchsorted(self._ends, index, side="right")
        found = np.empty((len(index), *self.shape[1:]), dtype=np.result_type(*self._blocks))
        for home in np.unique(homes):
            block = self._blocks[home]
            here = np.flatnonzero(homes == home)
            within = index[here] - (self._ends[home] - len(block))
            for part, touched in portions(within * block[:1].nbytes, block[:1].nbytes):
                self._hand_back(touched)
                found[here[part]] = block[within[part]]
        self._check_read(found, index)
        return found

    def loses_digits(self, rows: Int[np.ndarray, " rows"], *, least: float) -> bool:
        """Whether single precision rounds an entry of some rows by more than a share of what it varies by."""
        if self.dtype.itemsize < 4 or self.dtype == np.float32 or not len(rows):
            return False
        values = np.ma.masked_invalid(self[rows[:: max(1, len(rows) // _ROWS_OF_DIGITS)]].astype(np.float64))
        with np.errstate(over="ignore"):  # such numbers are an error where they are read
            mean, spread = values.mean(0).filled(0), values.std(0).filled(0)
        return bool(((np.abs(mean) * np.finfo(np.float32).epsneg > least * spread) & (spread > 0)).any())

    def constant_columns(self) -> list[str]:
        """Names or numbers of the columns of vectors whose known values never change; none for images and other shapes.

        A memory-mapped recording is read whole only where its first rows leave a column in doubt.
        """
        if len(self.shape) != 2:
            return []
        if self.row_shapes is None:
            constant = self._constant(np.flatnonzero(self.usable), np.arange(self.shape[1]))
            return [column_name(self.names, int(column)) for column in constant]
        return [
            f"column {column - 1} of session {session}"
            for session, shape in enumerate(self.row_shapes)
            if len(shape) == 1
            for column in self._constant(
                np.flatnonzero(self.usable & (self.sessions == session)), np.arange(1, 1 + shape[0])
            )
        ]

    def clock_columns(self) -> list[str]:
        """Names or numbers of the columns of vectors that say when or where in the recording a row is.

        These are clocks and counters of rows: columns whose steps within sessions are nearly all alike, or that have
        the name of one and never fall (`recparam.data.clocks`). Of a large recording the first rows are read.
        """
        if len(self.shape) != 2:
            return []
        step = max(1, _BLOCK_BYTES // max(1, self._blocks[0][:1].nbytes))
        rows = np.flatnonzero(self.usable)[:step]
        if self.row_shapes is None:
            values, sessions = self[rows].astype(np.float64), self.sessions[rows]
            clock = ticks(values, sessions, rows) | named_clocks(self.names or (), values, sessions)
            return [column_name(self.names, int(column)) for column in np.flatnonzero(clock)]
        return [
            f"column {column} of session {session}"
            for session, shape in enumerate(self.row_shapes)
            if len(shape) == 1 and len(own := rows[self.sessions[rows] == session])
            for column in np.flatnonzero(ticks(self[own][:, 1 : 1 + shape[0]].astype(float), self.sessions[own], own))
        ]

    def _constant(self, usable: Int[np.ndarray, " rows"], columns: Int[np.ndarray, " D"]) -> Int[np.ndarray, " C"]:
        """Those of some columns that do not change within some rows."""
        step = max(1, _BLOCK_BYTES // max(1, self._blocks[0][:1].nbytes))
        least = most = self[usable[:1]][:, columns].reshape(-1)
        for start in range(0, len(usable), step):
            rows = self[usable[start : start + step]][:, columns]
            # These two pass over NaN, a value that is missing.
            least, most = np.fmin(least, np.fmin.reduce(rows)), np.fmax(most, np.fmax.reduce(rows))
            still = ~(most > least)
            columns, least, most = columns[still], least[still], most[still]
            if not len(columns):
                break
        return columns

    def _check_values(self) -> None:
        if self._maps:  # read whole, a file larger than memory would take minutes: its rows are checked as they come
            return
        values = self._blocks[0]
        if values.dtype.kind == "f":
            values = values if self.known is None else np.where(self.known, values, 0)
            values = values[self.usable] if self.observed is not None else values
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = values.ndim == 2 and values.dtype.kind == "f" and not np.isfinite(values.sum())
        if suspect:
            bad = ~np.isfinite(values)
            columns = np.flatnonzero(bad.any(0))
            if len(columns):
                usable = np.flatnonzero(self.usable)
                names = listed([column_name(self.names, int(column)) for column in columns])
                raise ValueError(
                    f"Expected finite numbers in data; got NaN or infinity in {names}, first in row "
                    f"{usable[bad.any(1)][0]} of {len(self)}. Drop these columns, or impute them. Or declare with "
                    "mask= which rows, or which values, were observed."
                )
            return
        check_finite("data", values)

    def _check_read(self, values: np.ndarray, index: np.ndarray) -> None:
        if values.dtype.kind != "f":
            return
        finite = np.isfinite(values) if self.known is None else np.isfinite(values) | ~self.known[index]
        finite = finite.all(axis=tuple(range(1, values.ndim)))
        bad = index[~finite & self.usable[index]]
        if len(bad):
            raise ValueError(
                f"Expected finite numbers in data; got NaN or infinity in row {bad[0]} of {len(self)}, read from "
                "disk. Impute it. Or declare with mask= which rows, or which values, were observed."
            )

    def _all_known(self) -> Bool[np.ndarray, "N ..."]:
        return np.ones(self.shape, dtype=bool) if self.known is None else self.known

    def _hand_back(self, touched: int) -> None:
        """Let go of pages of mapped files, which count as resident memory until somebody does, before more are read."""
        if self._touched + touched > MAPPED_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        self._touched += touched
