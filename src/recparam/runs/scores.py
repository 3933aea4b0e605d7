"""Scores of runs on data that they were not trained on, and the pairs that several of them can be scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recparam.bounds import Bound
from recparam.comparison import interval_of
from recparam.data.contexts import with_contexts
from recparam.data.pairs import Pairs
from recparam.data.recording import Recording
from recparam.estimator import RPMEstimator
from recparam.evaluation.series import BlockInterval
from recparam.runs.folder import Run
from recparam.runs.reading import DataFiles, Reading


@dataclass(frozen=True)
class RunScore:
    """A bound on pairs of rows, and how far it may be from the mean of the process.

    Args:
        bound: On the average over the pairs.
        interval: Over draws of the pairs, in order of time, and of the bank; without ends for too few blocks.
        pairs: Number of pairs.
    """

    bound: Bound
    interval: BlockInterval
    pairs: int

    def facts(self) -> dict[str, Any]:
        """As plain values: of, kind, value_nats, low_nats, high_nats, level, ceiling_nats, pairs, blocks."""
        return {
            "of": self.bound.of,
            "kind": self.bound.kind,
            "value_nats": float(self.bound),
            "low_nats": self.interval.interval.low,
            "high_nats": self.interval.interval.high,
            "level": 0.95,
            "ceiling_nats": self.bound.ceiling,
            "pairs": self.pairs,
            "blocks": self.interval.blocks,
        }


def pairs_to_score(runs: Sequence[Run], files: DataFiles, *, options: Reading) -> tuple[list[Pairs], bool]:
    """The pairs on which runs can be scored: made as those of their fits, of rows that no run was trained on.

    Args:
        runs: At least one.
        files: The data to score on; each run reads them as it read those of its fit.
        options: What is to be read otherwise.

    Returns:
        The pairs of each run, and whether rows were left out because a run was trained on them.

    Raises:
        ValueError: The runs pair other rows, or no pair is left.
    """
    readings = [run.reading(options) for run in runs]
    read: dict[Reading, Recording] = {reading: reading.rows(files) for reading in dict.fromkeys(readings)}
    found = [run.pairs(read[reading], files, options=options) for run, reading in zip(runs, readings, strict=True)]
    for run, pairs in zip(runs, found, strict=True):
        if not (np.array_equal(pairs.first, found[0].first) and np.array_equal(pairs.second, found[0].second)):
            raise ValueError(
                f"Expected runs of one lag, or that pair rows alike, so that they score the same pairs; got "
                f"{found[0].how} in {runs[0].folder} and {pairs.how} in {run.folder}. Fit them with one --lag."
            )
    unseen = np.ones(len(found[0].recording), dtype=bool)
    for run, pairs in zip(runs, found, strict=True):
        trained = run.trained_rows(pairs.recording)
        if trained is not None:
            unseen &= ~trained
    kept = [pairs.where(unseen[pairs.first] & unseen[pairs.second]) for pairs in found]
    if len(kept[0]) < 2:
        raise ValueError(
            f"Expected at least 2 pairs of rows that no run was trained on; got {len(kept[0])}. Score other data."
        )
    order = max(run.estimator.order_ for run in runs)  # all score the pairs that each of them can
    return [with_contexts(pairs, order) for pairs in kept], not unseen.all()


def score_pairs(estimator: RPMEstimator, pairs: Pairs) -> RunScore:
    """The ELBO on pairs, taken in order of time, with its interval."""
    order = np.argsort(pairs.first, kind="stable")
    bound = estimator.elbo(pairs.recording, pairs=pairs.where(order))
    return RunScore(bound, interval_of(bound), len(pairs))
