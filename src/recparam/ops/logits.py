"""What every implementation of the kernel is given: logits that are one matrix product, and who is whose own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

Need = tuple[bool, bool, bool]
"""Whether gradients of rows, columns and bias are asked for."""


@dataclass(frozen=True)
class Logits:
    """Logits t_ij = rows_i . columns_j + bias_j, with the terms of row i that are treated apart.

    With lse_i = log sum_j exp t_ij over the columns kept for row i, an implementation returns lse_i, or with
    `contrast` t_i,own(i) - lse_i. All tensors have one dtype and device and need no gradient.

    Args:
        rows: (n, F).
        columns: (m, F).
        bias: (m,), or None for zero; -inf takes a column out for every row.
        own: (n,) int64, the index of the column that belongs to a row, -1 where a row has none; None: no row
            has one.
        keep_own: Whether the own column stays in the sum.
        contrast: Return t_own - lse; every row then has an own column whose bias is finite.
        excluded: Maps a slice of rows to a boolean mask (rows, m) of further columns to leave out, or None.
        largest: A bound on |t_ij|; infinite where none is known.
    """

    rows: Tensor
    columns: Tensor
    bias: Tensor | None = None
    own: Tensor | None = None
    keep_own: bool = True
    contrast: bool = False
    excluded: Callable[[slice], Tensor] | None = None
    largest: float = math.inf


class Gradients(NamedTuple):
    """Gradients of sum_i g_i out_i in rows (n, F), columns (m, F) and bias (m,); None where not asked for."""

    rows: Tensor | None
    columns: Tensor | None
    bias: Tensor | None


class Swept(NamedTuple):
    """What one sweep over the blocks returns.

    Args:
        out: (n,), the value of each row.
        off: (n,), log sum of exp over the kept columns other than the row's own.
        gradients: For upstream gradients g of one, or None.
    """

    out: Tensor
    off: Tensor
    gradients: Gradients | None
