"""The best columns of each row, and columns drawn by their probability, in memory linear in either side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recparam.ops.logsumexp import in_single, product_features
from recparam.ops.precision import full_precision
from recparam.ops.score_matrix import LeaveOut, checked_matrix, concatenate_blocks, row_blocks
from recparam.ops.scores import Score
from recparam.utils.checks import check_count


class Selected(NamedTuple):
    """Columns chosen for each row.

    Args:
        indices: Shape (A, k), columns of the bank.
        log_probs: Shape (A, k), log of w_m exp score over its row's sum, in nats.
    """

    indices: Tensor
    log_probs: Tensor


@torch.no_grad()
def pairwise_topk(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    k: int,
    *,
    log_weights: Float[Tensor, " M"] | None = None,
    row_owner: Int[Tensor, " A"] | None = None,
    bank_owner: Int[Tensor, " M"] | None = None,
    leave_out: LeaveOut | None = None,
) -> Selected:
    """The k most probable columns of each row under P(m|a) = w_m exp score(z_a, bank_m) / sum, best first.

    Args:
        score: As all but k in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        k: Columns per row, at most M. Columns that are left out have log-probability -inf and come last.
        log_weights: Shape (M,).
        row_owner: Shape (A,).
        bank_owner: Shape (M,).
        leave_out: Further columns to leave out.

    Returns:
        Indices and log-probabilities, each (A, k), without gradients.

    Raises:
        ValueError: k is not from 1 to M, or as in `pairwise_logsumexp`.

    Example:
        >>> import torch
        >>> from recparam.ops import SquaredDistance, pairwise_topk
        >>> bank = torch.tensor([[0.0], [5.0], [1.0]])
        >>> pairwise_topk(SquaredDistance(torch.tensor(1.0)), torch.tensor([[0.9]]), bank, 2).indices
        tensor([[2, 0]])
    """
    check_count("k", k)
    if k > len(bank):
        raise ValueError(f"Expected k of at most {len(bank)}, the rows of the bank; got {k}.")
    blocks = logit_blocks(
        score, z, bank, log_weights=log_weights, row_owner=row_owner, bank_owner=bank_owner, leave_out=leave_out
    )

    def best(block: Tensor) -> tuple[Tensor, Tensor]:
        values, places = _best(block, k)
        high = values[:, :1]
        return places, (values - high - (block - high).exp_().sum(1, keepdim=True).log()).to(z.dtype)

    return Selected(*concatenate_blocks(map(best, blocks), len(z)))


def _best(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row and where they are, as `topk`, which is slow on long rows.

    The k best are within the k groups of columns that have the largest maxima.
    """
    size = math.isqrt(block.shape[1] // k)
    if size < 2:
        values, places = block.topk(k, dim=1)
        return values, places
    count = block.shape[1] // size
    # Group g is the columns g, g + count, ...: maxima are then taken along memory.
    maxima = block[:, : size * count].unflatten(1, (size, count)).amax(1)
    chosen = maxima.topk(k, dim=1).indices
    inside = chosen[:, None, :] + count * torch.arange(size, device=block.device)[:, None]
    rest = torch.arange(size * count, block.shape[1], device=block.device).expand(len(block), -1)
    places = torch.cat([inside.flatten(1), rest], 1)
    values, order = block.gather(1, places).topk(k, dim=1)
    return values, places.gather(1, order)


@torch.no_grad()
def pairwise_sample(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    num_samples: int,
    *,
    log_weights: Float[Tensor, " M"] | None = None,
    row_owner: Int[Tensor, " A"] | None = None,
    bank_owner: Int[Tensor, " M"] | None = None,
    leave_out: LeaveOut | None = None,
    generator: torch.Generator | None = None,
) -> Selected:
    """Columns drawn for each row, independently and with replacement, from P(m|a) = w_m exp score / sum.

    Args:
        score: As all but the next and the last in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        num_samples: Draws k per row.
        log_weights: Shape (M,).
        row_owner: Shape (A,).
        bank_owner: Shape (M,).
        leave_out: Further columns to leave out.
        generator: Source of randomness; None uses torch's global one.

    Returns:
        Indices and log-probabilities, each (A, k), without gradients.

    Raises:
        ValueError: num_samples < 1, or as in `pairwise_logsumexp`.
    """
    check_count("num_samples", num_samples)
    blocks = logit_blocks(
        score, z, bank, log_weights=log_weights, row_owner=row_owner, bank_owner=bank_owner, leave_out=leave_out
    )

    def draw(block: Tensor) -> tuple[Tensor, Tensor]:
        # Double precision: the cumulative sum of a million single-precision weights forgets the small ones.
        cumulative = (block - block.amax(1, keepdim=True)).double().exp().cumsum(1)
        shape = (len(block), num_samples)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=z.device)
        # From the far end, so that a draw of exactly zero cannot fall on a column of weight zero.
        drawn = torch.searchsorted(cumulative, (1 - uniform) * cumulative[:, -1:]).clamp_max(len(bank) - 1)
        return drawn, (block.gather(1, drawn) - block.logsumexp(1, keepdim=True)).to(z.dtype)

    return Selected(*concatenate_blocks(map(draw, blocks), len(z)))


def logit_blocks(
    score: Score,
    z: Tensor,
    bank: Tensor,
    *,
    log_weights: Tensor | None = None,
    row_owner: Tensor | None = None,
    bank_owner: Tensor | None = None,
    leave_out: LeaveOut | None = None,
    whole: bool = False,
) -> Iterator[Tensor]:
    """Blocks (rows, M) of log w_m + score, -inf where a column is left out; up to a constant per row unless `whole`."""
    matrix = checked_matrix(score, z, bank, log_weights, row_owner, bank_owner, leave_out)
    with full_precision(z.device):
        features, matrix = product_features(in_single(matrix))
    bias = matrix.log_weights
    columns = None
    if features is not None:
        columns = features.columns.T.contiguous()  # blocks have few rows where the bank is long, and columns stay
        bias = None if bias is None else bias.to(columns.dtype)
        if features.column_bias is not None:
            bias = features.column_bias if bias is None else features.column_bias + bias
    for rows in row_blocks(len(z), len(bank), z.device):
        with full_precision(z.device):
            if features is None or columns is None:
                block = score(matrix.z[rows], matrix.bank)
                block = block if bias is None else block + bias
            else:
                part = features.rows[rows]
                block = part @ columns if bias is None else torch.addmm(bias, part, columns)
                if whole and features.row_bias is not None:
                    block = block + features.row_bias[rows, None]
        if matrix.excluded is not None:
            block = block.masked_fill(matrix.excluded(rows), -torch.inf)
        if matrix.own is not None:
            own = matrix.own[rows]
            have = (own >= 0).nonzero()[:, 0]
            block = block.index_put((have, own[have]), block.new_tensor(-torch.inf))
        yield block
