"""Scores of partners that need not be in the bank, less the log-mean-exp over it, both of one sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recparam.ops.logsumexp import check_positives, in_dtype, in_single, log_total, product, product_features, value_of
from recparam.ops.precision import full_precision
from recparam.ops.score_matrix import LeaveOut, check_columns_left, checked_matrix
from recparam.ops.scores import Score


def pairwise_contrast(
    score: Score,
    pairs: Callable[[Tensor, Tensor], Tensor],
    z: Float[Tensor, "A D"],
    partners: Float[Tensor, "A E"],
    bank: Float[Tensor, "M E"],
    *,
    positives: Int[Tensor, " A"] | None = None,
    keep_positive: bool = True,
    log_weights: Float[Tensor, " M"] | None = None,
    row_owner: Int[Tensor, " A"] | None = None,
    bank_owner: Int[Tensor, " M"] | None = None,
    leave_out: LeaveOut | None = None,
) -> Float[Tensor, " A"]:
    """The score of each row with its partner, less the log-mean-exp over a bank of others.

        out_a = score(z_a, partner_a) - log mean_m exp score(z_a, bank_m)

    The partner's features are formed with the bank's, around one centre and in one precision: far from the origin
    both terms are large, and formed apart they lose the digits of their difference.

    Args:
        score: As in `pairwise_logsumexp`.
        pairs: The same score of rows (A, D) and partners (A, E), one by one; used where the score has no features.
        z: Queries, shape (A, D).
        partners: What each query is paired with, shape (A, E).
        bank: Columns, shape (M, E).
        positives: Columns of the bank that hold the partners' values, shape (A,), where some do. The value is then that
            of `pairwise_infonce`, which never exceeds log M, and the score's gradient goes to the partners.
        keep_positive: Whether the positive stays in the mean.
        log_weights: Log of a weight per column, shape (M,).
        row_owner: As in `pairwise_logsumexp`, where there are no positives.
        bank_owner: As there.
        leave_out: As there.

    Returns:
        Shape (A,), in nats, of the precision that it was formed in: double where single would not do.

    Raises:
        ValueError: As in `pairwise_infonce`.
    """
    if positives is None:
        matrix = checked_matrix(score, z, bank, log_weights, row_owner, bank_owner, leave_out, finite=False)
    else:
        matrix = checked_matrix(score, z, bank, log_weights, None, None, None, finite=False)
        check_positives(positives, z, bank)
        matrix = replace(matrix, own=positives, keep_own=keep_positive, contrast=True, excluded=leave_out)
        check_columns_left(matrix)
    matrix, size = in_single(matrix), len(bank)
    with full_precision(z.device):
        whole = replace(matrix, bank=torch.cat([matrix.bank, partners.to(matrix.bank)]), log_weights=None)
        features, whole = product_features(whole)
        if features is None:
            apart = pairs(z, partners)
            if positives is not None:
                apart = apart - pairs(z, bank[positives])
            value = value_of(matrix, "auto")
        else:
            matrix = in_dtype(matrix, whole.z.dtype)
            columns, bias = features.columns, features.column_bias
            theirs, their_bias = columns[size:], 0.0 if bias is None else bias[size:]
            if positives is not None:
                theirs = theirs - columns[positives]
                their_bias = 0.0 if bias is None else bias[size:] - bias[positives]
            apart = (features.rows * theirs).sum(-1) + their_bias
            bias = None if bias is None else bias[:size]
            features = features._replace(columns=columns[:size], row_bias=None, column_bias=bias)
            value = product(matrix, features, "auto", matrix.z.dtype)
        total = log_total(matrix, "auto")
    if positives is None:
        return apart - (value - total)
    value = apart + value + total
    return value if matrix.log_weights is None else value - matrix.log_weights[positives]
