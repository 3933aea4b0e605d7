"""Whether one number puts the arms of a grid in the same order as another does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation of two lists of numbers; None where one of them does not vary."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    found: Any = spearmanr(first, second)
    return float(found[0])


def rank_correlation(
    runs: Sequence[Mapping[str, Any]], first: str, second: str
) -> dict[str, float] | None:
    """Spearman's rank correlation of two numbers over the arms that have both, seed by seed.

    Args:
        runs: Of a grid: arm, seed and numbers.
        first: Name of the one number.
        second: Name of the other.

    Returns:
        Mean over the seeds, and the lowest and highest of them; None where no seed has three arms that differ.
    """
    values: list[float] = []
    for seed in sorted({run["seed"] for run in runs}):
        both = [run for run in runs if run["seed"] == seed and first in run and second in run]
        found = spearman(*([float(run[name]) for run in both] for name in (first, second)))
        if len(both) > 2 and found is not None:
            values.append(found)
    return {"mean": fmean(values), "lowest": min(values), "highest": max(values)} if values else None
