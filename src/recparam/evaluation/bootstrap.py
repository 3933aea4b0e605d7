"""Intervals for means over a series, whose neighbouring rows are not independent.

Numbers in, intervals out; nothing here knows a model. Rows are resampled in contiguous blocks, so that what is
dependent stays together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from recparam.evaluation import Interval

FEWEST = 8
"""Fewest values that have an interval: below, a percentile of resampled means is a guess."""


class BlockInterval(NamedTuple):
    """The mean of a series, its interval, and the blocks it comes from.

    Args:
        interval: Mean, low and high, in the unit of the values.
        block: Rows per block.
        count: Rows of the series.
    """

    interval: Interval
    block: int
    count: int


def block_interval(
    values: ArrayLike, *, block: int | None = None, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> BlockInterval:
    """Percentile interval of the mean of a series, from circular blocks of neighbouring rows.

        mean* = 1/n sum_t v*_t,    v* = blocks of the series, their starts uniform, its end joined to its beginning

    Rows of a series that follow one another have similar values, and resampling them one by one gives intervals
    that are too narrow. Differences of two models on the same rows are one series: their interval is paired.
    The interval still tends to be too narrow where the series has only a few independent segments.

    Args:
        values: One number per row, in order of time, shape (n,), n at least 8.
        block: Rows per block; None takes `block_length`.
        level: Probability that the interval covers the mean of the process.
        resamples: Number of resampled series.
        seed: Of the resampling; the same seed gives the same interval.

    Returns:
        Mean with its interval, and the block.

    Raises:
        ValueError: Values that are not a series of at least 8 finite numbers, or options outside their range.

    References:
        Politis & Romano (1992), A circular block-resampling procedure for stationary data.

    Example:
        >>> series = np.repeat(np.random.default_rng(0).normal(size=50), 10)  # 500 rows, 50 of them independent
        >>> alone, blocks = block_interval(series, block=1), block_interval(series)
        >>> blocks.interval.high - blocks.interval.low > 2 * (alone.interval.high - alone.interval.low)
        True
    """
    series = _series(values)
    count = len(series)
    if block is not None and not 1 <= block <= count:
        raise ValueError(f"Expected block from 1 to {count}, the rows of the series; got {block!r}.")
    if not 0 < level < 1:
        raise ValueError(f"Expected level between 0 and 1, such as 0.95; got {level!r}.")
    if resamples < 1:
        raise ValueError(f"Expected resamples of at least 1; got {resamples!r}.")
    length = block_length(series) if block is None else block
    # The sum of a block is a difference of running sums of the series, continued once around the circle.
    running = np.concatenate([[0.0], np.cumsum(np.concatenate([series, series]) - series.mean())])
    starts = np.random.default_rng(seed).integers(count, size=(resamples, math.ceil(count / length)))
    lengths = np.full(starts.shape[1], length)
    lengths[-1] = count - length * (len(lengths) - 1)  # the last block is cut, so that n rows are drawn
    means = (running[starts + lengths] - running[starts]).sum(1) / count
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(series.mean())
    return BlockInterval(Interval(mean, mean + float(low), mean + float(high)), length, count)


def block_length(values: ArrayLike) -> int:
    """Length of the blocks that suits the series' own dependence.

        b = (2 G^2 / D)^(1/3) n^(1/3),    G = sum_k w_k |k| c_k,    D = 4/3 (sum_k w_k c_k)^2

    with autocovariances c_k and a flat-topped window w that ends at twice the lag from which on correlations are
    noise; at most min(3 sqrt(n), n / 3).

    Args:
        values: One number per row, in order of time, shape (n,), n at least 8.

    Returns:
        Rows per block, at least 1.

    Raises:
        ValueError: Values that are not a series of at least 8 finite numbers.

    References:
        Politis & White (2004), Automatic block-length selection for the dependent bootstrap; corrected by Patton,
        Politis & White (2009).
    """
    series = _series(values)
    count = len(series)
    centred = series - series.mean()
    variance = float(centred @ centred) / count
    if variance <= (1e-12 * float(np.abs(series).max())) ** 2:
        return 1  # constant: every resample is the series
    run = max(5, math.ceil(math.sqrt(math.log10(count))))
    longest = min(math.ceil(math.sqrt(count)) + run, count - 1)
    covariance = np.array([centred[: count - k] @ centred[k:] for k in range(longest + 1)]) / count
    noise = 2 * math.sqrt(math.log10(count) / count)
    significant = np.flatnonzero(np.abs(covariance[1:] / variance) > noise) + 1
    # The smallest lag that `run` insignificant ones follow, or else the last significant one.
    gaps = [lag for lag in (0, *significant) if not np.any((significant > lag) & (significant <= lag + run))]
    cut = min(2 * max(gaps[0] if gaps else longest, 1), longest)
    lags = np.arange(1, cut + 1)
    window = np.clip(2 * (1 - lags / cut), 0, 1)
    total = covariance[0] + 2 * float((window * covariance[1 : cut + 1]).sum())
    slope = 2 * float((window * lags * covariance[1 : cut + 1]).sum())
    if total <= 0 or slope == 0:
        return 1
    best = (1.5 * slope**2 / total**2 * count) ** (1 / 3)
    return int(max(1, min(round(best), 3 * math.sqrt(count), count // 3)))


def _series(values: ArrayLike) -> Float[np.ndarray, " n"]:
    series = np.asarray(values, dtype=float)
    if series.ndim != 1 or len(series) < FEWEST:
        raise ValueError(f"Expected values of shape (n,), n at least {FEWEST}, in order of time; got {series.shape}.")
    if not np.isfinite(series).all():
        raise ValueError(f"Expected finite values; got {int((~np.isfinite(series)).sum())} that are NaN or infinite.")
    return series
