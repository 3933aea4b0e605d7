"""Checks of what users pass, made once at the door, each with one clear sentence."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_BLOCK = 1 << 24  # entries looked at together, so that a memory-mapped array is never in memory whole
_DTYPE_COMPLAINT = re.compile(r"dtype|expected scalar type|Input type|not implemented for '")


class NonFiniteError(ValueError):
    """A tensor holds NaN or infinity; the message names the argument and where the first one is."""


class UninitialisedError(ValueError):
    """A scale that comes from data is not set, where nothing may set it; the message names the remedy."""


def observation_name(index: int) -> str:
    """What users call the observation of that index: x, x_prime, observation 2, ..."""
    return ("x", "x_prime")[index] if index < 2 else f"observation {index}"


def check_tensor(name: str, value: object) -> None:
    """Raise `ValueError` unless a value is a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"Expected {name} as a tensor; got {type(value).__name__}. Use torch.as_tensor.")


def is_whole(value: Tensor) -> bool:
    """Whether a tensor holds whole numbers; truth values are none."""
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Raise `ValueError` unless a value is a whole number, and not too small."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"Expected a whole number {name} >= {least}; got {value!r}.")


def is_finite_number(value: object) -> bool:
    """Whether a value is a finite real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive(name: str, value: object, *, what: str = "number") -> None:
    """Raise `ValueError` unless a value, which is a `what`, is a finite number above zero."""
    if not isinstance(value, Real) or not is_finite_number(value) or value <= 0:
        raise ValueError(f"Expected {name} > 0, a finite {what}; got {value!r}.")


def check_unmasked(name: str, value: object) -> None:
    """Raise `ValueError` if a value is a masked array that hides something, which other arrays would show again."""
    if np.ma.is_masked(value):
        raise ValueError(
            f"Expected {name} with all values observed; got a masked array that hides {np.ma.count_masked(value)}. "
            "Leave such rows out."
        )


def check_finite(name: str, value: Tensor | NDArray[Any]) -> None:
    """Raise `NonFiniteError` if a floating-point tensor or array holds NaN or infinity.

    Args:
        name: The argument as the user knows it.
        value: Any tensor or array; integers pass.

    Raises:
        NonFiniteError: Names the argument, the number of bad entries and the first bad row.
    """
    floating = value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind == "f"
    size = value.numel() if isinstance(value, Tensor) else value.size
    if not floating or not size:
        return
    if isinstance(value, Tensor) and math.isfinite(value.detach().sum()):
        return  # nearly always, and one pass; a sum may also overflow, so what is not finite is looked at
    rows = value if value.ndim else value.reshape(1)
    step = max(1, _BLOCK * len(rows) // size)
    count = first = 0
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        finite = torch.isfinite(block) if isinstance(block, Tensor) else torch.from_numpy(np.isfinite(block))
        if bool(finite.all()):
            continue
        bad = ~finite.reshape(len(finite), -1)
        first = first if count else start + int(bad.any(1).nonzero()[0])
        count += int(bad.sum())
    if count:
        raise NonFiniteError(
            f"Expected finite values in {name}; got {count} NaN or infinite entries, the first in row {first}. "
            f"Remove or impute them; in training, a smaller learning rate or gradient clipping may help."
        )


def explain_dtype(error: RuntimeError, name: str, value: Tensor, module: nn.Module) -> None:
    """Say which dtype a module's input should have, where torch complains of dtypes and the two do differ.

    Args:
        error: What torch raised; the caller raises it again if this returns.
        name: The argument as the user knows it.
        value: The module's input.
        module: Its first floating-point parameter has the expected dtype.

    Raises:
        ValueError: Names the argument, both dtypes and the cure.
    """
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), value.dtype)
    if own != value.dtype and _DTYPE_COMPLAINT.search(str(error)):
        raise ValueError(
            f"Expected {name} of dtype {own}, as the parameters of {type(module).__name__}; got {value.dtype}. "
            f"Use {name}.to({own})."
        ) from error


def check_matrix(name: str, value: Tensor, *, width: int | None = None, rows: int | None = None) -> None:
    """Raise `ValueError` unless a value is a matrix, a tensor with at least one row and the expected shape."""
    check_tensor(name, value)
    expected = (rows if rows is not None else "rows", width if width is not None else "width")
    wrong = (
        value.ndim != 2
        or value.shape[0] < 1
        or (width is not None and value.shape[1] != width)
        or (rows is not None and value.shape[0] != rows)
    )
    if wrong:
        raise ValueError(
            f"Expected {name} of shape ({expected[0]}, {expected[1]}) with at least one row; got {tuple(value.shape)}."
        )
