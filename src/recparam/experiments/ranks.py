"""Whether one number puts the arms of a grid in the same order as another does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from scipy.stats import spearmanr


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
        sides = [[float(run[name]) for run in both] for name in (first, second)]
        if len(both) > 2 and all(len(set(side)) > 1 for side in sides):
            found: Any = spearmanr(sides[0], sides[1])
            values.append(float(found[0]))
    return {"mean": fmean(values), "lowest": min(values), "highest": max(values)} if values else None
