"""Tables in files: the one reader of CSV, in which no cell is lost, shifted or repeated without a word."""

from __future__ import annotations

import codecs
import csv
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float, Int

from recparam.data.checks import listed, shortened
from recparam.data.clocks import as_datetime, kind_of, seconds_of, told

_MISSING = ("", "NA", "N/A", "n/a", "<NA>", "NULL", "null")  # for a value that is missing, other than nan
_SENTINELS = (-999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0, -1e10, 1e10, -1e20, 1e20)  # written for missing ones
_SAMPLE = 20  # lines from which separators and names are told
_SPACES = " "  # any number of spaces and tabs between the cells
_WHOLE = re.compile(r"\d+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_GAP = re.compile(r'("(?:[^"]|"")*")|[ \t]+')


@dataclass(frozen=True)
class Frame:
    """Numbers in columns with names, as `Recording.of` takes them from a data frame.

    Args:
        values: A row for each line.
        columns: Their names.
        times: When each row was observed, in seconds, where a column says so.
        sessions: The session of each row, where such a column begins again.
        notes: What was understood that might have been meant otherwise, a sentence each.
    """

    values: Float[np.ndarray, "N K"]
    columns: Sequence[str]
    times: Float[np.ndarray, " N"] | None = None
    sessions: Int[np.ndarray, " N"] | None = None
    notes: tuple[str, ...] = ()

    def to_numpy(self) -> Float[np.ndarray, "N K"]:
        """The values, a row for each line."""
        return self.values


@dataclass(frozen=True)
class CsvTable:
    """A CSV file whose separator and names are known; made by `open_csv`.

    Args:
        path: The file.
        names: Of the columns: their numbers where they have none, "" for single ones without.
        named: Whether a line of the file holds the names.
        separator: Between the cells of a row.
        skip: Lines before the first row of cells.
        notes: What was understood that might have been meant otherwise, a sentence each.
        units: What a row below the names says of each column, where there is one.
    """

    path: Path
    names: tuple[str, ...]
    named: bool
    separator: str
    skip: int
    notes: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row and the number of its line.

        Lines without a cell are none, but between the rows of a single column, where they are missing values. Empty
        rows at the end are none.

        Raises:
            ValueError: A row of another number of cells than names, quotes that do not end, or no text.
        """
        width = len(self.names)
        empty: list[tuple[int, list[str]]] = []
        with _opened(self.path) as file:
            reader = _cells(islice(file, self.skip, None), self.separator, strict=True)
            for row in reader:
                line, blank = reader.line_num + self.skip, not any(cell.strip() for cell in row)
                if blank and len(row) < 2:
                    empty += [(line, [""])] * (width == 1)
                    continue
                if len(row) < width or any(cell.strip() for cell in row[width:]):
                    raise ValueError(
                        f"Expected {width} column{'s' * (width > 1)} in each row; got {len(row)} in line {line}. Give "
                        "each column a name, and each row a cell for each column."
                    )
                if blank:
                    empty.append((line, row))
                    continue
                yield from empty
                empty.clear()
                yield line, row

    def numbers(self, key: str | None = None, without: Sequence[str] = ()) -> Frame:
        """Columns of numbers; cells that are empty are NaN, and columns that are no data are left out.

        Args:
            key: See `chosen_columns`.
            without: Columns that are left out where key is None, as are clocks, counters and numbers of blocks
                (`recparam.data.clocks`).

        Raises:
            ValueError: See `rows` and `chosen_columns`, a cell that is neither empty nor a number, or no data.
        """
        places = chosen_columns(self.names, key, without)
        aside = set(places) | {place for place, name in enumerate(self.names) if name in without}
        clocks = [place for place, name in enumerate(self.names) if kind_of(name) == "clock" and place not in aside]
        clocks = [] if key is None else clocks[:1]  # says when rows were observed, though it was not chosen
        read, plain, dates = places + clocks, list[int](), dict[int, datetime]()
        values, others, points, commas = array("d"), array("d"), False, False
        for line, row in self.rows():
            if not values and not others:
                found = {place: as_datetime(row[place]) for place in (clocks if key else read)}
                dates = {place: first for place, first in found.items() if first is not None}
                plain = [place for place in read if place not in dates and place not in clocks]
            cells = [row[place] for place in plain]
            joined = "".join(cells)
            points, commas = points or "." in joined, commas or "," in joined
            try:
                if "_" in joined:  # of 1_000, float makes 1000
                    raise ValueError
                values.extend(list(map(float, cells)))
            except ValueError:
                values.extend([self._number(row, place, line) for place in plain])
            if len(plain) < len(read):
                special = (place for place in read if place not in plain)
                others.extend([self._number(row, p, line, dates.get(p), whatever=p in clocks) for p in special])
        if points and commas:
            raise ValueError("Expected one decimal sign; got points in some numbers and commas in others. Keep one.")
        is_plain = np.isin(read, plain)
        table = np.empty(((len(values) + len(others)) // max(1, len(read)), len(read)))
        table[:, is_plain] = np.array(values, dtype=np.float64).reshape(len(table), is_plain.sum())
        table[:, ~is_plain] = np.array(others, dtype=np.float64).reshape(len(table), (~is_plain).sum())
        names = [self.names[place] for place in read]
        first = len(places) if key else 0
        ours = read[first:]
        units = [self.units[place] for place in ours] if self.units else ()
        about = told(names[first:], list(table.T[first:]), [k for k, p in enumerate(ours) if p in dates], units)
        keep = [k for k in range(len(places)) if key or k not in about.left_out]
        names = [names[k] for k in keep]
        if not key and "" in names:
            raise ValueError("Expected a name for each column; got none for the first, with no row numbers. Name it.")
        check_data_left(names, self.names)
        notes = self.notes + ("Commas in numbers are taken as decimal.",) * commas
        table = np.ascontiguousarray(table[:, keep])
        notes += (*about.notes, *_sentinels(names, table))
        return Frame(table, names, about.times, about.sessions, notes)

    def _number(
        self, row: Sequence[str], place: int, line: int, first: datetime | None = None, *, whatever: bool = False
    ) -> float:
        number = _number(row[place], self.separator) if first is None else seconds_of(row[place], first)
        if number is None and whatever:
            return math.nan
        if number is None:
            dates, got = " or of times as 2024-05-31T12:00:00.5" * (first is not None), shortened(row[place])
            raise ValueError(
                f"Expected columns of numbers{dates}; got {got!r} in column {self.names[place] or place!r} of line "
                f"{line}. Choose columns with key=, names separated by commas."
            )
        return number

    def columns(self) -> dict[str, np.ndarray]:
        """All columns by name: numbers with NaN where they are missing, or text where one is neither."""
        cells = list(zip(*(row[: len(self.names)] for _, row in self.rows()), strict=True))
        cells = cells or [()] * len(self.names)
        found: dict[str, np.ndarray] = {}
        for name, column in zip(self.names, cells, strict=True):
            if name in found:
                raise ValueError(f"Expected columns with names of their own; got {name!r} twice. Rename one.")
            numbers = [_number(cell, self.separator) for cell in column]
            found[name] = np.array(column) if None in numbers else np.array(numbers, dtype=np.float64)
        return {name: column for name, column in found.items() if name}


def open_csv(path: Path) -> CsvTable:
    """Find out how a table is written: its separator, its names, what is no row.

    Cells are separated by commas, semicolons, tabs, bars or spaces, and text is UTF-8, or UTF-16 that says so. Lines
    before the table that begin with # are comments; the last one names the columns where there are as many names in
    it. Rows of text below the names are units, or parts of names that repeat without them.

    Raises:
        ValueError: An empty file, one that is no text, or a first line that may be names or numbers.
    """
    skip, comment, separator = 0, "", ""
    with _opened(path) as file:
        for line in file:
            if declared := re.fullmatch(r'"?sep=(.)"?\s*', line):  # as Excel writes it
                separator = declared[1]
            elif line.startswith("#"):
                comment = line.lstrip("# ")
            elif line.strip():
                break
            skip += 1
        else:
            raise ValueError("Expected a table with columns of numbers; got an empty file.")
        sample = [line, *islice(file, _SAMPLE)]
    separator = separator or _separator(sample)
    first, *others = _split(sample, separator)
    table = CsvTable(path, (), True, separator, skip)
    if _is_data(first, separator):
        width = min(len(first), max(len(_stripped(row)) for row in (first, *others)))
        above = _split([comment], separator)
        if above and len(above[0]) == width:
            return replace(table, names=tuple(above[0]))
        if not _counted(first, others):
            return replace(table, names=tuple(map(str, range(width))), named=False)
        table = replace(table, notes=(f"The first line, {listed(first)}, is taken as names.",))
    names = _stripped(first)
    if not names:
        raise ValueError("Expected names or numbers in the first row of a table; got empty cells. Name the columns.")
    below = _text_rows(len(names), others, separator)
    if below and (len(set(names)) < len(names) or "" in names[1:]):
        names = [" ".join(filter(None, parts)) for parts in zip(names, *below, strict=True)]
        table = replace(table, notes=(*table.notes, f"The first {1 + len(below)} rows are taken as names."))
    elif below:
        units = tuple(map(" ".join, zip(*below, strict=True)))
        table = replace(table, units=units, notes=(*table.notes, f"Below the names are units: {listed(units)}."))
    reader = _cells(sample, separator)
    for _ in islice(filter(None, reader), 1 + len(below)):
        pass
    return replace(table, names=tuple(names), skip=skip + reader.line_num)  # names may have lines in them


def chosen_columns(names: Sequence[str], key: str | None, without: Sequence[str] = ()) -> list[int]:
    """The places of columns.

    Args:
        names: Of all columns.
        key: One name, or several separated by commas, those with a comma in double quotes; None: all.
        without: Names that are left out where key is None.

    Raises:
        ValueError: A name that no column has, or several; a column but the first that has none, where key is None.
    """
    if key is None:
        unnamed = [place for place, name in enumerate(names) if place and not name]
        if unnamed:
            raise ValueError(f"Expected a name for each column; got none for column {unnamed[0]}. Name it.")
        return [place for place, name in enumerate(names) if name not in without]
    wanted = [key] if key in names else [name.strip() for name in next(csv.reader([key], skipinitialspace=True), [])]
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        got = listed(unknown) or repr(key)
        raise ValueError(f"Expected key= as columns of {listed(names)}; got {got}. Check the names.")
    several = [name for name in wanted if list(names).count(name) > 1 or wanted.count(name) > 1]
    if several:
        raise ValueError(f"Expected key= as names of single columns; got {several[0]!r}, of several. Rename them.")
    return [list(names).index(name) for name in wanted]


def check_data_left(names: Sequence[str], of: Sequence[str]) -> None:
    """Raise `ValueError` where no column of a table is data."""
    if not names:
        raise ValueError(
            f"Expected columns of data; got {listed(of)} alone, which say when or where in the file a row is. Add "
            "columns, or name those that are data with key=."
        )


def _sentinels(names: Sequence[str], table: Float[np.ndarray, "N K"]) -> list[str]:
    """What is to be said of numbers that are often written for missing ones, far outside of the others."""
    notes = []
    for name, column in zip(names, table.T, strict=True):
        often = np.isin(column, _SENTINELS)
        others = np.abs(column[~often & np.isfinite(column)])
        if often.any() and len(others) and np.abs(column[often]).min() > 10 * others.max():
            notes.append(
                f"Column {name!r} holds {column[often][0]:g} in {often.sum()} of {len(column)} rows, far outside of "
                "its other numbers. Leave cells empty where a value is missing."
            )
    return notes


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with path.open("rb") as file:
        marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        with path.open(newline="", encoding="utf-16" if marked else "utf-8-sig") as file:
            yield file
    except UnicodeError as error:
        raise ValueError(
            f"Expected a table of text in UTF-8; got other bytes ({error}). Save it again as CSV in UTF-8."
        ) from error
    except csv.Error as error:
        raise ValueError(f"Expected a table of cells; got quotes or cells that do not end ({error}).") from error


def _cells(lines: Iterable[str], separator: str, *, strict: bool = False) -> Any:
    """A reader of cells; its `line_num` counts lines."""
    if separator == _SPACES:
        lines, separator = (_GAP.sub(lambda gap: gap[1] or "\t", line.strip()) for line in lines), "\t"
    return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in _cells(lines, separator) if row]


def _stripped(names: Sequence[str]) -> list[str]:
    """Names, less those at the end that are empty, which a separator after the last one leaves."""
    names = list(names)
    while names and not names[-1]:
        names.pop()
    return names


def _separator(sample: Sequence[str]) -> str:
    """The one that gives most rows the width of the first, and in these most cells that are numbers."""

    def share(separator: str) -> float:
        rows = _split(sample, separator)
        width = len(rows[0])
        cells = [cell for row in rows if len(row) == width > 1 for cell in row]
        like_first = sum(len(row) == width for row in rows[1:]) / len(rows[1:]) if rows[1:] else 1
        return like_first * sum(_number(cell, separator) is not None for cell in cells) / max(1, len(cells))

    best = max("\t;,|" + _SPACES, key=share)
    return best if share(best) else max(",;\t|", key=sample[0].count)


def _text_rows(width: int, rows: Sequence[Sequence[str]], separator: str) -> list[Sequence[str]]:
    """The rows below the names that hold text where numbers follow: units, or further names."""

    def is_text(cell: str) -> bool:
        return _number(cell, separator) is None and as_datetime(cell) is None

    found: list[Sequence[str]] = []
    for row in rows:
        if len(row) != width or not any(map(is_text, row)) or not all(is_text(c) or c in _MISSING for c in row):
            break
        found.append(row)
    below = [row for row in rows[len(found) :] if len(row) == width]
    texts = {place for row in found for place, cell in enumerate(row) if is_text(cell)}
    follow = all(any(row[place] not in _MISSING and not is_text(row[place]) for row in below) for place in texts)
    return found if follow else []


def _number(cell: str, separator: str) -> float | None:
    """The number in a cell, NaN for a missing one, None for text."""
    cell = cell.strip()
    if cell in _MISSING:
        return math.nan
    if separator != "," and _DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _is_data(first: Sequence[str], separator: str) -> bool:
    """Whether a first row may be numbers, some of which may be missing."""
    numbers = [_number(cell, separator) for cell in first]
    return None not in numbers and any(cell not in _MISSING for cell in first)


def _counted(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a first row of whole numbers names the columns, as pandas does: 0, 1, 2, ..., or below an empty cell.

    Raises:
        ValueError: They are others, over rows of decimals, and so may be either.
    """
    index = not first[0]
    names = first[1:] if index else first
    numbers = [int(name) for name in names if _WHOLE.fullmatch(name)]
    if len(set(numbers)) < len(names) or not others:
        return False
    decimal = [[bool(re.search(r"[.,eE]", cell)) for cell in row[index:]] for row in others]
    some, every = all(map(any, decimal)), all(map(all, decimal)) and len(decimal) > 2 and len(names) > 1
    counts = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if counts and numbers[0] == 0 or index and every:
        return index or (some and len(names) > 1)
    if every or counts and some and len(names) > 2:
        raise ValueError(
            f"Expected names or numbers in the first row; got {listed(first)} above decimals, which may be either. "
            "Write names that are no numbers, or numbers with a decimal point."
        )
    return False
