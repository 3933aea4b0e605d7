"""The one kernel: row-wise log-sum-exp and log-mean-exp of pairwise scores over a bank."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recparam.ops.checks import check_matrix
from recparam.ops.scores import Score


def pairwise_logsumexp(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
    row_owner: Int[Tensor, " A"] | None = None,
    bank_owner: Int[Tensor, " M"] | None = None,
) -> Float[Tensor, " A"]:
    """Row-wise log-sum-exp of a pairwise score, differentiable in all tensors.

        out_a = log sum_{m: bank_owner_m != row_owner_a} w_m exp score(z_a, bank_m)

    Args:
        score: Maps blocks (A, D), (M, E) to scores (A, M) in nats.
        z: Queries, shape (A, D).
        bank: Columns, shape (M, E).
        log_weights: Log of a weight per column, shape (M,); None means weight one.
        row_owner: Identity of each query, shape (A,). With `bank_owner` the columns of the same identity
            are left out of that row.
        bank_owner: Identity of each column, shape (M,).

    Returns:
        Shape (A,), in nats.

    Raises:
        ValueError: A side is empty or not a matrix, the score's block has the wrong shape, only one of the
            owners is given, or a row has no column left.

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, pairwise_logsumexp
        >>> z = torch.zeros(2, 3)
        >>> pairwise_logsumexp(DotProduct(), z, torch.zeros(4, 3)).exp()
        tensor([4., 4.])
    """
    check_matrix("z", z)
    check_matrix("bank", bank)
    block_AM = score(z, bank)
    if block_AM.shape != (z.shape[0], bank.shape[0]):
        raise ValueError(
            f"Expected the score to return shape ({z.shape[0]}, {bank.shape[0]}); got {tuple(block_AM.shape)}."
        )
    if log_weights is not None:
        block_AM = block_AM + log_weights
    if (row_owner is None) != (bank_owner is None):
        raise ValueError("Expected row_owner and bank_owner together, or neither; got one of them.")
    if row_owner is not None and bank_owner is not None:
        own_AM = row_owner[:, None] == bank_owner[None, :]
        weightless = own_AM if log_weights is None else own_AM | torch.isneginf(log_weights)
        empty = weightless.all(-1)
        if bool(empty.any()):
            raise ValueError(
                f"Expected at least one weighted bank column that is not the row's own; "
                f"row {int(empty.nonzero()[0])} has none. Use a batch or bank of at least two observations."
            )
        block_AM = block_AM.masked_fill(own_AM, -torch.inf)
    return torch.logsumexp(block_AM, dim=-1)


def pairwise_logmeanexp(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    log_weights: Float[Tensor, " M"],
    row_owner: Int[Tensor, " A"] | None = None,
    bank_owner: Int[Tensor, " M"] | None = None,
) -> Float[Tensor, " A"]:
    """Row-wise log of the weighted mean of exp score over the columns kept for that row.

    As `pairwise_logsumexp`, less the log of the total weight of the columns that were kept, so that leaving
    a row's own columns out leaves a mean and not a smaller sum.
    """
    total = pairwise_logsumexp(score, z, bank, log_weights=log_weights, row_owner=row_owner, bank_owner=bank_owner)
    if row_owner is None or bank_owner is None:
        return total - torch.logsumexp(log_weights, dim=0)
    kept_AM = log_weights.expand(z.shape[0], -1).masked_fill(row_owner[:, None] == bank_owner[None, :], -torch.inf)
    return total - torch.logsumexp(kept_AM, dim=-1)
