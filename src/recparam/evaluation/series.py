"""Intervals for means over a series, whose neighbouring rows are not independent.

Numbers in, intervals out; nothing here knows a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.fft import dct
from scipy.stats import t as student_t

from recparam.evaluation import Interval

FEWEST = 15
"""Fewest independent blocks that have an interval: of AR(1) series with fewer, intervals were too narrow."""
_LEAST = 6  # frequencies, below which the values of a t distribution make any interval very wide
_TAIL_ROWS = 10  # below which the index of a tail cannot be estimated


class BlockInterval(NamedTuple):
    """The mean of a series, its interval, and the independent blocks it comes from.

    Args:
        interval: Mean, low and high, in the unit of the values; low and high are None where blocks are too few.
        blocks: Independent blocks, roughly.
        count: Rows of the series.
    """

    interval: Interval
    blocks: int
    count: int


@dataclass(frozen=True)
class MeanError:
    """How far the mean of a series is from that of its process.

    Args:
        standard_error: Of the mean, in the unit of the values.
        freedom: Degrees of freedom of its estimate.
        blocks: Independent blocks, roughly: the rows that would have this error if they were independent.
        tail: Shape k of a generalised Pareto distribution of the largest deviations; the variance is infinite from 1/2
            on.
    """

    standard_error: float
    freedom: float
    blocks: int
    tail: float

    def half_width(self, level: float = 0.95) -> float | None:
        """Half of the interval that covers the mean of the process at that level; None for fewer than 15 blocks."""
        if self.blocks < FEWEST:
            return None
        return float(student_t.ppf((1 + level) / 2, self.freedom)) * self.standard_error

    def __add__(self, other: MeanError) -> MeanError:
        """The error of a sum of two means that are independent; degrees of freedom after Welch and Satterthwaite."""
        parts = (self, other)
        total = sum(part.standard_error**2 for part in parts)
        if total == 0:
            return self

        def joint(of: Sequence[float]) -> float:
            return total**2 / sum(part.standard_error**4 / n for part, n in zip(parts, of, strict=True))

        heaviest = max(part.tail for part in parts if part.standard_error**2 > 0.1 * total)
        freedom, blocks = joint([part.freedom for part in parts]), joint([float(part.blocks) for part in parts])
        return MeanError(math.sqrt(total), freedom, round(blocks), heaviest)


def mean_error(values: ArrayLike) -> MeanError:
    """The error of the mean of a stationary series, from the lowest frequencies of its spectrum.

    With cosine coefficients c_j of the series, j = 1, ..., n - 1, of which each c_j^2 has the spectral density at its
    frequency as its mean,

        variance of the mean = 1 / (nu n) sum_{j <= nu} c_j^2,    nu degrees of freedom

    where the spectrum is flat up to nu. Of independent rows it is flat everywhere, and nu = n - 1 gives the usual
    variance. Of others it is flat at the lowest frequencies alone. So nu = n - 1, half of it, and so on down to six are
    tried, and the one with the widest interval is taken: about a fifth wider than need be where rows are independent.

    Args:
        values: One number per row, in order of time, shape (n,), n at least 2.

    Raises:
        ValueError: Values that are not a series of finite numbers.

    References:
        Mueller (2004), A theory of robust long-run variance estimation; Lazarus, Lewis, Stock & Watson (2018), HAR
        inference: recommendations for practice.

    Example:
        >>> independent = np.random.default_rng(0).normal(size=300)
        >>> series = np.repeat(independent, 10)  # 3000 rows, 300 of them independent
        >>> 100 < mean_error(series).blocks < 400
        True
    """
    series = _series(values)
    count = len(series)
    centred = series - series.mean()
    power = np.square(np.asarray(dct(centred, norm="ortho"))[1:])
    if power.sum() <= count * (1e-14 * float(np.abs(series).max())) ** 2:
        return MeanError(0.0, float(count - 1), count, -math.inf)  # constant
    sizes = [count - 1]
    while sizes[-1] > _LEAST:
        sizes.append(max(sizes[-1] // 2, _LEAST))
    variances = [float(power[:size].mean()) / count for size in sizes]
    widths = [
        math.sqrt(variance) * float(student_t.ppf(0.975, size)) for variance, size in zip(variances, sizes, strict=True)
    ]
    chosen = int(np.argmax(widths))
    blocks = min(1.5 * float(centred @ centred) / count / max(variances), _by_memory(centred), count)
    return MeanError(math.sqrt(variances[chosen]), float(sizes[chosen]), max(round(blocks), 1), tail_index(centred))


def block_interval(values: ArrayLike, *, level: float = 0.95) -> BlockInterval:
    """Interval of the mean of a series; see `mean_error`.

    Rows of a series that follow one another have similar values, and resampling them one by one gives intervals
    that are too narrow. Differences of two models on the same rows are one series: their interval is paired.

    Args:
        values: One number per row, in order of time, shape (n,).
        level: Probability that the interval covers the mean of the process.
    """
    if not 0 < level < 1:
        raise ValueError(f"Expected level between 0 and 1, such as 0.95; got {level!r}.")
    series = _series(values)
    return around(float(series.mean()), mean_error(series), count=len(series), level=level)


def around(mean: float, error: MeanError, *, count: int, level: float = 0.95, floor: float = 0.0) -> BlockInterval:
    """The interval of a mean with that error, wider by a floor at either end."""
    half = error.half_width(level)
    ends = (None, None) if half is None else (mean - half - floor, mean + half + floor)
    return BlockInterval(Interval(mean, *ends), error.blocks, count)


def tail_index(values: Float[np.ndarray, " n"]) -> float:
    """Shape k of a generalised Pareto distribution of the largest absolute values, by probability-weighted moments.

    The largest min(n / 5, 3 sqrt(n)) of them are the tail; -inf where these are fewer than ten.

    References:
        Hosking & Wallis (1987), Parameter and quantile estimation for the generalized Pareto distribution.
    """
    count = len(values)
    tail = int(min(count / 5, 3 * math.sqrt(count)))
    if tail < _TAIL_ROWS:
        return -math.inf
    largest = np.sort(np.abs(values))[count - tail - 1 :]
    excess = largest[1:] - largest[0]
    mean = float(excess.mean())
    upper = mean - float((np.arange(tail) / (tail - 1) * excess).mean())
    return -math.inf if mean == 2 * upper else 2 - mean / (mean - 2 * upper)


def _by_memory(centred: Float[np.ndarray, " n"]) -> float:
    """Independent blocks by the memory of a series, n (1 - r) / (1 + r) with the decay r of its autocorrelation.

    r is the correlation of neighbours, or if that is larger, and the sum of the first correlations not by chance, their
    decay (c_1 - c_{m+1}) / (c_1 + ... + c_m) = 1 - r: noise on top of a series makes the one small, not the other.
    """
    count = len(centred)
    most = max(1, min(10, count // 10))
    after = np.array([centred[k:] @ centred[: count - k] for k in range(1, most + 2)]) / float(centred @ centred)
    total, decay = float(after[:most].sum()), max(float(after[0]), 0.0)
    if total > 3 * math.sqrt(most / count):
        decay = max(decay, 1 - float(after[0] - after[most]) / total)
    decay = min(decay, 1.0)
    return count * (1 - decay) / (1 + decay)


def _series(values: ArrayLike) -> Float[np.ndarray, " n"]:
    series = np.asarray(values, dtype=float)
    if series.ndim != 1 or len(series) < 2:
        raise ValueError(f"Expected values of shape (n,), n at least 2, in order of time; got {series.shape}.")
    if not np.isfinite(series).all():
        raise ValueError(f"Expected finite values; got {int((~np.isfinite(series)).sum())} that are NaN or infinite.")
    return series
