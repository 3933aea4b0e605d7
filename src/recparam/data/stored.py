"""Arrays in a file of several: what each is, which one holds the rows, and its rows as a recording."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from recparam.data.checks import listed
from recparam.data.recording import Recording

IN_MEMORY = 1 << 28  # bytes; larger arrays stay on disk

AGAIN = "Copy or save it again."

# Beginnings of problems of arrays that might be what is meant, which is said where another one is read.
_MAY_BE_DATA = ("a link", "a virtual", "an object", "empty", "encrypted", "numbers compressed")

# Last parts of names that are no data though they may have rows of several numbers.
_NO_DATA = re.compile(r"(^|[_ ])(idx|index|indices|ids?|labels?|cmap|colou?r_?map|palette|lut)$", re.IGNORECASE)


@dataclass(frozen=True)
class Stored:
    """An array in a file, of which only the description was read.

    Args:
        name: What the file calls it; groups and structs come before it, with a slash or a dot.
        shape: Of the array; None: it has none.
        dtype: Of its numbers.
        load: Reads it: an array, or a list of them, one per session.
        wrong: Why it holds no rows of numbers, and what to do; "": it may hold them.
        times: Reads when its rows were observed; None: unknown.
        names: What its columns are called; None: unknown.
        notes: What loading it does to the data, a sentence each.
        part: Whether it is a part of another of the arrays, and so meant only where it is asked for.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: np.dtype[Any]
    load: Callable[[], Any]
    wrong: str = ""
    times: Callable[[], Any] | None = None
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    part: bool = False

    def __str__(self) -> str:
        """Its name with its shape, or with what it is instead of rows of numbers."""
        what = (self.problem.partition(". ")[0] if self.problem else "") or str(self.shape)
        return f"{self.name} {what}" if what.startswith("(") else f"{self.name} ({what})"

    @property
    def problem(self) -> str:
        """Why it holds no rows of numbers; "": it may hold them."""
        return self.wrong or no_rows(self.shape, self.dtype)

    @property
    def wide(self) -> bool:
        """Whether its rows have several numbers each."""
        return self.shape is not None and math.prod(self.shape[1:]) > 1

    def recording(self) -> Recording:
        """Its rows; an array of one dimension has rows of one number."""
        array, notes, names = self.load(), list(self.notes), self.names
        if isinstance(array, np.ndarray) and array.dtype.names is not None:
            array, names, said = columns_of_records(array, self.name)
            notes += said
        if isinstance(array, np.ndarray) and array.ndim == 1:
            array = array[:, None]
            notes.append(f"{self.name} has one number per row.")
        recording = Recording.of(array, times=None if self.times is None else self.times())
        recording.names = names
        for note in notes:
            recording.noted(note)
        return recording


