"""Sessions with channels of their own: other neurons, other cameras; a row then says which session it is of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from recparam.data.recording import Recording

_ROUNDED = 1e-4  # of what a column varies by


def own_channels(sessions: Sequence[Any], *, times: Any = None, mask: Any = None) -> Recording:
    """One recording of sessions whose rows differ in shape or in meaning, so that each has an encoder of its own.

        row = (s, x_1 ... x_D, 0 ... 0)

    A row is the number of its session, its values, flat, and zeros up to the widest session: float32, or float64 where
    single precision would round away what values far from zero vary by; in memory.

    Args:
        sessions: At least two arrays, frames or recordings of one session each, (N_s, ...).
        times: As for `Recording.of`: a list with one array per session.
        mask: Likewise.

    Returns:
        The recording; its `row_shapes` are the sessions' own.

    Raises:
        ValueError: What `Recording.of` raises of a session, or fewer than two sessions.

    Example:
        >>> import numpy as np
        >>> from recparam.data.channels import own_channels
        >>> recording = own_channels([np.ones((2, 2)), np.full((1, 3), 5.0)])
        >>> recording[:].tolist()
        [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 5.0, 5.0, 5.0]]
        >>> recording.row_shapes
        ((2,), (3,))
    """
    if not isinstance(sessions, list | tuple) or len(sessions) < 2:
        raise ValueError(f"Expected a list of at least two sessions; got {type(sessions).__name__}.")
    options = {"times": times, "mask": mask}
    for name, values in options.items():
        if values is not None and len(values) != len(sessions):
            raise ValueError(f"Expected {name} as a list of {len(sessions)}, one per session; got {len(values)}.")
    parts: list[Recording] = []
    for number, data in enumerate(sessions):
        own = {name: values[number] for name, values in options.items() if values is not None}
        try:
            parts.append(Recording.of(data, **own))
        except ValueError as error:
            raise ValueError(f"Session {number}: {error}") from error
        if parts[-1].sessions[-1]:
            raise ValueError(f"Expected recordings of one session each; got several in session {number}. Split it.")
    shapes = tuple(part.shape[1:] for part in parts)
    return Recording._joined([of_session(part, number, row_shapes=shapes) for number, part in enumerate(parts)])


def of_session(recording: Recording, session: int, *, row_shapes: Sequence[tuple[int, ...]]) -> Recording:
    """Rows of one session, as rows of a recording whose sessions have channels of their own."""
    width = 1 + max(map(math.prod, row_shapes))
    double = recording.double or recording.loses_digits(np.flatnonzero(recording.usable), least=_ROUNDED)
    known = None
    if recording.known is not None:
        known = np.ones((len(recording), width), dtype=bool)
        known[:, 1 : 1 + math.prod(recording.shape[1:])] = recording.known.reshape(len(recording), -1)
    return Recording(
        [in_session(recording[:], session, width=width, double=double)],
        sessions=np.zeros(len(recording), dtype=np.int64),
        times=recording.times,
        observed=recording.observed,
        known=known,
        row_shapes=tuple(row_shapes),
    )


def in_session(
    values: Shaped[np.ndarray, "N ..."], session: int, *, width: int, double: bool = False
) -> Float[np.ndarray, "N width"]:
    """Rows with the number of their session before them and zeros behind."""
    rows = np.zeros((len(values), width), dtype=np.float64 if double else np.float32)
    rows[:, 0] = session
    rows[:, 1 : 1 + math.prod(values.shape[1:])] = values.reshape(len(values), -1)
    return rows
