"""Sessions and times of the rows of several parts, which are one recording together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from recparam.data.axes import DataWarning
from recparam.data.checks import in_seconds, masks, per_row, session_codes
from recparam.data.containers import Contents, as_clock, names_of_sessions


def sessions_of(
    found: Sequence[Contents], lengths: Sequence[int], sessions: Any
) -> tuple[Int[np.ndarray, " N"], tuple[str, ...] | None]:
    """The session of each row, and the names of the sessions: as declared of a single part, or as the parts say."""
    if sessions is not None:
        declared = session_codes(sessions, lengths[0])
        return declared, names_of_sessions(np.asarray(sessions), declared)
    own_codes = [one.sessions for one in found]
    codes = [np.zeros(n, dtype=np.int64) if own is None else own for own, n in zip(own_codes, lengths, strict=True)]
    starts = np.cumsum([0, *(int(own[-1]) + 1 for own in codes[:-1])])
    names = joined_names([(one.session_names, own) for one, own in zip(found, codes, strict=True)])
    return np.concatenate([own + start for own, start in zip(codes, starts, strict=True)]), names


def joined_names(parts: Sequence[tuple[tuple[str, ...] | None, np.ndarray]]) -> tuple[str, ...] | None:
    """The names of the sessions of parts, of which those without names keep their number; None: none has names."""
    if all(names is None for names, _ in parts):
        return None
    joined: list[str] = []
    for names, sessions in parts:
        joined += names or (str(len(joined) + number) for number in range(int(sessions[-1]) + 1))
    return tuple(joined)


def known_of(
    found: Sequence[Contents], blocks: Sequence[np.ndarray], mask: Any
) -> tuple[Bool[np.ndarray, " N"] | None, Bool[np.ndarray, "N ..."] | None]:
    """Which rows, and which single values, were observed, as declared or as the parts say; None: all."""
    observed, known = masks(mask, [one.values for one in found], blocks)
    if mask is None and any(one.observed is not None for one in found):
        own = [one.observed for one in found]
        every = [np.ones(len(b), bool) if rows is None else rows for rows, b in zip(own, blocks, strict=True)]
        observed = np.concatenate(every) & (True if observed is None else observed)
    return observed, known


def times_of(
    found: Sequence[Contents], lengths: Sequence[int], codes: Int[np.ndarray, " N"], times: Any
) -> tuple[Float[np.ndarray, " N"] | None, np.datetime64 | None]:
    """When each row was observed, as declared or as the data say, and the date that is counted from."""
    said = times is None
    if said:
        if (clock := _all_or_none([one.times for one in found])) is None:
            return None, None
    else:
        clock = [as_clock(own) for own in times] if _per_session(times) else as_clock(times)
        if found[0].trials > 1 and len(found) == 1:  # a clock for all trials, or one for each
            clock = np.concatenate(clock) if isinstance(clock, list) else np.ravel(clock)
            clock = np.tile(clock, found[0].trials if len(clock) * found[0].trials == sum(lengths) else 1)
        clock = per_row("times", clock, lengths)
    try:
        return in_seconds(clock, codes), clock[0] if clock.dtype.kind == "M" else None
    except ValueError as error:
        if not said:
            raise
        raise ValueError(
            f"{error} They are those of the index or the coordinates of data, which reset_index(drop=True) or "
            "drop_vars(...) takes off."
        ) from error


def joined_times(
    parts: Sequence[tuple[np.ndarray | None, np.datetime64 | None]],
) -> tuple[Float[np.ndarray, " N"] | None, np.datetime64 | None]:
    """The times of parts on one clock, and the date that they are counted from, where all have one."""
    origins = [origin for _, origin in parts]
    dated = [origin for origin in origins if origin is not None]
    if len(dated) < len(origins):
        return _all_or_none([times for times, _ in parts]), None
    shift = [float((origin - dated[0]) / np.timedelta64(1, "s")) for origin in dated]
    moved = [None if times is None else times + by for (times, _), by in zip(parts, shift, strict=True)]
    return _all_or_none(moved), dated[0]


def _all_or_none(times: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Times of all parts, one after the other; None where some have none, with a warning where others have them."""
    known = [own for own in times if own is not None]
    if len({own.dtype.kind == "M" for own in known}) > 1:
        raise ValueError("Expected times in seconds, or as dates, of all sessions; got both. Convert some.")
    if len(known) == len(times):
        return np.concatenate(known)
    if known:
        warnings.warn(
            f"Times are known of {len(known)} of {len(times)} sessions or files, and are left out: gaps in time are "
            "not seen. Give times for all of them.",
            DataWarning,
            stacklevel=5,
        )
    return None


def _per_session(times: Any) -> bool:
    return isinstance(times, list | tuple) and bool(times) and all(getattr(own, "ndim", 0) == 1 for own in times)
