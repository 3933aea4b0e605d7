"""What P(m|a) = w_m exp score(z_a, bank_m) / sum says of each row: moments, entropy, ranks, credible sets.

All of them go through blocks of rows, in memory linear in either side, and without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recparam.ops.precision import full_precision
from recparam.ops.score_matrix import concatenate_blocks, row_blocks
from recparam.ops.scores import Score
from recparam.ops.select import logit_blocks
from recparam.utils.checks import check_finite, check_matrix, is_whole

_DIAGONAL = 16  # rows whose own columns are scored in one call


class BankMoments(NamedTuple):
    """Mean (A, E) of the bank under each row's P(m|a), and covariance (A, E, E), or None where not computed."""

    mean: Tensor
    covariance: Tensor | None


class Ranks(NamedTuple):
    """The mass of the columns whose score is above the target's, and of those that tie but for rounding, each (A,)."""

    above: Tensor
    tied: Tensor


class Places(NamedTuple):
    """How many columns are more probable than each row's target, and how many as probable.

    Args:
        above: How many columns are more probable than the target, shape (A,).
        tied: How many are as probable but for rounding, the target included, shape (A,).
        size: How many columns there are, those of weight zero left out.
    """

    above: Tensor
    tied: Tensor
    size: int


class HighestSets(NamedTuple):
    """The smallest sets {m: score >= threshold} that reach a probability.

    Args:
        threshold: Log of exp score over its weighted mean, at the last column of the set, in nats, shape (A,).
        mass: Probability of the set, at least the level, shape (A,).
        share: The columns' own weight in the set: its mass were all scores equal, shape (A,).
    """

    threshold: Tensor
    mass: Tensor
    share: Tensor


@torch.no_grad()
def pairwise_moments(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
    covariance: bool = False,
) -> BankMoments:
    """Mean of the bank under each row's P(m|a), and its covariance.

    The mean is the derivative of the log-sum-exp with respect to a linear term in the bank.

    Args:
        score: As in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        log_weights: Shape (M,).
        covariance: Whether to compute it; differences from the mean are taken directly, in (A, M, E) operations.

    Returns:
        BankMoments of the dtype of z.

    Raises:
        ValueError: As in `pairwise_logsumexp`.

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, pairwise_moments
        >>> pairwise_moments(DotProduct(), torch.zeros(1, 1), torch.tensor([[1.0], [3.0]])).mean
        tensor([[2.]])
    """

    def moments(scores: Tensor, mass: Tensor) -> tuple[Tensor, ...]:
        values = bank.to(scores.dtype)
        centre = values.mean(0)
        mean = mass @ (values - centre) + centre
        if not covariance:
            return (mean.to(z.dtype),)
        spread = mean.new_empty(*mean.shape, mean.shape[1])
        for rows in row_blocks(len(mean), values.numel(), z.device):
            away = values - mean[rows, None]
            spread[rows] = (mass[rows, :, None] * away).mT @ away
        return mean.to(z.dtype), spread.to(z.dtype)

    with full_precision(z.device):
        whole = concatenate_blocks((moments(*part[1:]) for part in _masses(score, z, bank, log_weights)), len(z))
    return BankMoments(whole[0], whole[1] if covariance else None)


