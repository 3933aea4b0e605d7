"""Scores of runs on data that they were not trained on, one by one or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from recparam.bootstrap import FEWEST, BlockInterval, block_interval
from recparam.bounds import Bound
from recparam.data.pairs import Pairs, consecutive
from recparam.data.recording import Recording
from recparam.estimator import RPMEstimator
from recparam.runs.folder import Run


@dataclass(frozen=True)
class Scored:
    """A bound on pairs of rows, and how far it may be from the mean of the process.

    Args:
        bound: On the average over the pairs.
        interval: Block bootstrap over the pairs in order of time; None for fewer than eight.
        pairs: Number of pairs.
    """

    bound: Bound
    interval: BlockInterval | None
    pairs: int

    def facts(self) -> dict[str, Any]:
        """As plain values: of, kind, value_nats, low_nats, high_nats, level, ceiling_nats, pairs, block."""
        return {
            "of": self.bound.of,
            "kind": self.bound.kind,
            "value_nats": float(self.bound),
            "low_nats": self.interval and self.interval.interval.low,
            "high_nats": self.interval and self.interval.interval.high,
            "level": 0.95,
            "ceiling_nats": self.bound.ceiling,
            "pairs": self.pairs,
            "block": self.interval and self.interval.block,
        }


def pairs_to_score(runs: Sequence[Run], recording: Recording) -> tuple[Pairs, bool]:
    """The pairs on which runs can be scored: those of the lag they were fitted with, and of rows not trained on.

    Args:
        runs: At least one.
        recording: The data to score on.

    Returns:
        The pairs, and whether rows were left out because a run was trained on them.

    Raises:
        ValueError: The runs have different lags, or no pair is left.
    """
    lags = {tuple(np.atleast_1d(run.estimator.lag).tolist()): run.folder for run in runs}
    if len(lags) > 1:
        listed = ", ".join(f"{' '.join(map(str, lag))} in {folder}" for lag, folder in lags.items())
        raise ValueError(f"Expected runs of one lag, so that they score the same pairs; got {listed}. Fit them alike.")
    fresh = np.ones(len(recording), dtype=bool)
    for run in runs:
        trained = run.trained_rows(recording)
        if trained is not None:
            fresh &= ~trained
    pairs = consecutive(recording, lag=next(iter(lags)))
    kept = pairs.where(fresh[pairs.first] & fresh[pairs.second])
    if len(kept) < 2:
        raise ValueError(
            f"Expected at least 2 pairs of rows that no run was trained on; got {len(kept)}. Give other data."
        )
    return kept, not fresh.all()


def score_pairs(estimator: RPMEstimator, pairs: Pairs) -> Scored:
    """The ELBO on pairs, taken in order of time, with its interval."""
    order = np.argsort(pairs.first, kind="stable")
    bound = estimator.elbo(pairs.recording, pairs=pairs.where(order))
    return Scored(bound, _interval(_values(bound)), len(pairs))


@dataclass(frozen=True)
class Compared:
    """One of several runs on the same pairs.

    Args:
        run: The run.
        scored: Its bound.
        difference: Its bound less that of the first run, with a paired interval; None for the first.
    """

    run: Run
    scored: Scored
    difference: BlockInterval | None

    def facts(self) -> dict[str, Any]:
        """As plain values: run, those of the score, difference_nats, difference_low_nats, difference_high_nats."""
        mean, low, high = self.difference.interval if self.difference else (None, None, None)
        return {
            "run": self.run.folder,
            **self.scored.facts(),
            "difference_nats": mean,
            "difference_low_nats": low,
            "difference_high_nats": high,
        }


def compare_runs(runs: Sequence[Run], pairs: Pairs) -> list[Compared]:
    """Score runs on the same pairs."""
    scored = [score_pairs(run.estimator, pairs) for run in runs]
    first = _values(scored[0].bound)
    differences = [None, *(_interval(_values(other.bound) - first) for other in scored[1:])]
    return [Compared(*row) for row in zip(runs, scored, differences, strict=True)]


def _values(bound: Bound) -> Float[np.ndarray, " P"]:
    return bound.per_observation.detach().cpu().double().numpy()


def _interval(values: Float[np.ndarray, " P"]) -> BlockInterval | None:
    return block_interval(values) if len(values) >= FEWEST and np.isfinite(values).all() else None
