"""The total correlation of groups of latents, as that of a normal distribution and without bias if they have one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.ops.precision import as_double, full_precision
from recparam.utils.checks import NonFiniteError

LARGEST_ERROR = 0.5
"""Nats, a standard deviation: batches that know the total correlation of independent groups less well are refused."""

_ROUNDING = 8  # units in the last place: latents that vary less are constant, or copies where they differ by less


def gaussian_total_correlation(z: Float[Tensor, "B D"], groups: Sequence[Sequence[int]]) -> Tensor:
    """The total correlation of groups of jointly normal latents, in nats: 1/2 (sum_g log det C_g - log det C) - bias.

    E log det C of d normal latents from B independent rows is log det of the true covariance plus
    sum_{i=1}^d digamma((B - i) / 2) + d log(2 / (B - 1)), whatever that covariance is (C is a Wishart matrix). Half the
    sum of these shifts over groups, less half the shift of all latents, is the bias, so that the mean of the estimate
    is the total correlation. Near zero the estimate is often negative. It is not clipped, which would be a bias again.
    The bias does not depend on z: gradients are those of the determinants.

    What is left: rows of a series count as fewer independent ones than B, so that too little is subtracted. Of latents
    that are not normal the value is that of a normal distribution with their covariance, which can be too small or
    too large, and has a bias of order 1 / B where groups are correlated.

    Args:
        z: Shape (B, D), from which the covariance C is taken; B at least `least_rows(groups)`.
        groups: Dimensions of each; those of none are left out.

    Raises:
        ValueError: Too few rows.
        NonFiniteError: A latent is constant, or a function of others.

    References:
        Muirhead (1982), "Aspects of Multivariate Statistical Theory", Theorem 3.2.15.

    Example:
        >>> import torch
        >>> z = torch.randn(9, 1) * torch.ones(9, 2) + 1e-3 * torch.randn(9, 2)
        >>> bool(gaussian_total_correlation(z, [[0], [1]]) > 3)
        True
    """
    return log_dependence([z[:, list(group)] for group in groups]).mean()


def log_dependence(parts: Sequence[Float[Tensor, "B _d"]]) -> Float[Tensor, " B"]:
    """log N(z) / prod_g N(z_g) of each row, N normal with the rows' covariance, less the bias of its mean.

    Args:
        parts: Latents of each group, rows in correspondence.

    Returns:
        Shape (B,), in nats; the mean is `gaussian_total_correlation`. Double precision, where the device has it. A
        row's value less the mean is what the mean owes to that row, so that their standard error is the mean's.

    Raises:
        ValueError: Too few rows.
        NonFiniteError: A latent is constant, or a function of others.
    """
    rows, widths = len(parts[0]), tuple(part.shape[1] for part in parts)
    if len(parts) == 1:
        return parts[0].new_zeros(rows)
    _check_rows(rows, widths)
    z = torch.cat(list(parts), dim=1)
    with full_precision(z.device):
        u, least_left = _standardised(z)
        covariance = u.T @ u / (rows - 1)
        whole = _log_density(u, covariance, least_left)
        starts = [sum(widths[:g]) for g in range(len(widths))]
        own = [
            _log_density(u[:, a : a + d], covariance[a : a + d, a : a + d], least_left[a : a + d])
            for a, d in zip(starts, widths, strict=True)
        ]
        return whole - torch.stack(own).sum(0) - _bias(rows, widths)


@lru_cache(maxsize=64)
def least_rows(*widths: int) -> int:
    """The fewest rows that know the total correlation of independent groups to half a nat (standard deviation).

    Args:
        *widths: Number of latents of each group.

    Example:
        >>> least_rows(2, 2, 2), least_rows(*[2] * 10), least_rows(6)
        (10, 30, 7)
    """
    rows = sum(widths) + 1
    while _error(rows, widths) > LARGEST_ERROR:
        rows += 1
    return rows


def _check_rows(rows: int, widths: tuple[int, ...]) -> None:
    least = least_rows(*widths)
    if rows < least:
        total = sum(widths)
        known = f"to {_error(rows, widths):.1f} nats" if rows > total else "not at all"
        raise ValueError(
            f"Expected latents of at least {least} rows, to know the total correlation of {len(widths)} groups of "
            f"{total} latents to {LARGEST_ERROR} nats; got {rows}, which know it {known}. Use larger batches, leaving "
            f"out the last one if it is smaller, or fewer latents."
        )


@lru_cache(maxsize=64)
def _bias(rows: int, widths: tuple[int, ...]) -> float:
    """How much too large 1/2 (sum_g log det C_g - log det C) is in the mean."""
    *own, whole = (0.5 * float(torch.digamma(_halves(rows, width)).sum()) for width in (*widths, sum(widths)))
    return sum(own) - whole


def _error(rows: int, widths: tuple[int, ...]) -> float:
    """The standard deviation of the total correlation of independent groups."""
    *own, whole = (0.25 * float(torch.polygamma(1, _halves(rows, width)).sum()) for width in (*widths, sum(widths)))
    return math.sqrt(max(whole - sum(own), 0.0))


def _halves(rows: int, width: int) -> Tensor:
    """Half the degrees of freedom of each factor of a Wishart determinant."""
    return (rows - torch.arange(1, width + 1, dtype=torch.float64)) / 2


def _standardised(z: Tensor) -> tuple[Tensor, Tensor]:
    """Latents less their mean over their standard deviation, and the least part of its variance that each must keep.

    The total correlation depends on neither mean nor scale, so that no unit of the latents can overflow a square.
    """
    wide = as_double(z)
    size = wide.detach().abs().amax(0)
    centred = wide - wide[0]  # exact where the offset is large
    centred = centred - centred.mean(0)
    spread = centred.detach().abs().amax(0)
    rounding = _ROUNDING * torch.finfo(z.dtype).eps * size
    constant = (spread <= rounding).nonzero()[:, 0].tolist()
    if constant:
        raise _no_value(f"latents that do not vary, {_named(constant)} of {z.shape[1]}")
    scaled = centred / spread
    deviation = scaled.detach().square().sum(0).div(len(z) - 1).sqrt()
    least_left = (rounding / spread / deviation).square() + 1e3 * torch.finfo(wide.dtype).eps
    return scaled / deviation, least_left


def _log_density(u: Tensor, covariance: Tensor, least_left: Tensor) -> Tensor:
    """log N of each row but for -d/2 log 2 pi."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    left = factor.detach().diagonal()  # the standard deviation that is left given the latents before
    if int(failed) or not bool((left.square() > least_left).all()):
        raise _no_value("latents of which one is a function of others, such as a copy")
    distance = torch.linalg.solve_triangular(factor, u.T, upper=False).square().sum(0)
    return -factor.diagonal().log().sum() - 0.5 * distance


def _no_value(what: str) -> NonFiniteError:
    return NonFiniteError(
        f"Expected latents with a covariance of full rank, of which the total correlation of groups is finite; got "
        f"{what}. Check the encoder: initialise it anew, lower the learning rate, or use fewer latents."
    )


def _named(columns: Sequence[int]) -> str:
    return f"column{'s' if len(columns) > 1 else ''} {', '.join(map(str, columns))}"
