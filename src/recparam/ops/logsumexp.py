"""The one kernel: row-wise log-sum-exp of pairwise scores over a bank, in memory linear in either side."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recparam.ops import engines
from recparam.ops.logits import HALF, Logits
from recparam.ops.precision import full_precision
from recparam.ops.score_matrix import (
    LeaveOut,
    ScoreMatrix,
    check_columns_left,
    check_finite_sides,
    checked_matrix,
    row_blocks,
)
from recparam.ops.scores import DotProduct, Features, Score, features_of, largest_norm, tolerated_in
from recparam.utils.checks import NonFiniteError

Implementation = Literal["auto", "dense", "blocked", "native", "triton"]


def pairwise_logsumexp(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
    row_owner: Int[Tensor, " A"] | None = None,
    bank_owner: Int[Tensor, " M"] | None = None,
    leave_out: LeaveOut | None = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, " A"]:
    """Row-wise log-sum-exp of a pairwise score, differentiable in all tensors, never holding an A x M matrix.

        out_a = log sum_{m: bank_owner_m != row_owner_a} w_m exp score(z_a, bank_m)

    Args:
        score: Maps blocks (A, D), (M, E) to scores (A, M) in nats. It is called on blocks of rows, unless it
            is a matrix product of features (dot product, squared distance, Gaussian densities).
        z: Queries, shape (A, D).
        bank: Columns, shape (M, E), of the same dtype and device. Half precision is computed in single,
            but for products of matrices in half that an implementation accumulates in single.
        log_weights: Log of a weight per column, shape (M,); -inf masks a column; None means weight one.
        row_owner: Identity of each query, shape (A,). With `bank_owner` the columns of the same identity
            are left out of that row.
        bank_owner: Identity of each column, shape (M,).
        leave_out: Maps a slice of rows to a boolean mask (rows, M), True for further columns to leave out.
        implementation: "auto"; "dense", in plain operations and quadratic memory, for double backward and as
            reference; or one of the others by name (see `recparam.ops.engines`).

    Returns:
        Shape (A,), in nats, of the dtype of z.

    Raises:
        ValueError: A side is empty or not a matrix, dtypes or devices differ, an input is not finite, the
            score's block has the wrong shape, one of the owners is missing, or a row has no column left.
        NotImplementedError: In a double backward of any implementation but "dense".

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, pairwise_logsumexp
        >>> z = torch.zeros(2, 3)
        >>> pairwise_logsumexp(DotProduct(), z, torch.zeros(4, 3)).exp()
        tensor([4., 4.])
    """
    matrix = checked_matrix(score, z, bank, log_weights, row_owner, bank_owner, leave_out, finite=False)
    return value_of(matrix, implementation)


def pairwise_logmeanexp(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    log_weights: Float[Tensor, " M"] | None = None,
    row_owner: Int[Tensor, " A"] | None = None,
    bank_owner: Int[Tensor, " M"] | None = None,
    leave_out: LeaveOut | None = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, " A"]:
    """Row-wise log of the weighted mean of exp score over the columns kept for that row.

    As `pairwise_logsumexp`, less the log of the total weight of the columns that were kept, so that leaving
    a row's own columns out leaves a mean and not a smaller sum.
    """
    matrix = checked_matrix(score, z, bank, log_weights, row_owner, bank_owner, leave_out, finite=False)
    return value_of(matrix, implementation) - log_total(matrix, implementation)


def pairwise_infonce(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    positives: Int[Tensor, " A"] | None = None,
    keep_positive: bool = True,
    log_weights: Float[Tensor, " M"] | None = None,
    leave_out: LeaveOut | None = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, " A"]:
    """The score of each row's positive less the log-mean-exp over the bank: what "InfoNCE" computes.

        out_a = score(z_a, bank_p(a)) - log mean_m exp score(z_a, bank_m)

    Forming the two in one sweep keeps what their difference loses: the value never exceeds log M by rounding,
    and gradients are right where the positive is far above the rest (one minus its probability is computed
    from the others' sum). See also: Eqs. 6, 22.

    Args:
        score: As in `pairwise_logsumexp`.
        z: Queries, shape (A, D).
        bank: Columns, shape (M, E), the positives among them.
        positives: Index of each query's positive in the bank, shape (A,); None means column a for row a.
        keep_positive: Whether the positive stays in the mean.
        log_weights: Log of a weight per column, shape (M,); a positive's must be finite.
        leave_out: Maps a slice of rows to a boolean mask (rows, M), True for columns to leave out of the mean;
            a positive's own entry is ignored.
        implementation: As in `pairwise_logsumexp`.

    Returns:
        Shape (A,), in nats. The other direction is the same with the sides, and the score's, exchanged.

    Raises:
        ValueError: As `pairwise_logsumexp`, or positives that do not index the bank.

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, pairwise_infonce
        >>> pairwise_infonce(DotProduct(), 100 * torch.eye(2), torch.eye(2))
        tensor([0.6931, 0.6931])
    """
    matrix = checked_matrix(score, z, bank, log_weights, None, None, None, finite=False)
    if positives is None:
        if len(z) > len(bank):
            raise ValueError(f"Expected positives=, or at least {len(z)} bank rows, one per query; got {len(bank)}.")
        positives = torch.arange(len(z), device=z.device)
    else:
        check_positives(positives, z, bank)
    if log_weights is not None and bool(torch.isneginf(log_weights[positives]).any()):
        raise ValueError("Expected finite log_weights at every positive; got -inf. Leave those rows out of z.")
    matrix = replace(matrix, own=positives, keep_own=keep_positive, contrast=True, excluded=leave_out)
    check_columns_left(matrix)
    value = value_of(matrix, implementation) + log_total(matrix, implementation)
    return value if log_weights is None else value - log_weights[positives]


def explain(score: Score, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> str:
    """Which implementation "auto" takes for a score of z and bank without options, and why.

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, explain
        >>> explain(DotProduct(), torch.zeros(8, 2), torch.zeros(9, 2))
        'blocked: 8 x 9 pairs are few (of 1048576, 64 on either side)'
    """
    with full_precision(z.device):
        features, _ = product_features(in_single(checked_matrix(score, z, bank, None, None, None, None)))
    if features is None:
        return f"blocks of {type(score).__name__} itself: it has no features whose product is exact enough"
    logits = Logits(features.rows, features.columns, features.column_bias)
    engine = engines.choose("auto", z.device, logits)
    why = engines.against_native(logits) if engine is engines.BLOCKED else f"{features.rows.shape[1]} features"
    return f"{engine.name}: {why}"


def check_positives(positives: Tensor, z: Tensor, bank: Tensor) -> None:
    """Raise ValueError unless there is an index of a row of the bank for each row of z."""
    if positives.shape != (len(z),) or positives.dtype != torch.int64 or positives.device != z.device:
        raise ValueError(
            f"Expected positives of shape ({len(z)},), int64 on {z.device}; got {tuple(positives.shape)}, "
            f"{positives.dtype} on {positives.device}."
        )
    least, most = int(positives.min()), int(positives.max())
    if least < 0 or most >= len(bank):
        raise ValueError(f"Expected positives from 0 to {len(bank) - 1}; got {least} to {most}.")


def log_total(matrix: ScoreMatrix, implementation: Implementation) -> Tensor | float:
    """Log of the total weight of the columns that each row keeps, a scalar or (A,)."""
    left = matrix.own is not None and not matrix.keep_own
    if matrix.excluded is None and not left:
        if matrix.log_weights is None:
            return math.log(len(matrix.bank))
        return torch.logsumexp(matrix.log_weights, 0)
    if matrix.excluded is None and matrix.log_weights is None and matrix.own is not None:
        count = len(matrix.bank) - (matrix.own >= 0).to(torch.float64)
        return count.log().to(matrix.z.dtype)
    z, bank = (side.new_zeros(len(side), 1) for side in (matrix.z, matrix.bank))
    zeros = replace(matrix, score=DotProduct(), z=z, bank=bank)
    return value_of(replace(zeros, contrast=False), implementation)


def value_of(matrix: ScoreMatrix, implementation: Implementation) -> Tensor:
    """lse over the kept columns, or the own logit (its weight included) less it."""
    with full_precision(matrix.z.device):
        return _value_in_full(matrix, implementation)


def _value_in_full(matrix: ScoreMatrix, implementation: Implementation) -> Tensor:
    dtype = matrix.z.dtype
    if implementation != "dense":
        engines.choose(implementation, matrix.z.device)  # a name that cannot run here is an error for any score
        features, matrix = product_features(in_single(matrix))
        if features is not None:
            return product(matrix, features, implementation, dtype).to(dtype)
        check_finite_sides(matrix.z, matrix.bank)
        return _by_blocks(matrix).to(dtype)
    check_finite_sides(matrix.z, matrix.bank)
    matrix = in_single(matrix)
    return _block(matrix, slice(0, len(matrix.z)), matrix.z, matrix.bank, matrix.log_weights).to(dtype)


def in_single(matrix: ScoreMatrix) -> ScoreMatrix:
    """The same in single precision, if it was in half."""
    return in_dtype(matrix, torch.float32) if matrix.z.dtype in HALF else matrix


def in_dtype(matrix: ScoreMatrix, dtype: torch.dtype) -> ScoreMatrix:
    """The same in another precision."""
    weights = None if matrix.log_weights is None else matrix.log_weights.to(dtype)
    return replace(matrix, z=matrix.z.to(dtype), bank=matrix.bank.to(dtype), log_weights=weights)


def product_features(matrix: ScoreMatrix) -> tuple[Features | None, ScoreMatrix]:
    """Features in the least precision in which their product is right, by a bound computed from them."""
    score = matrix.score
    features = features_of(score, matrix.z, matrix.bank)
    if features is None:
        return None, matrix
    magnitude = _magnitude(features)
    if magnitude <= tolerated_in(score, matrix.z.dtype):
        return features._replace(largest=magnitude), matrix
    if not math.isfinite(magnitude):  # as it is if an entry is not finite
        check_finite_sides(matrix.z, matrix.bank)
        if math.isnan(magnitude):
            raise NonFiniteError(f"Expected finite parameters of the score {type(score).__name__}; got NaN.")
    if matrix.z.dtype != torch.float64:
        matrix = in_dtype(matrix, torch.float64)
        features = features_of(score, matrix.z, matrix.bank)
        if features is not None and _magnitude(features) <= tolerated_in(score, torch.float64):
            return features, matrix
    return None, matrix


def _in_half(features: Features, dtype: torch.dtype) -> Features:
    """A plain dot product in half precision; a square's expansion, or one around a centre, would lose too much."""
    plain = features.rows.dtype == torch.float32 and features.row_bias is None and features.column_bias is None
    with torch.no_grad():
        if not plain or any(float(largest_norm(side)) > torch.finfo(dtype).max for side in features[:2]):
            return features
    return Features(features.rows.to(dtype), features.columns.to(dtype))


@torch.no_grad()
def _magnitude(features: Features) -> float:
    """The largest term, in nats, that can be met while a score is formed from features."""
    biases = [float(bias.abs().max()) for bias in features[2:4] if bias is not None]
    if features.largest is not None:
        return features.largest + sum(biases)
    return float(largest_norm(features.rows) * largest_norm(features.columns)) + sum(biases)


def product(matrix: ScoreMatrix, features: Features, implementation: str, dtype: torch.dtype) -> Tensor:
    """The value from features; `dtype` is that of the arguments."""
    bias, largest = features.column_bias, math.inf if features.largest is None else features.largest
    if matrix.log_weights is not None:
        largest = math.inf
        weights = matrix.log_weights.to(torch.promote_types(features.rows.dtype, torch.float32))
        bias = weights if bias is None else bias + weights
    options = (bias, matrix.own, matrix.keep_own, matrix.contrast, matrix.excluded, largest)
    engine = engines.choose(implementation, matrix.z.device, Logits(features.rows, features.columns, *options))
    if dtype in HALF and engine.half:
        features = _in_half(features, dtype)
    value = Sweep.apply(features.rows, features.columns, *options, engine, torch.is_grad_enabled())
    assert isinstance(value, Tensor)
    return value if features.row_bias is None or matrix.contrast else value + features.row_bias


class Sweep(torch.autograd.Function):
    """One sweep forward that also leaves the gradients of the sum; backward scales them, or sweeps again.

    What the tensors' axes are is the engine's business: `ops.stacks` has one for several batches at once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        bias: Tensor | None,
        own: Tensor | None,
        keep_own: bool,
        contrast: bool,
        excluded: LeaveOut | None,
        largest: float,
        engine: engines.Engine,
        with_gradients: bool,
    ) -> Tensor:
        """The value of each row, of logits that the engine sweeps over."""
        detached = (rows.detach(), columns.detach(), None if bias is None else bias.detach())
        logits = Logits(*detached, own, keep_own, contrast, excluded, largest)
        ctx.need = tuple(ctx.needs_input_grad[:3])
        swept = engine.sweep(logits, ctx.need if with_gradients and any(ctx.need) else None)
        ctx.save_for_backward(rows, columns, bias, own)
        ctx.options, ctx.engine, ctx.gradients = (keep_own, contrast, excluded, largest), engine, swept.gradients
        return swept.out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, columns and bias; no second derivative."""
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "The pairwise log-sum-exp has no second derivative (create_graph=True); use implementation='dense'."
            )
        (g,) = upstream
        one = g.flatten()[0]
        equal = g.numel() < 2 or not any(g.stride()) or bool((g == one).all())
        kept, ctx.gradients = ctx.gradients, None  # scaled in place: a second backward sweeps again
        if equal and kept is not None:
            parts = tuple(None if part is None else part.mul_(one) for part in kept)
        else:
            rows, columns, bias, own = ctx.saved_tensors
            logits = Logits(rows, columns, bias, own, *ctx.options)
            parts = tuple(ctx.engine.gradients(logits, g, ctx.need))
        return *parts, None, None, None, None, None, None, None


