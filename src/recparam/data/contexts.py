"""Pairs with the rows before x, for priors that read several earlier latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from recparam.data.pairs import Pairs
from recparam.data.recording import Recording
from recparam.data.segments import segments
from recparam.utils.checks import check_count

_WITH = ", with "
_LEAST = 0.05  # of the pairs have to follow others: of those that were not made by a lag few do, by accident


def with_contexts(pairs: Pairs, order: int) -> Pairs:
    """The pairs before which there are pairs enough: x is the x' of one of the same lag, whose x is that of another.

    So no context crosses the end of a session or a gap, as no pair does.

    Args:
        pairs: Of one recording, a number of rows apart: what `lag=` and `consecutive` make.
        order: Rows that a prior reads: x and those before it.

    Returns:
        Those pairs, of that order.

    Raises:
        ValueError: Pairs of two recordings, of two views, or of sessions with channels of their own; pairs that cross
            sessions, or of which nearly none follows another of its lag; or fewer than two left.

    Example:
        >>> import numpy as np
        >>> from recparam.data.contexts import with_contexts
        >>> from recparam.data.pairs import consecutive
        >>> from recparam.data.recording import Recording
        >>> steps = with_contexts(consecutive(Recording.of([np.zeros((4, 2)), np.zeros((2, 2))])), 2)
        >>> steps.rows().tolist(), steps.second.tolist()
        ([[0, 1], [1, 2]], [2, 3])
    """
    check_count("order", order)
    if pairs.order >= order:
        return replace(pairs, order=order)
    if type(pairs) is not Pairs or pairs.recording_prime is not None:
        raise ValueError(
            f"Expected pairs of rows of one recording for a prior of {order} earlier latents; got pairs of "
            f"{'two recordings' if pairs.recording_prime is not None else 'views'}. Use lag=, or a prior of one."
        )
    if pairs.recording.row_shapes is not None:
        raise ValueError(
            f"Expected sessions that share their columns for a prior of {order} earlier latents; got channels of their "
            "own. Use a prior of one."
        )
    keep = _led_to(pairs, order - 1)
    sessions, kept = pairs.recording.sessions, int(keep.sum())
    crossing = bool((sessions[pairs.first] != sessions[pairs.second]).any())
    if crossing or kept < 2 or kept < _LEAST * len(pairs):
        raise ValueError(
            f"Expected at least 2 pairs (x, x') with {order - 1} rows before x, each a lag apart in one session; got "
            f"{kept} of {len(pairs)} pairs{', some of which cross sessions' if crossing else ''}. Use lag= or "
            "consecutive(...), longer sessions, a smaller lag, or a prior of fewer earlier latents."
        )
    few = f" ({kept} of {len(pairs)})" if kept < len(pairs) / 2 else ""
    how = f"{pairs.how.partition(_WITH)[0]}{_WITH}{order - 1} before x{few}"
    return replace(pairs.where(keep), how=how, order=order)


def contexts_of(recording: Recording, *, lag: int, order: int) -> Int[np.ndarray, "rows order"]:
    """The rows before and at each row of a recording that has as many, observed and a lag apart, oldest first."""
    segment, _ = segments(recording, None)
    rows = np.arange(lag * (order - 1), len(recording))[:, None] - lag * np.arange(order - 1, -1, -1)
    return rows[(segment[rows[:, 0]] == segment[rows[:, -1]]) & recording.usable[rows].all(1)]


def lags_of(pairs: Pairs) -> tuple[int, ...]:
    """The lags of pairs whose x has rows before it; none of others."""
    return tuple(np.unique(pairs.lag).tolist()) if pairs.order > 1 else ()


def _led_to(pairs: Pairs, steps: int) -> Bool[np.ndarray, " P"]:
    """Which pairs follow others of their lag, so many in a row."""
    lag = pairs.lag
    span = int(lag.max(initial=0) - lag.min(initial=0)) + 1
    numbers = pairs.first * span + lag
    keep = np.ones(len(pairs), dtype=bool)
    for step in range(1, steps + 1):
        keep &= np.isin((pairs.first - step * lag) * span + lag, numbers)
    return keep