def no_rows(shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> str:
    """Why an array of a shape and a type holds no rows of numbers; "": it may hold them."""
    if dtype.hasobject:
        return (
            "Python objects, which may run code when they are read. Save it as an array of numbers, or as one array "
            "per session."
        )
    if dtype.names is not None:
        if set(dtype.names) == {"real", "imag"}:
            return "complex numbers"
        return "" if shape is not None and len(shape) == 1 else "records of several dimensions"
    kinds = {"U": "text", "S": "text", "M": "dates", "m": "durations", "c": "complex numbers", "V": "bytes"}
    if dtype.kind in kinds:
        return kinds[dtype.kind]
    if shape is None or 0 in shape:
        return f"empty, {shape}" if shape else "empty"
    return "a single number" if math.prod(shape) == 1 and len(shape) < 2 else ""


def chosen(found: Iterable[Stored], key: str | None, *, separator: str = "/") -> Stored:
    """The array that is asked for, or the only one with rows of several numbers, or else the only one with rows.

    Args:
        found: The arrays of a file.
        key: A name, with dots or slashes; the last part of one that no other has; or a group, to choose within.
        separator: Between the parts of names.

    Raises:
        ValueError: No such array, one without rows of numbers, or several that might be meant.
    """
    every = list(found)
    arrays = [one for one in every if not one.part] if key is None else _called(every, key, separator)
    usable = [one for one in arrays if not one.problem]
    if len(arrays) == 1 and (key is not None or not usable):
        if usable:
            return usable[0]
        problem = arrays[0].problem
        other = "Choose another with key=." if len(every) > 1 else "Save its rows as numbers, (N, ...)."
        advice = "" if problem.endswith(".") else f". {other}"
        raise ValueError(f"Expected {arrays[0].name} as an array of numbers; got {problem}{advice}")
    wide = [one for one in usable if one.wide]
    best = wide or usable
    doubt = _doubt(best[0], arrays) if len(best) == 1 else None
    if len(best) == 1 and doubt is None:
        lost = [str(one) for one in arrays if one.problem.startswith(_MAY_BE_DATA)]
        return replace(best[0], notes=(*best[0].notes, f"Not read: {listed(lost)}.")) if lost else best[0]
    others = [one for one in usable if one not in best] + [one for one in arrays if one.problem]
    shown = listed([str(one) for one in [*best, *others]]) or "nothing"
    advice = f"{doubt} Give key=." if doubt else "Give key=." if usable else "Save the rows as an array (N, ...)."
    if len(best) > 2 and len({one.shape and one.shape[1:] for one in best}) == 1:
        advice += " Saved in files of their own, they are sessions."
    raise ValueError(f"Expected one array of shape (N, ...), or key= to choose; got {shown}. {advice}")


def _called(arrays: Sequence[Stored], key: str, separator: str) -> list[Stored]:
    """The array of a name, or those of a group."""
    for wanted in dict.fromkeys(
        (key, key.strip("/"), key.removesuffix(".npy"), re.sub(r"[./]", separator, key.strip("/")))
    ):
        exact = [one for one in arrays if one.name == wanted]
        whole = [one for one in arrays if not one.part]
        within = [one for one in whole if one.name.startswith((wanted + separator, wanted + "{"))]
        last = [one for one in whole if one.name.rpartition(separator)[2] == wanted]
        if exact or within or len(last) == 1:
            return exact[:1] or within or last
    shown = listed([str(one) for one in arrays if not one.part]) or "of which there are none"
    raise ValueError(f"Expected key= as one of its arrays, {shown}; got {key!r}. Use one of these names.")


def _doubt(best: Stored, arrays: Sequence[Stored]) -> str | None:
    """Why the only array that might hold the rows may not hold them; None: nothing speaks against it."""
    assert best.shape is not None
    vectors = [one for one in arrays if one is not best and not one.problem and not one.wide]
    lengths = [math.prod(one.shape or ()) for one in vectors]
    leaf = re.split(r"[./]", best.name)[-1]
    if len(arrays) > 1 and _NO_DATA.search(leaf):
        return f"{best.name} seems to be no data by its name."
    if best.shape[0] in lengths or all(length < best.shape[0] for length in lengths):
        return None
    longest = vectors[int(np.argmax(lengths))]
    if len(best.shape) == 2 and best.shape[1] in lengths:
        longest = vectors[lengths.index(best.shape[1])]
        return (
            f"{best.name} has as many columns as {longest.name} has values: if its rows are channels, save it "
            "transposed, (time, channels)."
        )
    return f"{longest.name} is longer than {best.name}, which may not be the data."


def columns_of_records(
    records: np.ndarray, name: str
) -> tuple[np.ndarray, tuple[str, ...] | None, list[str]]:
    """The fields of records as columns (N, D), their names, and what was left out.

    Raises:
        ValueError: Fields that are no numbers.
    """
    fields = list(records.dtype.names or ())
    notes: list[str] = []
    first = records[fields[0]]
    if fields[0] == "index" and len(fields) > 1 and first.dtype.kind in "iu" and first.ndim == 1:
        if (np.diff(first.astype(np.int64)) == 1).all():  # pandas counts its rows there
            fields = fields[1:]
            notes.append(f"The field index of {name}, which counts the rows, is left out.")
    text = [field for field in fields if records[field].dtype.kind not in "biuf"]
    if text or not fields:
        raise ValueError(
            f"Expected {name} as records of numbers; got other values in {listed(text)}. Save its numbers as an array."
        )
    blocks = [records[field].reshape(len(records), -1) for field in fields]
    alike = all(block.shape[1] == 1 for block in blocks)
    return np.concatenate(blocks, axis=1), tuple(fields) if alike else None, notes


def spooled(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks of rows (n, ...) written to a temporary file, as an array that is mapped to it.

    Raises:
        ValueError: No rows.
    """
    count, shape, dtype = 0, (), np.dtype(np.uint8)
    with TemporaryFile() as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())
            count, shape, dtype = count + len(block), block.shape[1:], block.dtype
        if not count:
            raise ValueError("Expected a file with rows or frames; got none. Choose another.")
        file.flush()
        return np.memmap(file, dtype=dtype, mode="r", shape=(count, *shape))


def in_blocks(array: Any, most: int = 1 << 26) -> Iterator[np.ndarray]:
    """The rows of an array, or of a data set on disk, so many bytes at a time."""
    step = max(1, most // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
    for start in range(0, len(array), step):
        yield array[start : start + step]
