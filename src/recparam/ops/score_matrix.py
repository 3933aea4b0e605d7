"""The matrix of scores that the kernel never forms: its sides and what is left out, checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recparam.ops.scores import Score
from recparam.utils.checks import check_finite, check_matrix

LeaveOut = Callable[[slice], Tensor]
"""Maps a slice of rows to a boolean mask (rows, M) of the columns that those rows leave out."""

BLOCK = 1 << 19
"""Scores, or entries of a mask, that are held at once where no engine decides."""

GPU_BLOCK = 1 << 24
"""The same on a GPU, where launching a block is what a small one costs."""


def row_blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows whose blocks on a device, `width` entries to a row, are held one at a time."""
    height = max(1, (BLOCK if device.type == "cpu" else GPU_BLOCK) // width)
    for start in range(0, rows, height):
        yield slice(start, min(start + height, rows))


def concatenate_blocks(parts: Iterable[tuple[Tensor, ...]], rows: int) -> tuple[Tensor, ...]:
    """What consecutive blocks of rows give, each tensor with those rows first, as tensors of all rows.

    They are allocated once: small results kept one by one would lie where a block was, and the next block, which
    then does not fit there, would take new memory.
    """
    whole: tuple[Tensor, ...] = ()
    start = 0
    for part in parts:
        whole = whole or tuple(value.new_empty(rows, *value.shape[1:]) for value in part)
        for into, value in zip(whole, part, strict=True):
            into[start : start + len(value)] = value
        start += len(part[0])
    return whole


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores of z against a bank, as a recipe, and what to return of each row; see `Logits` for the other fields."""

    score: Score
    z: Tensor
    bank: Tensor
    log_weights: Tensor | None
    own: Tensor | None = None
    keep_own: bool = True
    contrast: bool = False
    excluded: LeaveOut | None = None


def checked_matrix(
    score: Score,
    z: Tensor,
    bank: Tensor,
    log_weights: Tensor | None,
    row_owner: Tensor | None,
    bank_owner: Tensor | None,
    leave_out: LeaveOut | None,
    *,
    finite: bool = True,
) -> ScoreMatrix:
    """Check the arguments of `pairwise_logsumexp`, whose errors these are.

    Without `finite` the caller has a cheaper way to notice numbers that are not, and then calls `check_finite_sides`.
    """
    check_matrix("z", z)
    check_matrix("bank", bank)
    if z.dtype != bank.dtype or z.device != bank.device or not z.is_floating_point():
        raise ValueError(
            f"Expected z and bank of one floating-point dtype and device; got {z.dtype} on {z.device} and "
            f"{bank.dtype} on {bank.device}. Use bank.to(z)."
        )
    if finite:
        check_finite_sides(z, bank)
    if log_weights is not None:
        if log_weights.shape != bank.shape[:1] or bool((log_weights.isnan() | (log_weights == torch.inf)).any()):
            raise ValueError(
                f"Expected log_weights of shape ({len(bank)},), finite or -inf; got {tuple(log_weights.shape)}."
            )
        if bool(torch.isneginf(log_weights).all()):
            raise ValueError("Expected at least one finite entry in log_weights; got -inf for every column.")
    if (row_owner is None) != (bank_owner is None):
        raise ValueError("Expected row_owner and bank_owner together, or neither; got one of them.")
    matrix = ScoreMatrix(score, z, bank, log_weights, excluded=leave_out)
    if row_owner is not None and bank_owner is not None:
        for name, owner, size in (("row_owner", row_owner, len(z)), ("bank_owner", bank_owner, len(bank))):
            if owner.shape != (size,) or owner.is_floating_point():
                raise ValueError(f"Expected {name} as whole numbers of shape ({size},); got {tuple(owner.shape)}.")
        matrix = _with_owners(matrix, row_owner, bank_owner)
    if matrix.excluded is not None or matrix.own is not None:
        check_columns_left(matrix)
    return matrix


def check_finite_sides(z: Tensor, bank: Tensor) -> None:
    """Raise `NonFiniteError` if a side holds NaN or infinity."""
    check_finite("z", z)
    check_finite("bank", bank)


def _with_owners(matrix: ScoreMatrix, row_owner: Tensor, bank_owner: Tensor) -> ScoreMatrix:
    """Find each row's own column; where an identity has several, compare block by block."""
    ordered, order = bank_owner.sort()
    if len(ordered) == 1 or bool((ordered[1:] != ordered[:-1]).all()):
        place = torch.searchsorted(ordered, row_owner.to(ordered.dtype)).clamp_max(len(ordered) - 1)
        own = torch.where(ordered[place] == row_owner, order[place], -1)
        return replace(matrix, own=own, keep_own=False)
    also = matrix.excluded

    def excluded(rows: slice) -> Tensor:
        same = row_owner[rows, None] == bank_owner
        return same if also is None else same | also(rows)

    return replace(matrix, excluded=excluded)


def check_columns_left(matrix: ScoreMatrix) -> None:
    """Raise `ValueError` unless every row has a weighted column left."""
    n, m = len(matrix.z), len(matrix.bank)
    weighted = torch.ones(m, dtype=torch.bool, device=matrix.z.device)
    if matrix.log_weights is not None:
        weighted = ~torch.isneginf(matrix.log_weights)
    own = matrix.own
    if matrix.excluded is None and matrix.keep_own:
        return
    if matrix.excluded is None:
        left = weighted.sum().expand(n)
        if own is not None:
            left = left - ((own >= 0) & weighted[own.clamp_min(0)]).long()
    else:
        counts: list[Tensor] = []
        for rows in row_blocks(n, m, weighted.device):
            out = matrix.excluded(rows)
            if out.shape != (rows.stop - rows.start, m) or out.dtype != torch.bool:
                raise ValueError(
                    f"Expected leave_out to return a boolean mask of shape ({rows.stop - rows.start}, {m}); "
                    f"got {tuple(out.shape)}, {out.dtype}."
                )
            kept = weighted & ~out
            if own is not None:
                have = own[rows] >= 0
                kept[have.nonzero()[:, 0], own[rows][have]] = matrix.keep_own
            counts.append(kept.sum(1))
        left = torch.cat(counts)
    if bool((left < 1).any()):
        raise ValueError(
            f"Expected at least one weighted bank column that is not the row's own; "
            f"row {int((left < 1).nonzero()[0])} has none. Use a batch or bank of at least two observations."
        )
