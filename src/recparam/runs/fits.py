"""What `recparam fit` does: a fit that may be interrupted, scored on the held-out pairs, and written as a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recparam.data.pairs import Pairs, consecutive
from recparam.data.recording import Recording
from recparam.estimator import RPMEstimator
from recparam.estimator.inputs import split_off
from recparam.estimator.resuming import Checkpoint
from recparam.runs.config import Config
from recparam.runs.folder import save_run
from recparam.runs.scores import RunScore, score_pairs
from recparam.training import TrainingDiverged


class Fit:
    """A fit of a recording.

    Args:
        config: Data and settings.
        recording: The rows of its data: `config.reading.rows`.
        log: Is called with each line of progress.

    Attributes:
        estimator: The model.
        fitted: Its pairs that were fitted, and
        held_out: those that were held out, once `run`.
        scored: The bound on those.
    """

    fitted: Pairs
    held_out: Pairs

    scored: RunScore

    def __init__(self, config: Config, recording: Recording, *, log: Callable[[str], None]) -> None:
        self.config, self.recording, self.log = config, recording, log
        self.estimator = RPMEstimator(**vars(config.settings), progress=True)
        self.declared = config.reading.declared(recording, config.files)

    def run(self, checkpoint: Path, *, resume: bool) -> Fit:
        """Fit and score.

        Args:
            checkpoint: Folder of the fit's checkpoint.
            resume: Whether to resume from the checkpoint there. Otherwise it is replaced once data and settings have
                been found to be usable.

        Raises:
            ValueError: Data or settings that cannot be fitted.
            KeyboardInterrupt: Its text says how to resume.
        """
        for line in self.recording.notes:
            self.log(line)
        self.log(f"Data: {self.recording!r}")
        prime = None if self.declared is None else self.declared.recording_prime
        if prime is not None:
            self.log(f"Second modality: {prime!r}")
        try:
            kept = Checkpoint(checkpoint, replace=not resume)
            self.estimator.fit(self.recording, pairs=self.declared, resume=kept)
        except TrainingDiverged as error:
            remove_checkpoint(checkpoint)
            raise ValueError(
                f"Expected a bound that stays finite; got another at step {error.step}. Lower the learning rate (now "
                f"{error.lr:g}), or check the data for extreme rows."
            ) from error
        except KeyboardInterrupt:
            if checkpoint.is_dir() and any(checkpoint.iterdir()):
                raise KeyboardInterrupt(f"Run the same command with --resume to resume from {checkpoint}.") from None
            remove_checkpoint(checkpoint)
            raise
        pairs = self.estimator.pairs_of(self.recording, pairs=self.declared)
        self.fitted, self.held_out = (
            replace(part, recording=self.recording, recording_prime=prime)
            for part in split_off(pairs, self.estimator.validation_fraction)
        )
        self.log(
            f"Pairs: {len(self.fitted)} fitted, {len(self.held_out)} held out, at the end of each session or whole "
            f"sessions of many; {pairs.how}"
        )
        self.log(self.estimator.describe())
        self.scored = score_pairs(self.estimator, self.held_out)
        return self

    def save(self, out: Path, *, checkpoint: Path, overwrite: bool) -> None:
        """Write the run, and remove the checkpoint.

        Raises:
            OSError: It cannot be written; the checkpoint is kept.
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
                f"{error}. The fit is kept in {checkpoint}. Free some space, and run the same command with --resume."
            ) from error
        remove_checkpoint(checkpoint)

    def facts(self) -> dict[str, Any]:
        """What was fitted and how well, as plain values."""
        return {
            "rows": len(self.recording),
            "pairs_fitted": len(self.fitted),
            "window": self.estimator.window_,
            "lag": list(self.estimator.lag_),
            "steps": self.estimator.history_[-1]["step"],
            "restarts": self.estimator.restarts_,
            "bound": self.scored.facts(),
        }


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of an interrupted fit, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


def lag_in_rows(
    recording: Recording, *, lag: int | Sequence[int] | None, seconds: Sequence[float] | None, rate: float | None
) -> list[int]:
    """The rows from x to x' for times from x to x' in seconds.

    Args:
        recording: With times, where there is no rate.
        lag: Must be None, as it says the same in rows.
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
