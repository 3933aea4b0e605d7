"""The errors of evidence and of its differences: rows and bank are both samples, and either may be a series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from recparam.bounds import Bound
from recparam.bounds.influence import of_second_order
from recparam.evaluation.series import MeanError, mean_error

EFFECTIVE = 0.5
"""Least effective share of a bank's rows below which intervals did not keep their promise."""
HEAVY = 0.7
"""Index of a tail from which on the mean of a few hundred values says little of their expectation."""


def values_of(bound: Bound) -> Float[np.ndarray, " rows"]:
    """The value of each row, as float64."""
    return bound.per_observation.detach().cpu().double().numpy()


def error_of(values: Float[np.ndarray, " rows"], *signed: tuple[float, Bound]) -> MeanError:
    """The error of a mean over rows of differences of bounds, with that of the banks.

    A row that is in the bank has its own value and, as a negative, its influence on the others', so that the two are
    one series. Rows of the bank that are not scored are a series of their own; so is each bank where two differ.

    Args:
        values: The differences, row by row, in order of time.
        *signed: The bounds whose banks count, with their signs.
    """
    rows = values.copy()
    apart: list[np.ndarray] = []
    for sign, bound in signed:
        influence = bound.influence()
        if influence is None:
            continue
        columns = sign * of_second_order(influence[0].detach().cpu().double()).numpy()
        own = None if influence[1] is None else influence[1].cpu().numpy()
        if own is not None:
            rows += len(rows) * columns[own]
            columns[own] = 0.0
            columns = columns[np.isin(np.arange(len(columns)), own, invert=True)]
        if len(columns) > 1:
            apart.append(columns * len(columns))
    if len({len(columns) for columns in apart}) == 1:
        apart = [np.sum(apart, 0)]  # one bank, whose effect on either cancels in part
    return sum((mean_error(columns) for columns in apart), mean_error(rows))


def rounding(bounds: Sequence[Bound]) -> float:
    """How far evidence can be off by rounding alone: a few units in the last place of what it is the sum of."""
    sizes = [
        1.0 + float(bound.per_observation.abs().mean()) + sum(abs(float(term)) for term in bound.terms.values())
        for bound in bounds
    ]
    return 4 * max(torch.finfo(bound.per_observation.dtype).eps for bound in bounds) * max(sizes)
