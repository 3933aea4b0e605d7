"""Checks of what users pass, made once at the door, each with one clear sentence."""

from __future__ import annotations

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """A tensor holds NaN or infinity; the message names the argument and where the first one is."""


def check_finite(name: str, value: Tensor) -> None:
    """Raise `NonFiniteError` if a floating-point tensor holds NaN or infinity.

    Args:
        name: The argument as the user knows it.
        value: Any tensor; integer tensors pass.

    Raises:
        NonFiniteError: Names the argument, the number of bad entries and the first bad row.
    """
    if not value.is_floating_point() or bool(torch.isfinite(value).all()):
        return
    bad = ~torch.isfinite(value)
    row = int(bad.reshape(bad.shape[0], -1).any(1).nonzero()[0]) if value.ndim else 0
    raise NonFiniteError(
        f"Expected finite values in {name}; got {int(bad.sum())} NaN or infinite entries, the first in row {row}. "
        f"Remove or impute them; in training, a smaller learning rate or gradient clipping may help."
    )


def check_matrix(name: str, value: Tensor, *, width: int | None = None, rows: int | None = None) -> None:
    """Raise `ValueError` unless a tensor is a matrix with at least one row and the expected shape."""
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
