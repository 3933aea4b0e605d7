"""Tables in files: the one reader of CSV, in which no cell is lost, shifted or repeated without a word."""

from __future__ import annotations

import codecs
import csv
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from jaxtyping import Float

_MISSING = ("", "NA", "N/A", "n/a", "<NA>", "NULL", "null")  # for a value that is missing, other than nan
_SAMPLE = 20  # lines from which separators and names are told
_WHOLE = re.compile(r"\d+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Frame:
    """Numbers in columns with names, as `Recording.of` takes them from a data frame."""

    values: Float[np.ndarray, "N K"]
    columns: Sequence[str]
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
    """

    path: Path
    names: tuple[str, ...]
    named: bool
    separator: str
    skip: int
    notes: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row and the number of its line.

        Raises:
            ValueError: A row of another number of cells than names, quotes that do not end, or no text.
        """
        width = len(self.names)
        with _opened(self.path) as file:
            lines = islice(file, self.skip, None)
            reader = csv.reader(lines, delimiter=self.separator, skipinitialspace=True, strict=True)
            for row in reader:
                line = reader.line_num + self.skip
                if len(row) < width and row or any(cell.strip() for cell in row[width:]):
                    raise ValueError(
                        f"Expected {width} columns in each row; got {len(row)} in line {line}. Give each column a "
                        "name, and each row a cell for each column."
                    )
                if row:  # blank lines are none
                    yield line, row

    def numbers(self, key: str | None = None, without: Sequence[str] = ()) -> Frame:
        """Columns of numbers; cells that are empty are NaN.

        Args:
            key: See `chosen_columns`.
            without: Columns that are left out where key is None, as are numbers of rows without a name.

        Raises:
            ValueError: See `rows` and `chosen_columns`, or a cell that is neither empty nor a number.
        """
        places = chosen_columns(self.names, key, without)
        values, points, commas = array("d"), False, False
        for line, row in self.rows():
            cells = [row[place] for place in places]
            joined = "".join(cells)
            points, commas = points or "." in joined, commas or "," in joined
            try:
                if "_" in joined:  # of 1_000, float makes 1000
                    raise ValueError
                found = list(map(float, cells))
            except ValueError:
                found = [self._number(row, place, line) for place in places]
            values.extend(found)
        if points and commas:
            raise ValueError("Expected one decimal sign; got points in some numbers and commas in others. Keep one.")
        table, notes = np.array(values, dtype=np.float64).reshape(-1, len(places)), self.notes
        if commas:
            notes += ("Commas in numbers are taken as decimal.",)
        if key is None and places and not self.names[places[0]]:
            places, table = places[1:], _without_index(table)
            notes += ("The first column has no name and counts the rows: it is left out.",)
        return Frame(table, [self.names[place] for place in places], notes)

    def _number(self, row: Sequence[str], place: int, line: int) -> float:
        number = _number(row[place], self.separator)
        if number is None:
            raise ValueError(
                f"Expected columns of numbers; got {row[place]!r} in column {self.names[place] or place!r} of line "
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

    Cells are separated by commas, semicolons or tabs, and text is UTF-8, or UTF-16 that says so. Lines before the
    table that begin with # are comments; the last one names the columns where there are as many names in it.

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
        table = replace(table, notes=(f"The first line, {', '.join(first)}, is taken as names.",))
    names = _stripped(first)
    if not names:
        raise ValueError("Expected names or numbers in the first row of a table; got empty cells. Name the columns.")
    reader = csv.reader(sample, delimiter=separator, skipinitialspace=True)
    next(reader)
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
    if unknown:
        raise ValueError(f"Expected key= as columns of {', '.join(names)}; got {', '.join(unknown)}.")
    several = [name for name in wanted if list(names).count(name) > 1]
    if several:
        raise ValueError(f"Expected key= as names of single columns; got {several[0]!r}, of several. Rename them.")
    return [list(names).index(name) for name in wanted]


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


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows if row]


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

    best = max("\t;,", key=share)
    return best if share(best) else max(",;\t", key=sample[0].count)


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
    """Whether a first row of whole numbers counts the columns, as pandas names them: 0, 1, 2, ....

    Raises:
        ValueError: It counts from another number, over rows of decimals, and so may be either.
    """
    index = not first[0]
    names = first[1:] if index else first
    whole = all(_WHOLE.fullmatch(name) for name in names)
    counts = whole and [int(name) for name in names] == list(range(int(names[0]), int(names[0]) + len(names)))
    if not counts or not others:
        return False
    decimals = all(any(re.search(r"[.,eE]", cell) for cell in row) for row in others)
    if int(names[0]) == 0:
        return index or (decimals and len(names) > 1)
    if decimals and len(names) > 2:
        raise ValueError(
            f"Expected names or numbers in the first row; got {', '.join(first)} above decimals, which may be either. "
            "Write names that are no numbers, or numbers with a decimal point."
        )
    return False


def _without_index(table: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K-1"]:
    """The table without a first column that counts its rows, as pandas and R write it."""
    start = table[0, 0] if len(table) else 0
    if start not in (0, 1) or not np.array_equal(table[:, 0], np.arange(len(table)) + start):
        raise ValueError("Expected a name for each column; got none for the first, with no row numbers. Name it.")
    return table[:, 1:]
