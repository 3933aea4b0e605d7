"""A recorded series and what is known of it, in blocks of time: to train on, to choose by, and held out."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from recparam.data.readers import read
from recparam.experiments.rat.settings import WINDOW, Settings

HELD_OUT = 0.25
VALIDATION = 0.2  # of what is not held out, as the estimator's
FEWEST = 200


@dataclass(frozen=True)
class Series:
    """Rows in order of time; the position is for scoring alone.

    Args:
        rows: Square roots of counts, (N, units), whose noise is about as large whatever the rate.
        position: (N, P).
    """

    rows: Float[np.ndarray, "N units"]
    position: Float[np.ndarray, "N P"]

    @property
    def fitted(self) -> int:
        """Rows before the held-out block."""
        return round(len(self.rows) * (1 - HELD_OUT))

    @property
    def trained(self) -> int:
        """Rows before the validation block, which ends where the held-out one begins."""
        return round(self.fitted * (1 - VALIDATION))

    @property
    def checksum(self) -> str:
        """Of all that is in it."""
        parts = [np.ascontiguousarray(part).tobytes() for part in (self.rows, self.position)]
        return sha256(b"".join([repr(self.rows.shape).encode(), *parts])).hexdigest()[:16]


def windows(start: int, stop: int, lag: int) -> Int[np.ndarray, "B J"]:
    """All windows of rows so far apart that lie in a block."""
    return np.arange(start, stop - (WINDOW - 1) * lag)[:, None] + lag * np.arange(WINDOW)


def training_windows(series: Series, lag: int) -> Int[np.ndarray, "B J"]:
    """Those before the validation block, less a gap of a window's reach."""
    return windows(0, series.trained - (WINDOW - 1) * lag, lag)


def read_series(path: Path, settings: Settings, *, counts: str, position: str) -> Series:
    """Read a recording and its positions.

    Args:
        path: A file that `recparam.data.readers.read` reads, of several arrays.
        settings: Whose windows it must be long enough for.
        counts: Name of the array of counts, (N, units), not negative.
        position: Name of that of positions, (N, P).

    Raises:
        ValueError: A file that cannot be read, has no such arrays, or ones that do not go together.
    """
    found, where = read(path, key=counts), read(path, key=position)
    if len(found.shape) != 2 or len(where.shape) > 2 or len(found) != len(where):
        raise ValueError(
            f"Expected {counts} of shape (N, units) and {position} of shape (N, P) in {path}; got {found.shape} and "
            f"{where.shape}. Give their names with --counts and --position."
        )
    values = np.asarray(found[:], dtype=np.float64)
    if (values < 0).any():
        raise ValueError(f"Expected {counts} that are not negative in {path}, as counts are; got {values.min():g}.")
    if settings.latent_dim > values.shape[1]:
        raise ValueError(
            f"latent_dim must be at most {values.shape[1]}, the units in {path}; got {settings.latent_dim}."
        )
    needed = max(FEWEST, 40 * settings.lag)
    if len(values) < needed:
        raise ValueError(f"Expected at least {needed} rows in {path}, at a lag of {settings.lag}; got {len(values)}.")
    return Series(np.sqrt(values).astype(np.float32), np.asarray(where[:], dtype=np.float64).reshape(len(values), -1))
