"""InfoNCE of several batches at once, each against a bank of its own: the steps of a chain, or draws of latents.

Small ones are one pass over a stack of blocks; where a block is large, the passes are made one by one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recparam.ops import blocked
from recparam.ops.logits import Gradients, Logits
from recparam.ops.logsumexp import check_positives, in_dtype, pairwise_infonce, product_features
from recparam.ops.pairs import LeaveOut, check_pairs
from recparam.ops.precision import full_precision
from recparam.ops.scores import Score


def pairwise_infonce_stacked(
    score: Score,
    z: Float[Tensor, "S A D"],
    bank: Float[Tensor, "S M E"],
    *,
    positives: Int[Tensor, " _A"],
    keep_positive: bool = True,
    log_weights: Float[Tensor, " M"] | None = None,
    leave_out: LeaveOut | None = None,
) -> Float[Tensor, "S A"]:
    """`pairwise_infonce` of each of S batches and its bank, with the same positives, weights and columns left out.

    Args:
        score: As in `pairwise_infonce`.
        z: Queries, shape (S, A, D).
        bank: Columns, shape (S, M, E).
        positives: Index of each query's positive in its bank, shape (A,).
        keep_positive: Whether the positive stays in the mean.
        log_weights: Shape (M,).
        leave_out: As in `pairwise_infonce`.

    Returns:
        Shape (S, A), in nats.

    Raises:
        ValueError: As `pairwise_infonce`.
    """
    if len(z) > 1 and keep_positive and log_weights is None and leave_out is None:
        with full_precision(z.device):
            value = _at_once(score, z, bank, positives)
        if value is not None:
            return value
    given: dict[str, Any] = {"positives": positives, "keep_positive": keep_positive}
    given |= {"log_weights": log_weights, "leave_out": leave_out}
    return torch.stack([pairwise_infonce(score, *sides, **given) for sides in zip(z, bank, strict=True)])


def _at_once(score: Score, z: Tensor, bank: Tensor, positives: Tensor) -> Tensor | None:
    """The value in one pass, or None where blocks are large or the score is no product of features."""
    (count, rows, _), columns = z.shape, bank.shape[1]
    if count * rows * columns > blocked.SMALL:
        return None
    check_positives(positives, z[0], bank[0])
    pairs = check_pairs(score, z.flatten(0, 1), bank.flatten(0, 1), None, None, None, None, finite=False)
    if z.dtype in (torch.float16, torch.bfloat16):
        pairs = in_dtype(pairs, torch.float32)
    features, _ = product_features(pairs)
    if features is None:
        return None
    bias = None if features.column_bias is None else features.column_bias.unflatten(0, (count, columns))
    sides = features.rows.unflatten(0, (count, rows)), features.columns.unflatten(0, (count, columns)), bias
    largest = math.inf if features.largest is None else features.largest
    value = _Stack.apply(*sides, positives, largest, torch.is_grad_enabled())
    assert isinstance(value, Tensor)
    return (value + math.log(columns)).to(z.dtype)


class _Stack(torch.autograd.Function):
    """As the sweep of one batch: gradients of the sum are made forward, and backward scales them, or sweeps again."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, bias: Tensor | None, own: Tensor, largest: float, with_gradients: bool
    ) -> Tensor:
        given = (rows.detach(), columns.detach(), None if bias is None else bias.detach())
        ctx.need = tuple(ctx.needs_input_grad[:3])
        need = ctx.need if with_gradients and any(ctx.need) else None
        swept = blocked.small_contrast(Logits(*given, own, contrast=True, largest=largest), need)
        ctx.save_for_backward(rows, columns, bias, own)
        ctx.largest, ctx.gradients = largest, swept.gradients
        return swept.out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "The pairwise log-sum-exp has no second derivative (create_graph=True); use implementation='dense'."
            )
        (g,) = upstream
        kept, ctx.gradients = ctx.gradients, None  # scaled in place: a second backward sweeps again
        if kept is not None and bool((g == g[:, :1]).all()):
            parts = [None if part is None else part.mul_(g[:, :1].view(-1, *[1] * (part.ndim - 1))) for part in kept]
        else:
            rows, columns, bias, own = ctx.saved_tensors
            found: list[Gradients] = []
            for s in range(len(g)):
                logits = Logits(rows[s], columns[s], None if bias is None else bias[s], own, contrast=True)
                found.append(blocked.gradients(replace(logits, largest=ctx.largest), g[s], ctx.need))
            parts = [None if each[0] is None else torch.stack(each) for each in zip(*found, strict=True)]
        return *parts, None, None, None
