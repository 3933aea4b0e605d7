"""What every implementation of the kernel takes: logits that are one matrix product, and who is whose own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
"""Half precision."""

Need = tuple[bool, bool, bool]
"""Whether gradients of rows, columns and bias are needed."""


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
    """Gradients of sum_i g_i out_i in rows (n, F), columns (m, F) and bias (m,); None where not needed."""

    rows: Tensor | None
    columns: Tensor | None
    bias: Tensor | None


class Weights(NamedTuple):
    """What a row's sums make of it, each (n,).

    Args:
        off: Turns exp(t - reference) of the columns other than the own into derivatives.
        own: The derivative in the own logit; None where it is zero for all.
        value: Of the row.
    """

    off: Tensor
    own: Tensor | None
    value: Tensor


def weights(logits: Logits, reference: Tensor, total: Tensor, t_own: Tensor | None) -> Weights:
    """Values and derivatives from a sum over the columns other than the own.

    For a row i with own logit t and o_i = log sum_{j not own} exp t_ij, the value is (contrast, own kept)
    -log(1 + exp(o_i - t)). Its derivative is +s_i in t_own and -s_i exp(t_ij - o_i) in the others, with
    s_i = sigmoid(o_i - t): one minus the own probability is never formed as a difference, which single
    precision could not represent where the own term dominates.

    Args:
        logits: Says which value to return.
        reference: What the exponentials are relative to, (n,).
        total: Sum over the columns other than the own of exp(t - reference), (n,).
        t_own: Own logit less the reference, (n,); None where no row has one.
    """
    off = total.log()  # less the reference, as t_own is
    per_total = 1 / total.clamp_min(torch.finfo(total.dtype).tiny)  # where it is zero, so are the exponentials
    if t_own is None:
        return Weights(per_total, None, off + reference)
    if not logits.keep_own:
        if logits.contrast:
            return Weights(-per_total, torch.ones_like(off), t_own - off)
        return Weights(per_total, None, off + reference)
    lead = t_own - off
    share_off = torch.sigmoid(-lead)
    if logits.contrast:
        return Weights(-share_off * per_total, share_off, torch.nn.functional.logsigmoid(lead))
    return Weights(share_off * per_total, torch.sigmoid(lead), torch.logaddexp(off, t_own) + reference)


class Swept(NamedTuple):
    """What one sweep over the blocks returns.

    Args:
        out: (n,), the value of each row.
        gradients: For upstream gradients g of one, or None.
    """

    out: Tensor
    gradients: Gradients | None