@torch.no_grad()
def pairwise_log_probs(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    indices: Int[Tensor, "A k"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, "A k"]:
    """log P(m|a) of chosen columns.

    Args:
        score: As in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        indices: Columns of the bank, shape (A, k).
        log_weights: Shape (M,).

    Returns:
        Shape (A, k), in nats; -inf for a column of weight zero.

    Raises:
        ValueError: Indices of another shape or outside the bank, or as in `pairwise_logsumexp`.
    """
    _check_indices(indices, (len(z), indices.shape[-1] if indices.ndim else 1), len(bank))

    def chosen(block: Tensor, at: Tensor) -> tuple[Tensor]:
        return ((block.gather(1, at) - _log_total(block)).to(z.dtype),)

    blocks = _with(indices, logit_blocks(score, z, bank, log_weights=log_weights))
    return concatenate_blocks((chosen(*part) for part in blocks), len(z))[0]


@torch.no_grad()
def pairwise_ranks(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    targets: Int[Tensor, " A"] | Float[Tensor, "A E"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
) -> Ranks:
    """The mass under P(m|a) of the columns whose score is above, or equals, that of the row's target.

    Args:
        score: As in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        targets: Columns of the bank, shape (A,), or vectors that need not be in it, shape (A, E).
        log_weights: Shape (M,).

    Returns:
        Ranks, each part in [0, 1] and of the dtype of z.

    Raises:
        ValueError: Targets of another shape or dtype or outside the bank, or as in `pairwise_logsumexp`.
    """
    inside = not targets.is_floating_point()
    if inside:
        _check_indices(targets, (len(z),), len(bank), name="targets")
    else:
        check_matrix("targets", targets, rows=len(z), width=bank.shape[-1])
        check_finite("targets", targets)
        if targets.dtype != bank.dtype or targets.device != bank.device:
            raise ValueError(
                f"Expected targets as bank, {bank.dtype} on {bank.device}; got {targets.dtype} on {targets.device}. "
                f"Use targets.to(bank)."
            )

    def shares(scores: Tensor, mass: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        slack = _slack(scores)
        away = scores[:, : len(bank)] - scores.gather(1, own[:, None])
        above, tied = (mass * (away > slack)).sum(1), (mass * (away.abs() <= slack)).sum(1)
        return above.clamp_max(1).to(z.dtype), tied.clamp_max(1).to(z.dtype)

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(z), step):
            part = z[first : first + step]
            columns = bank if inside else torch.cat([bank, targets[first : first + step]])
            start = 0
            for count, scores, mass in _masses(score, part, columns, log_weights, size=len(bank)):
                places = torch.arange(start, start + count, device=z.device)
                yield shares(scores, mass, targets[first + places].long() if inside else len(bank) + places)
                start += count

    # Targets outside the bank follow it as columns without mass, so that both are rounded alike; as many
    # rows at a time as the bank has, so that they cost no more than it does.
    step = len(z) if inside else max(len(bank), 1)
    return Ranks(*concatenate_blocks(parts(), len(z)))


@torch.no_grad()
def pairwise_places(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    targets: Int[Tensor, " A"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
) -> Places:
    """The place of each row's target among the columns, the most probable first.

    Args:
        score: As in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        targets: Columns of the bank, shape (A,).
        log_weights: Shape (M,); a column of weight zero comes after all others.

    Returns:
        Numbers of columns; a target alone in front has none above it and one tied, itself.

    Raises:
        ValueError: Targets of another shape or outside the bank, or as in `pairwise_logsumexp`.

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, pairwise_places
        >>> bank = torch.tensor([[1.0], [3.0], [2.0], [1.0]])
        >>> pairwise_places(DotProduct(), torch.ones(1, 1), bank, torch.tensor([3]))
        Places(above=tensor([2]), tied=tensor([2]), size=4)
    """
    _check_indices(targets, (len(z),), len(bank), name="targets")
    # Counted in floating point, which is vectorised; exact up to 2^24 in single precision.
    dtype = torch.float64 if len(bank) > 1 << 24 else None

    def counts(block: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        own, slack, ones = block.gather(1, at), _slack(block), torch.empty_like(block)
        above = torch.gt(block, own + slack, out=ones).sum(1, dtype=dtype)
        return above.long(), (torch.ge(block, own - slack, out=ones).sum(1, dtype=dtype) - above).long()

    blocks = _with(targets[:, None], logit_blocks(score, z, bank, log_weights=log_weights))
    above, tied = concatenate_blocks((counts(*part) for part in blocks), len(z))
    size = len(bank) if log_weights is None else int((log_weights > -torch.inf).sum())
    return Places(above, tied, size)


@torch.no_grad()
def pairwise_entropy(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, " A"]:
    """Entropy of each row's P(m|a).

        H_a = sum_m P(m|a) (lse_a - t_am),   t_am = log w_m + score(z_a, bank_m),   lse_a = log sum_m exp t_am

    as a sum of terms that are not negative, so that no two large ones are subtracted.

    Args:
        score: As in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        log_weights: Shape (M,).

    Returns:
        Shape (A,), in nats: zero where one column has all, log M where all are alike.

    Raises:
        ValueError: As in `pairwise_logsumexp`.

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, pairwise_entropy
        >>> pairwise_entropy(DotProduct(), torch.zeros(1, 3), torch.zeros(4, 3)).exp()
        tensor([4.])
    """

    def entropy(block: Tensor) -> tuple[Tensor]:
        high = block.amax(1, keepdim=True)
        _check_reach(high)
        # At the floor exp is zero in any precision: a column of probability zero adds nothing.
        below = (block - high).clamp_(min=-1000.0)
        mass = below.exp()
        total = mass.sum(1)
        return ((total.log() - mass.mul_(below).sum(1) / total).to(z.dtype),)

    return concatenate_blocks(map(entropy, logit_blocks(score, z, bank, log_weights=log_weights)), len(z))[0]


@torch.no_grad()
def pairwise_scores(
    score: Score, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"], indices: Int[Tensor, "A k"]
) -> Float[Tensor, "A k"]:
    """Scores of chosen columns, without a sweep over the others.

    Args:
        score: As in `pairwise_logsumexp`; it is called, so that nothing is expanded.
        z: Shape (A, D).
        bank: Shape (M, E).
        indices: Columns of the bank, shape (A, k).

    Returns:
        Shape (A, k), in nats.

    Raises:
        ValueError: Indices of another shape or outside the bank.
    """
    _check_indices(indices, (len(z), indices.shape[-1] if indices.ndim else 1), len(bank))

    def own(part: Tensor, chosen: Tensor) -> tuple[Tensor]:
        # A score takes blocks, of which the diagonal is kept: a few rows at a time waste little and cost few calls.
        with full_precision(z.device):
            block = score(part, bank[chosen.flatten()]).unflatten(1, chosen.shape)
        return (block.diagonal().T.to(z.dtype),)

    parts = zip(z.split(_DIAGONAL), indices.long().split(_DIAGONAL), strict=True)
    return concatenate_blocks((own(*part) for part in parts), len(z))[0]


@torch.no_grad()
def pairwise_highest(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    level: float,
    *,
    log_weights: Float[Tensor, " M"] | None = None,
) -> HighestSets:
    """The smallest sets of highest score whose probability under P(m|a) reaches a level.

    Args:
        score: As in `pairwise_logsumexp`.
        z: Shape (A, D).
        bank: Shape (M, E).
        level: Between 0 and 1, exclusive.
        log_weights: Shape (M,).

    Returns:
        Thresholds, masses and shares.

    Raises:
        ValueError: A level outside (0, 1), or as in `pairwise_logsumexp`.
    """
    if not 0 < level < 1:
        raise ValueError(f"Expected level between 0 and 1, such as 0.95; got {level!r}.")
    flat = bank.new_zeros(len(bank)) if log_weights is None else log_weights
    weights = flat.double().softmax(0)

    def sets(scores: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slack = _slack(scores)
        scores = scores.double().masked_fill(weights == 0, -torch.inf)
        ordered, order = scores.sort(dim=1, descending=True)
        reached = mass.double().gather(1, order).cumsum(1)
        last = (reached < level).sum(1, keepdim=True).clamp_max(int((weights > 0).sum()) - 1)
        least = ordered.gather(1, last)
        inside = scores >= least - slack  # with all that tie with the last
        log_mean = torch.logsumexp(scores + weights.log(), 1)
        reach, share = (mass * inside).sum(1), (weights * inside).sum(1)
        return (least[:, 0] - log_mean).to(z.dtype), reach.clamp_max(1).to(z.dtype), share.clamp_max(1).to(z.dtype)

    return HighestSets(*concatenate_blocks((sets(*part[1:]) for part in _masses(score, z, bank, log_weights)), len(z)))


def _masses(
    score: Score, z: Tensor, bank: Tensor, log_weights: Tensor | None, *, size: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Blocks of rows: how many, their scores (rows, M) up to a constant per row, and P (rows, size).

    Columns from `size` on have a score and no mass.
    """
    size = len(bank) if size is None else size
    for scores in logit_blocks(score, z, bank):
        logits = scores[:, :size] if log_weights is None else scores[:, :size] + log_weights
        yield len(scores), scores, (logits - _log_total(logits)).exp()


def _with(values: Tensor, blocks: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows, each with those rows of whole numbers."""
    start = 0
    for block in blocks:
        yield block, values[start : start + len(block)].long()
        start += len(block)


def _slack(scores: Tensor) -> Tensor:
    """What rounding may put between two equal scores of a row: a matrix product rounds its columns differently."""
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    if not bool((low.isfinite() & high.isfinite()).all()):
        scores = scores.masked_fill(scores.isinf(), 0)
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    return 16 * torch.finfo(scores.dtype).eps * torch.maximum(high, -low)


def _log_total(logits: Tensor) -> Tensor:
    total = logits.logsumexp(1, keepdim=True)
    _check_reach(total)
    return total


def _check_reach(largest: Tensor) -> None:
    if not bool(largest.isfinite().all()):
        raise ValueError("Expected z within reach of the bank; got a row whose scores overflow. Rescale z and bank.")


def _check_indices(indices: Tensor, shape: tuple[int, ...], size: int, *, name: str = "indices") -> None:
    if not is_whole(indices) or indices.shape != shape or not indices.numel():
        raise ValueError(f"Expected {name} as whole numbers of shape {shape}; got {indices.dtype}, "
                         f"{tuple(indices.shape)}.")  # fmt: skip
    if int(indices.min()) < 0 or int(indices.max()) >= size:
        raise ValueError(
            f"Expected {name} from 0 to {size - 1}, rows of the bank; got {int(indices.min())} to {int(indices.max())}."
        )
