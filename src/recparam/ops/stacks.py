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
from recparam.ops.engines import Engine
from recparam.ops.logits import Gradients, Logits, Need
from recparam.ops.logsumexp import Sweep, check_positives, in_single, pairwise_infonce, product_features
from recparam.ops.precision import full_precision
from recparam.ops.score_matrix import LeaveOut, checked_matrix
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
    options: dict[str, Any] = {"positives": positives, "keep_positive": keep_positive}
    options |= {"log_weights": log_weights, "leave_out": leave_out}
    return torch.stack([pairwise_infonce(score, *sides, **options) for sides in zip(z, bank, strict=True)])


def _at_once(score: Score, z: Tensor, bank: Tensor, positives: Tensor) -> Tensor | None:
    """The value in one pass, or None where blocks are large or the score is no product of features."""
    (count, rows, _), columns = z.shape, bank.shape[1]
    if count * rows * columns > blocked.SMALL:
        return None
    check_positives(positives, z[0], bank[0])
    matrix = checked_matrix(score, z.flatten(0, 1), bank.flatten(0, 1), None, None, None, None, finite=False)
    features, _ = product_features(in_single(matrix))
    if features is None:
        return None
    bias = None if features.column_bias is None else features.column_bias.unflatten(0, (count, columns))
    value = Sweep.apply(
        features.rows.unflatten(0, (count, rows)), features.columns.unflatten(0, (count, columns)), bias, positives,
        True, True, None, math.inf if features.largest is None else features.largest, _STACK, torch.is_grad_enabled(),
    )  # fmt: skip
    assert isinstance(value, Tensor)
    return (value + math.log(columns)).to(z.dtype)


def _gradients(logits: Logits, upstream: Tensor, need: Need) -> Gradients:
    """Of upstream gradients that differ: batch by batch."""
    biases = [None] * len(upstream) if logits.bias is None else logits.bias
    found = [
        blocked.gradients(replace(logits, rows=rows, columns=columns, bias=bias), g, need)
        for rows, columns, bias, g in zip(logits.rows, logits.columns, biases, upstream, strict=True)
    ]
    return Gradients(*(None if each[0] is None else torch.stack(each) for each in zip(*found, strict=True)))


_STACK = Engine("stack", blocked.small_contrast, _gradients)
