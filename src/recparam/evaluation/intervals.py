"""Intervals of means over independent runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Num
from scipy.stats import t as student_t

from recparam.evaluation.arrays import as_array


class Interval(NamedTuple):
    """A mean with its confidence interval; ``low`` and ``high`` are None where a single value has none."""

    mean: float
    low: float | None
    high: float | None


def interval_text(mean: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A number with its interval, as tables print it; a dash where there is none."""
    if mean is None:
        return "-"
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def mean_interval(values: Sequence[float] | Num[np.ndarray, " n"], level: float = 0.95) -> Interval:
    """Mean over independent runs with Student's t interval.

        mean +- t_{n-1}((1 + level) / 2) s / sqrt(n)

    Args:
        values: one number per run, ``(n,)``.
        level: probability that the interval covers the true mean, for normal values.

    Returns:
        ``(mean, low, high)``, in the unit of the values; low and high are None for a single value.

    Raises:
        ValueError: no values, NaN or infinite values, a level outside (0, 1).
    """
    x = as_array("values", values)
    if x.ndim != 1:
        raise ValueError(f"Expected values of shape (n,), one per run; got {x.shape}.")
    if not 0 < level < 1:
        raise ValueError(f"Expected level between 0 and 1, such as 0.95; got {level!r}.")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, None, None)
    half = float(student_t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)
