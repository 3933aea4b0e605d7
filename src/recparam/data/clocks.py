"""Columns that say when, or where in its file, a row was observed, and are no data: clocks, counters, block numbers.

Such a column makes any two rows tell their distance apart, so that independent noise beside it reaches the ceiling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Kind = Literal["clock", "counter", "block"]

_SECONDS = {
    **dict.fromkeys(("ns", "nanoseconds"), 1e-9),
    **dict.fromkeys(("us", "µs", "μs", "usec", "microseconds"), 1e-6),
    **dict.fromkeys(("ms", "msec", "millis", "milliseconds"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
}
_TIMES = {"time", "times", "t", "timestamp", "timestamps", "stamp", "date", "dates", "datetime", "clock", "elapsed"}
_TIMES |= {unit for unit in _SECONDS if len(unit) > 2 and unit != "min"}
_COUNTERS = {"frame", "frames", "index", "idx", "row", "rows", "rownames", "sample", "samples", "line", "step", "id"}
_COUNTERS |= {"unnamed", "bin", "tick", "ticks", "counter"}
_NUMBERS = {"id", "index", "idx"}  # of blocks, too
_BLOCKS = {"trial", "trials", "session", "sessions", "block", "blocks", "epoch", "epochs"}
_FILLING = {"number", "no", "nr", "num", "count", "utc", "unix", "posix", "local", "in", "since", "start", "level"}
_WORD = re.compile(r"[A-Z]+(?![a-zµμ])|[A-Z]?[a-zµμ]+|\d+")
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d\d(:\d\d([.,]\d+)?)?")
_NEAR = 0.25  # of the mean step: jitter and rounding of a clock
_MOST = 0.95  # of the steps; others are gaps, and clocks that begin again
_FALLS = 0.1  # of the steps of a clock, at most: it begins again; a series falls in half of them
_LEAST = 8  # rows from which values alone tell a clock


def kind_of(name: str) -> Kind | None:
    """What the name of a column says it is, if not data: words such as time (s), frame_number or TrialID."""
    words = {word.lower() for word in _WORD.findall(name)}
    if "unnamed" in words:  # as pandas calls an index that was saved as data
        return "counter"
    if words <= _TIMES | _COUNTERS | _BLOCKS | _FILLING | _SECONDS.keys():
        kinds: tuple[tuple[Kind, set[str]], ...] = (
            ("clock", _TIMES), ("counter", _COUNTERS - _NUMBERS), ("block", _BLOCKS), ("counter", _NUMBERS)
        )
        return next((kind for kind, own in kinds if words & own), None)
    return None


def is_clock(name: object) -> bool:
    """Whether an axis, an index or a column has the name of a clock."""
    return isinstance(name, str) and kind_of(name) == "clock"


def unit_of(name: str) -> tuple[str, float]:
    """The unit that the name of a clock states, and how many seconds it has; seconds where it states none."""
    for word in map(str.lower, _WORD.findall(name)):
        if word in _SECONDS:
            return word, _SECONDS[word]
    return "seconds", 1.0


def seconds_of(cell: str, first: datetime) -> float | None:
    """Seconds from one time to another, as ISO 8601 writes it, or to a time of day; None: a cell is neither."""
    found = as_datetime(cell)
    try:
        return None if found is None else (found - first).total_seconds()
    except TypeError:  # one with a time zone and one without
        return None


def as_datetime(cell: str) -> datetime | None:
    """The date and time in a cell, as ISO 8601 writes it, or the time of some day; None: another text, or a number."""
    cell = cell.strip()
    if _TIME_OF_DAY.fullmatch(cell):
        cell = f"2000-01-01T{'0' * (cell[1] == ':')}{cell}"
    try:
        return datetime.fromisoformat(cell) if "-" in cell else None
    except ValueError:
        return None


def ticks(
    values: Float[np.ndarray, "N K"], sessions: Int[np.ndarray, " N"], rows: Int[np.ndarray, " N"] | None = None
) -> Bool[np.ndarray, " K"]:
    """Which columns are those of a clock, or count: nearly all steps within sessions are alike, and not zero.

    Args:
        values: Rows in the order in which they were observed; NaN is missing.
        sessions: Of each row.
        rows: Number of each row, where some are left out; None: they follow each other.
    """
    if len(values) < _LEAST:
        return np.zeros(values.shape[1], dtype=bool)
    inside = np.diff(sessions) == 0
    apart = np.diff(np.arange(len(values)) if rows is None else rows)[inside, None]
    found = []
    for column in values.T:  # one by one: a recording may have thousands
        steps = np.diff(column)[inside, None] / apart
        steps = np.sort(steps[np.isfinite(steps)])
        gaps = round(len(steps) * (1 - _MOST))
        middle = float(steps[gaps : len(steps) - gaps].mean()) if len(steps) >= _LEAST - 1 else 0.0
        found.append(middle != 0 and float(np.mean(np.abs(steps - middle) <= _NEAR * abs(middle))) >= _MOST)
    return np.array(found, dtype=bool)


def named_clocks(
    names: Sequence[str], values: Float[np.ndarray, "N K"], sessions: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " K"]:
    """Which columns have the name of a clock, a counter or a number of blocks, and never fall within a session."""
    inside, found = np.diff(sessions) == 0, np.zeros(values.shape[1], dtype=bool)
    for place, name in enumerate(names if len(values) > 1 else ()):
        found[place] = kind_of(name) is not None and bool((np.diff(values[:, place])[inside] >= 0).all())
    return found


@dataclass
class Told:
    """What the columns of a table say of its rows, and which of them are no data.

    Args:
        times: In seconds; None: no column is a clock.
        begins: Whether a clock or counter begins again at a row, (N,), which is then the first of a session.
        left_out: Places of the columns that are no data.
        notes: A sentence for each such column.
    """

    times: Float[np.ndarray, " N"] | None
    begins: Bool[np.ndarray, " N"]
    left_out: list[int]
    notes: list[str]

    @property
    def sessions(self) -> Int[np.ndarray, " N"] | None:
        """The session of each row; None: no clock begins again."""
        return np.cumsum(self.begins) if self.begins.any() else None


def told(
    names: Sequence[str],
    columns: Sequence[Float[np.ndarray, " N"]],
    dates: Sequence[int] = (),
    units: Sequence[str] = (),
) -> Told:
    """Find the clocks, the counters and the numbers of blocks among the columns of a table.

    Args:
        names: Of the columns; "" for an index without a name.
        columns: Their numbers.
        dates: Places of those that are dates or times of day, in seconds.
        units: What else is said of the unit of each column.
    """
    rows = len(columns[0]) if columns else 0
    found = Told(None, np.zeros(rows, dtype=bool), [], [])
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        if not rows or not np.isfinite(column).all():
            continue
        kind = kind_of(name)
        if place in dates or not name:
            kind = "counter" if place not in dates and (column % 1 == 0).all() else "clock"
        steps, called = np.diff(column), f"Column {name!r}" if name else "The first column has no name and"
        falls = steps < 0
        again = f"; where it begins again, {falls.sum()} times, a session begins" if falls.any() else ""
        even = rows < 2 or bool(steps[0] > 0) and np.allclose(steps[~falls], steps[0], rtol=1e-6, atol=0)
        note = ""
        if kind is None:
            if even and rows >= _LEAST and not falls.any():
                note = f"{called} rises by {steps[0]:g} from row to row: it is left out."
        elif falls.sum() > _FALLS * rows:
            if kind == "clock":
                found.notes.append(f"{called} has the name of a clock, but falls and rises: it is read as data.")
        elif kind == "block":
            if not falls.any() and (column % 1 == 0).all():
                note = f"{called} numbers blocks of rows: it is left out. As sessions= it keeps pairs within blocks."
        elif not (steps[~falls] > 0).all():
            if kind == "clock":
                note = f"{called} has the name of a clock, but stands still between rows: it is left out{again}."
        elif kind == "counter" and even and (name or np.allclose(steps[~falls], 1)):
            note = f"{called} counts the rows: it is left out{again}."
        elif found.times is not None:
            note = f"{called} is a second clock: it is left out{again}."
        elif name or kind == "clock":
            said = "" if place in dates or kind == "counter" else f"{name} {units[place] if units else ''}"
            unit, seconds = unit_of(said)
            found.times = column * seconds
            how = "counts rows, some of which are missing: it is taken" if kind == "counter" else "is taken"
            note = f"{called} {how} as times, in {unit}{again}."
        if note:
            found.notes.append(note)
            found.left_out.append(place)
            if kind is not None:
                found.begins[1:] |= falls
    return found
