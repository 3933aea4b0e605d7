"""Memory-mapped files: what is behind an array, and how many of its pages are mapped at once."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

MAPPED_BYTES = 1 << 28  # pages of mapped files that may stay resident before they are handed back
_FAULT_BYTES = 1 << 21  # what Linux may map around one touched byte: a large page of its cache


def portions(starts: Int[np.ndarray, " rows"], row_bytes: int) -> Iterator[tuple[slice, int]]:
    """Rows read together, so that few pages are mapped at once, and the bytes that each portion may map.

    Args:
        starts: Where each row begins in its file, in bytes, in the order in which the rows are read.
        row_bytes: Size of a row.
    """
    if not len(starts):
        return
    moved = np.diff(starts // _FAULT_BYTES, prepend=-1) != 0
    touched = np.cumsum((moved + row_bytes // _FAULT_BYTES) * _FAULT_BYTES)
    cuts = np.flatnonzero(np.diff(touched // MAPPED_BYTES)) + 1
    for begin, end in zip([0, *cuts], [*cuts, len(starts)], strict=True):
        yield slice(int(begin), int(end)), int(touched[end - 1] - (touched[begin - 1] if begin else 0))


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
