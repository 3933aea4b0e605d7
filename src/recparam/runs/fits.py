"""What `recparam fit` does: a fit that may be interrupted, scored on what it held out, and written as a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.contexts import with_contexts
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.estimator import RPMEstimator
from recparam.estimator.names import lags, make_prior
from recparam.estimator.resuming import Checkpoint
from recparam.estimator.starts import split_off
from recparam.runs.config import Config
from recparam.runs.folder import save_run
from recparam.runs.scores import Scored, score_pairs
from recparam.training import TrainingDiverged


class Fit:
    """A fit of a recording.

    Args:
        config: Data and settings; `random_state` is 0 if it is not among them.
        recording: Its data, read: `config.reading.rows`.
        say: Takes what is told on the way, a line each.

    Attributes:
        estimator: The model.
        scored: Its bound on the held-out pairs, once `run`.
    """

    scored: Scored

    def __init__(self, config: Config, recording: Recording, *, say: Callable[[str], None]) -> None:
        self.config, self.recording, self.say = config, recording, say
        self.estimator = RPMEstimator(**config.settings, progress=True)
        order = make_prior(self.estimator.prior, self.estimator.latent_dim).order
        lag = lags(self.estimator.lag, recording.shape[1:], order)
        if self.estimator.lag is None:  # said, so that runs can be compared that were given it and that were not
            self.estimator.set_params(lag=lag)
        self.pairs = with_contexts(config.reading.pairs(recording, config.data, config.beside, lag=lag), order)
        self.fitted, self.held_out = split_off(self.pairs, self.estimator.validation_fraction)

    def run(self, partial: Path, *, resume: bool) -> Fit:
        """Fit and score.

        Args:
            partial: Where the state of the fit is kept.
            resume: Whether to go on from a state there, rather than to replace it once data and settings can be fitted.

        Raises:
            ValueError: Data or settings that cannot be fitted.
            KeyboardInterrupt: Its text says how to go on.
        """
        for line in self.recording.notes:
            self.say(line)
        self.say(f"Data: {self.recording!r}")
        if self.pairs.recording_prime is not None:
            self.say(f"Second modality: {self.pairs.recording_prime!r}")
        self.say(
            f"Pairs: {len(self.fitted)} to fit, {len(self.held_out)} held out at the end of each session; "
            f"{self.pairs.how}"
        )
        try:
            self.estimator.fit(self.recording, pairs=self.pairs, resume=Checkpoint(partial, anew=not resume))
        except TrainingDiverged as error:
            removed(partial)
            raise ValueError(
                f"Expected a bound that stays finite; got another at step {error.step}. Lower the learning rate (now "
                f"{self.estimator.learning_rate:g}), or look for extreme rows."
            ) from error
        except KeyboardInterrupt:
            if partial.is_dir() and any(partial.iterdir()):
                raise KeyboardInterrupt(f"Give the same command with --resume to go on from {partial}.") from None
            removed(partial)
            raise
        self.say(self.estimator.describe())
        self.scored = score_pairs(self.estimator, self.held_out)
        return self

    def save(self, out: Path, *, partial: Path, overwrite: bool) -> None:
        """Write the run, and remove the state of the fit.

        Raises:
            OSError: It cannot be written; the fit is kept.
        """
        try:
            save_run(
                out,
                self.estimator,
                held_out=self.held_out,
                bound=self.scored.facts(),
                config=self.config,
                overwrite=overwrite,
            )
        except OSError as error:
            raise OSError(
                f"{error}. The fit is kept in {partial}: make room, and give the same command with --resume."
            ) from error
        removed(partial)

    def facts(self) -> dict[str, Any]:
        """What was fitted and how well, as plain values."""
        return {
            "rows": len(self.recording),
            "pairs_fitted": len(self.fitted),
            "lag": self.estimator.lag,
            "steps": self.estimator.history_[-1]["step"],
            "restarts": self.estimator.restarts_,
            "bound": self.scored.facts(),
        }


def removed(partial: Path) -> None:
    """Remove the state of an interrupted fit, if there is one."""
    shutil.rmtree(partial, ignore_errors=True)


def lag_in_rows(
    recording: Recording, *, lag: Sequence[int] | None, seconds: Sequence[float] | None, rate: float | None
) -> list[int]:
    """The rows that lie between x and x' so many seconds apart.

    Args:
        recording: With times, where there is no rate.
        lag: None: it would say the same.
        seconds: One or several.
        rate: Rows per second.

    Raises:
        ValueError: A lag too, no seconds, neither times nor a rate, or times that are not evenly spaced.
    """
    if seconds is None or lag is not None:
        raise ValueError(
            f"Expected --seconds, with --rate where the file has no times, or --lag; got "
            f"{'--rate alone' if seconds is None else 'both'}."
        )
    found: list[int] = []
    for span in seconds:
        rows = np.unique(consecutive(recording, seconds=span, rate=rate).lag)
        if len(rows) > 1:
            raise ValueError(
                f"Expected evenly spaced times; got {rows[0]} to {rows[-1]} rows in {span:g} s. Give --lag, or --rate."
            )
        found.append(int(rows[0]))
    if len(set(found)) < len(found):
        raise ValueError(f"Expected --seconds that are different numbers of rows; got {found} rows. Leave some out.")
    return found
