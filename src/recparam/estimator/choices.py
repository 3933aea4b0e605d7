"""What a fit may choose by evidence where a setting is None: the encoder, the rows that it reads, and the lag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recparam.data.recording import Recording
from recparam.data.windows import Windowed
from recparam.estimator.spheres import spheres_of
from recparam.priors import Prior

WINDOWS = (1, 3, 5, 11, 21)
NEAR, FAR = (1, 2, 3), (5, 10, 20)  # lags; the second of single rows alone
_CHOSEN = ("auto", "mlp", "smoothed")  # encoders that take any window
_ROWS, _WINDOWS, _FRAMES = (0.3, 0.0), (0.3, 0.0, 0.3), (0.3,)  # dropouts of starts; neighbouring frames share noise


@dataclass(frozen=True)
class Choice:
    """What is chosen by evidence.

    Args:
        encoder: Of x: a short name, or a module.
        window: Rows of the window around a row that the encoder reads; 1: the row alone.
        lag: Rows from x to x'; several are pooled.
        parted: Whether x is read from the past half of its window, and x' from the future half of its own.
    """

    encoder: Any
    window: int
    lag: tuple[int, ...]
    parted: bool = False

    @property
    def text(self) -> str:
        """In a few words."""
        encoder = self.encoder if isinstance(self.encoder, str) else type(self.encoder).__name__
        rows = f"windows of {self.window} rows" if self.window > 1 else "single rows"
        return f"{encoder}, {rows}, lag {', '.join(map(str, self.lag))}"


def choices(settings: Any, recording: Recording, *, prior: Prior, declared: bool) -> list[Choice]:
    """The choices that a fit compares; the first is taken where it compares none, as with `restarts=1`.

    The rows that x and x' are read from are never shared, and so no noise is: either a window is halved, or it is no
    longer than the lag.

    Args:
        settings: Of the estimator.
        recording: The rows of x.
        prior: Of the latents.
        declared: Whether pairs were declared otherwise than by a lag.
    """
    shape, order = recording.shape[1:], prior.order
    compares = settings.restarts > 1 and not declared and order == 1
    places = settings.latent_dim % 2 == 0 and not prior.needs_density and not spheres_of(prior)  # x and y in pixels
    rows = isinstance(recording, Windowed) or recording.row_shapes is not None  # that cannot be widened
    named = settings.encoder if isinstance(settings.encoder, str) else None
    given = None if settings.lag is None else tuple(np.atleast_1d(settings.lag).tolist())
    encoders = [settings.encoder]
    if named == "auto" and compares and len(shape) > 1 and not rows and places:
        starts = settings.restarts - 1  # of which some lose what they follow
        encoders = ["conv", *["centre-of-mass"] * starts, "foreground"]
    windows: Sequence[int] = (1,)
    if settings.window is not None:
        windows = (settings.window,)
    elif compares and len(shape) == 1 and not rows and named in _CHOSEN and recording.known is None:
        rows_of_session = np.bincount(recording.sessions)[recording.sessions]
        windows = [window for window in WINDOWS if window <= np.median(rows_of_session)]
    found: list[Choice] = []
    for window in windows:
        lags: Sequence[tuple[int, ...]] = [given] if given else [(window,)]
        parted = window > 1 and named in _CHOSEN and not rows and not declared and order == 1
        if given is None and (window == 1 or parted):
            lags = [NEAR, FAR] if len(shape) == 1 and window == 1 else [NEAR]
            if order > 1 or declared or recording.overlap:
                lags = [(recording.overlap + 1,)]
        found += [Choice(encoder, window, lag, parted) for encoder in encoders for lag in lags]
    return found if compares else found[:1]


def dropouts(dropout: Any, encoder: Any, shape: tuple[int, ...], *, compared: bool) -> tuple[float, ...]:
    """The dropouts that starts take in turn; None: the defaults.

    Args:
        dropout: The setting.
        encoder: The setting of the encoder.
        shape: Of rows as encoders read them.
        compared: Whether choices are compared, for which columns are hidden.
    """
    if dropout is None:
        if len(shape) == 1:
            return _ROWS if compared else _ROWS[::-1]
        return _WINDOWS if encoder in ("smoothed", "temporal") else _FRAMES
    return tuple(float(share) for share in np.atleast_1d(dropout))