def _by_blocks(matrix: ScoreMatrix) -> Tensor:
    """Blocks of rows of any score; backward forms each block again."""
    values: list[Tensor] = []
    for rows in row_blocks(len(matrix.z), len(matrix.bank), matrix.z.device):
        block = matrix.z[rows]
        if torch.is_grad_enabled() and len(block) < len(matrix.z):
            value = checkpoint(_block, matrix, rows, block, matrix.bank, matrix.log_weights, use_reentrant=False)
        else:
            value = _block(matrix, rows, block, matrix.bank, matrix.log_weights)
        assert isinstance(value, Tensor)
        values.append(value)
    return torch.cat(values)


def _block(matrix: ScoreMatrix, rows: slice, z: Tensor, bank: Tensor, log_weights: Tensor | None) -> Tensor:
    """The values of some rows, from the score itself and in operations that torch differentiates."""
    scores = matrix.score(z, bank)
    if scores.shape != (len(z), len(bank)):
        raise ValueError(f"Expected the score to return shape ({len(z)}, {len(bank)}); got {tuple(scores.shape)}.")
    if log_weights is not None:
        scores = scores + log_weights
    own = None if matrix.own is None else matrix.own[rows]
    kept = scores if matrix.excluded is None else scores.masked_fill(matrix.excluded(rows), -torch.inf)
    if own is None:
        return torch.logsumexp(kept, -1)
    # The own logit apart: one minus its probability must not be formed as a difference.
    is_own = own[:, None] == torch.arange(len(bank), device=own.device)
    t_own = torch.where(own >= 0, scores.gather(1, own.clamp_min(0)[:, None])[:, 0], -torch.inf)
    others = kept.masked_fill(is_own, -torch.inf)
    none = torch.isneginf(others.detach()).all(-1)
    off = torch.where(none, -torch.inf, torch.logsumexp(others.masked_fill(none[:, None], 0), -1))
    if not matrix.keep_own:
        return t_own - off if matrix.contrast else off
    if not matrix.contrast:
        return torch.logaddexp(off, t_own)
    return torch.where(none, 0, -torch.nn.functional.softplus(torch.where(none, 0, off - t_own)))
