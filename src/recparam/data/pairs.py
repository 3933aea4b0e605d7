"""Pairs: which rows of a recording are x and x', declared, and never across the end of a session or a gap in time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from recparam.data.batches import Batches
from recparam.data.labels import Labels
from recparam.data.recording import Recording
from recparam.data.segments import after, segments, shifted, taken_by_gaps
from recparam.utils.checks import check_count, check_positive, check_unmasked, is_finite_number

_MANY = 2  # sessions that are held out whole, where there are as many
_CHUNK_NUMBERS = 1 << 23  # numbers of the data that an encoder sees at once
_ROUNDED = 1e-2  # of what an entry varies by: a rounding that is said

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""Makes a random view of each of some rows (B, ...), with draws from the generator."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows of a recording: row `first[p]` is x and row `second[p]` is x' of pair p.

    Attributes:
        recording: The rows.
        first: Row of x, (P,).
        second: Row of x', (P,).
        recording_prime: Where x' is read, with as many rows and the same sessions; None: `recording`, too.
        gap: Rows left unused before a held-out block, unless `split` says otherwise; None: the largest lag. Of windows
            at least the other rows that a window holds.
        how: What makes two rows a pair, for people.
        order: Rows that a prior reads before x', x and those before it, one lag apart; more than one of pairs that
            `recparam.data.contexts.with_contexts` made.
    """

    recording: Recording
    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]
    recording_prime: Recording | None = None
    gap: int | None = None
    how: str = "as declared"
    order: int = 1

    def __len__(self) -> int:
        return len(self.first)

    @property
    def lag(self) -> Int[np.ndarray, " P"]:
        """Rows from x to x', (P,)."""
        return self.second - self.first

    @property
    def reach(self) -> int:
        """Rows to leave unused before a held-out block."""
        gap = int(np.abs(self.lag).max(initial=0)) if self.gap is None else self.gap
        return max(gap, *(recording.overlap for recording, _ in self.sides))

    @property
    def sides(self) -> tuple[tuple[Recording, Int[np.ndarray, " P"]], tuple[Recording, Int[np.ndarray, " P"]]]:
        """Where x and x' are read: a recording and its rows, each."""
        return (self.recording, self.first), (self.recording_prime or self.recording, self.second)

    def rows(self, chosen: Int[np.ndarray, " chosen"] | slice = slice(None)) -> Int[np.ndarray, "_chosen order"]:
        """The rows that a prior reads before x' of some pairs, oldest first: x is the last of them."""
        first = self.first[chosen]
        return first[:, None] - (self.second[chosen] - first)[:, None] * np.arange(self.order - 1, -1, -1)

    @property
    def strata(self) -> Int[np.ndarray, " P"] | None:
        """Which pairs may be each other's negatives, (P,): those of the same two sessions; None: all of them.

        Where sessions have channels of their own, telling them apart is easy, and would drive their latents apart.
        """
        if self.recording.row_shapes is None:
            return None
        sessions = self.recording.sessions
        return sessions[self.first] * len(self.recording.row_shapes) + sessions[self.second]

    @property
    def labels(self) -> Labels:
        """Who the pairs are: the row, the session and the time of x' (seconds, or the row where times are unknown)."""
        recording, rows = self.recording, self.second
        times = rows.astype(np.float64) if recording.times is None else recording.times[rows]
        return Labels(
            identities=torch.from_numpy(rows),
            sessions=torch.from_numpy(recording.sessions[rows]),
            times=torch.from_numpy(times),
        )

    def tensors(
        self, rows: Int[np.ndarray, " rows"] | slice | None = None, *, draw: Sequence[int] = ()
    ) -> tuple[Tensor, ...]:
        """The observations x and x' of some pairs, oldest first, and before them those of the rows before x.

        Args:
            rows: Indices of pairs, or a slice; None: all of them, read into memory.
            draw: Whole numbers that decide, with the rows, views that are drawn (`views`); of no effect elsewhere.

        Returns:
            x and x', each of shape (pairs, ...): float32, or uint8 where the recording holds uint8, or float64 where it
            is `in_double`; `order` + 1 in all.
        """
        chosen = slice(None) if rows is None else rows
        (recording, _), (recording_prime, second) = self.sides
        before = (as_tensor(recording.as_x(part), double=recording.double) for part in self.rows(chosen).T)
        return *before, as_tensor(recording_prime.as_x_prime(second[chosen]), double=recording_prime.double)

    def batches(self, batch_size: int, *, seed: int) -> PairsLoader:
        """Batches of (x, x') in an order that depends on the seed and the epoch only, read when they are asked for.

        Args:
            batch_size: Pairs in a batch, at least 2.
            seed: A whole number, not negative.

        Raises:
            ValueError: Fewer than two pairs, a batch of one, a negative seed.
        """
        return PairsLoader(self, batch_size=batch_size, seed=seed)

    def where(self, keep: Bool[np.ndarray, " P"] | Int[np.ndarray, " kept"]) -> Pairs:
        """The pairs at which a mask is true, or those of some indices, in their order."""
        return replace(self, first=self.first[keep], second=self.second[keep])

    def split(self, fraction: float = 0.2, *, gap: int | None = None) -> tuple[Pairs, Pairs]:
        """Pairs to fit, and held-out pairs: of the end of each session, or of whole sessions where there are many.

        A random choice of pairs would hold out neighbours of what was fitted, and a series resembles its
        neighbours. No row is in both parts, and pairs with a row in each are left out. Of many sessions, such as
        trials, whole ones are held out, evenly spaced: their ends would be no sample of what happens in them, and
        pairs across each border would be lost.

        Args:
            fraction: Part of the rows of each session to hold out, between 0 and 1.
            gap: Rows left unused before each block; None: the pairs' own, which is the largest lag where x' is a
                number of rows from x.

        Returns:
            The pairs to fit, and the held-out ones.

        Raises:
            ValueError: One of the parts has fewer than two pairs.

        Example:
            >>> import numpy as np
            >>> from recparam.data.pairs import consecutive
            >>> from recparam.data.recording import Recording
            >>> fit, held_out = consecutive(Recording.of(np.zeros((10, 1)))).split(0.3)
            >>> fit.second.tolist(), held_out.first.tolist()
            ([1, 2, 3, 4, 5], [7, 8])
        """
        if not is_finite_number(fraction) or not 0 < fraction < 1:
            raise ValueError(f"Expected fraction between 0 and 1; got {fraction!r}. Use 0.2.")
        gap = self.reach if gap is None else gap
        check_count("gap", gap, least=0)
        sessions = self.recording.sessions
        lengths = np.bincount(sessions)
        ends = np.cumsum(lengths)
        cuts = ends - np.round(lengths * fraction).astype(np.int64)
        rows = np.arange(len(sessions))
        parts = self._parts(rows < (cuts - gap)[sessions], rows >= cuts[sessions])
        if len(lengths) >= _MANY / fraction:
            whole = _spaced(lengths, fraction)[sessions]
            parts = self._parts(~whole, whole)
        elif len(parts[1]) < 2 and len(lengths) > 1:
            kept = min(int(np.searchsorted(ends, (1 - fraction) * ends[-1])) + 1, len(lengths) - 1)
            parts = self._parts(sessions < kept, sessions >= kept)
        if min(map(len, parts)) < 2:
            raise ValueError(
                f"Expected at least 2 pairs to fit and 2 held out; got {len(parts[0])} and {len(parts[1])} from "
                f"{len(self)} pairs, with fraction={fraction:g} and gap={gap}. Give more rows, or another fraction."
            )
        return parts

    def _parts(self, fitted: np.ndarray, held_out: np.ndarray) -> tuple[Pairs, Pairs]:
        rows = self.rows()
        fit, held = (self.where(part[rows].all(1) & part[self.second]) for part in (fitted, held_out))
        return fit, held


@dataclass(frozen=True, eq=False)
class Views(Pairs):
    """Pairs of two views of a row; make them with `views`."""

    transform: Transform | None = None
    both: bool = True

    def tensors(
        self, rows: Int[np.ndarray, " rows"] | slice | None = None, *, draw: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """The views x and x' of some rows: the same ones for equal rows and `draw`; see `Pairs.tensors`."""
        chosen = self.first[slice(None) if rows is None else rows]
        x = as_tensor(self.recording[chosen], double=self.recording.double)
        seed = np.random.SeedSequence([*draw, *chosen[:1].tolist()]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        # A copy, since a transform may write into its input.
        return self._view(x.clone(), generator) if self.both else x, self._view(x.clone(), generator)

    def _view(self, x: Tensor, generator: torch.Generator) -> Tensor:
        assert self.transform is not None
        view = self.transform(x, generator)
        if not isinstance(view, Tensor) or not view.ndim or len(view) != len(x):
            got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
            raise ValueError(f"Expected transform to give a view of each of {len(x)} rows, as a tensor; got {got}.")
        return view


class PairsLoader(Batches):
    """Random batches (x, x') of declared pairs, whose rows are read from the recording batch by batch.

    Args:
        pairs: At least two.
        batch_size: Pairs in a batch, at least 2.
        seed: Decides the order, together with the epoch.

    Raises:
        ValueError: Fewer than two pairs, a batch of one, a negative seed.
    """

    def __init__(self, pairs: Pairs, *, batch_size: int, seed: int) -> None:
        super().__init__(len(pairs), batch_size=batch_size, seed=seed)
        self.pairs = pairs
        for recording, rows in pairs.sides:
            if not recording.double and recording.loses_digits(np.unique(rows), least=_ROUNDED):
                warnings.warn(
                    f"Data far from zero: single precision rounds them by more than {_ROUNDED:.0%} of what a column "
                    "varies by. Subtract the mean of each column first.",
                    UserWarning,
                    stacklevel=3,
                )

    def _gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        return self.pairs.tensors(rows.numpy(), draw=(self.seed, self.epoch))


def _spaced(lengths: Int[np.ndarray, " S"], fraction: float) -> Bool[np.ndarray, " S"]:
    """Which sessions to hold out, evenly spaced, so that at no time more than that part of the rows are."""
    chosen, held, seen = np.zeros(len(lengths), dtype=bool), 0, 0
    for session, length in enumerate(lengths):
        seen += length
        chosen[session] = held + length <= fraction * seen
        held += length * chosen[session]
    return chosen


def rows_at_once(shape: Sequence[int]) -> int:
    """How many rows of this shape an encoder takes at once, where it takes all rows of the data in turn."""
    return max(1, _CHUNK_NUMBERS // max(1, math.prod(shape)))


def as_tensor(values: np.ndarray, *, double: bool = False) -> Tensor:
    """Rows as networks take them: uint8 as it is (frames), everything else as float32, or as float64 if asked for.

    Raises:
        ValueError: A number too large for float32, or one that a masked array hides.
    """
    check_unmasked("data", values)
    if values.dtype == np.uint8:
        return torch.from_numpy(np.require(values, requirements="W"))
    if double:
        return torch.from_numpy(np.array(values, dtype=np.float64))
    try:
        with np.errstate(over="raise"):
            return torch.from_numpy(np.array(values, dtype=np.float32))
    except FloatingPointError as error:
        place = np.unravel_index(np.abs(values).argmax(), values.shape)
        where = f" in column {place[1]}" if values.ndim == 2 else ""
        raise ValueError(
            f"Expected data of at most {np.finfo(np.float32).max:.2g}, as networks take single precision; got "
            f"{values[place]:.3g}{where}. Rescale the data."
        ) from error


def consecutive(
    recording: Recording,
    *,
    lag: int | Sequence[int] = 1,
    seconds: float | int | Sequence[float | int] | None = None,
    rate: float | int | None = None,
    max_gap: float | int | None = None,
) -> Pairs:
    """Pairs of a row and a later one of the same session, never across a gap in time.

    Args:
        recording: The rows.
        lag: Rows from x to x', one or several, at least 1.
        seconds: Time from x to x' instead, one or several. With `rate` it is rounded to rows; otherwise x' is the
            row whose time is closest, at most half a median step away.
        rate: Rows per second; None: the recording's times say.
        max_gap: Seconds between neighbouring rows beyond which time has a gap; None: 1.5 times the median step of the
            session, or more where its times jitter (`recparam.data.segments`). Recordings without times have none.

    Returns:
        The pairs, ordered by x within each lag. `how` says how many gaps took, where they took more than 2 %.

    Raises:
        ValueError: No such pair, lags below 1, seconds without times and rate, or `max_gap` without times.

    Example:
        >>> import numpy as np
        >>> from recparam.data.pairs import consecutive
        >>> from recparam.data.recording import Recording
        >>> recording = Recording.of([np.zeros((3, 2)), np.zeros((2, 2))])
        >>> pairs = consecutive(recording)
        >>> list(zip(pairs.first.tolist(), pairs.second.tolist()))
        [(0, 1), (1, 2), (3, 4)]
    """
    times = recording.times
    if max_gap is not None:
        check_positive("max_gap", max_gap if max_gap != np.inf else 1, what="number of seconds")
        if times is None:
            raise ValueError("Expected a recording with times, which max_gap= refers to; got none. Give times=.")
    segment, step = segments(recording, max_gap)
    if seconds is None:
        lags = _several("lag", lag)
        for value in lags:
            check_count("lag", value)
        found = [shifted(segment, int(value)) for value in lags]
        possible = sum(len(shifted(recording.sessions, int(value))[0]) for value in lags)
        how = f"lag {', '.join(map(str, lags))}"
    else:
        spans = _several("seconds", seconds)
        for value in spans:
            check_positive("seconds", value, what="number of seconds")
        if rate is not None:
            check_positive("rate", rate, what="number of rows per second")
            found = [shifted(segment, max(1, round(value * rate))) for value in spans]
            possible = sum(len(shifted(recording.sessions, max(1, round(value * rate)))[0]) for value in spans)
        elif times is not None:
            found = [after(times, segment, value, step) for value in spans]
            last = times[np.r_[np.flatnonzero(np.diff(recording.sessions)), len(times) - 1]][recording.sessions]
            possible = sum(int((times + value <= last + step / 2).sum()) for value in spans)
        else:
            raise ValueError(
                "Expected rate= (rows per second) or a recording with times, where seconds= is used; got neither."
            )
        how = f"{', '.join(f'{span:g}' for span in spans)} s apart"
    first, second = (np.concatenate(side) for side in zip(*found, strict=True))
    how += taken_by_gaps(recording, segment, possible - len(first), possible, declared=max_gap is not None)
    pairs = Pairs(recording, first, second, how=how)
    pairs = pairs.where(recording.usable[first] & recording.usable[second])
    if not len(pairs):
        count = len(recording)
        longest = int(np.bincount(segment).max())
        raise ValueError(
            f"Expected rows from which a pair (x, x') can be made; got {count} sample{'s' * (count != 1)}, at most "
            f"{longest} in a row without the end of a session or a gap in time. Give more data, or a smaller "
            "lag. Or raise max_gap=."
        )
    return pairs


def aligned(recording: Recording, recording_prime: Recording, *, lag: int = 0) -> Pairs:
    """Pairs of a row of one recording and the row of another that was observed with it: two modalities.

    x and x' are of different kinds, so that each has an encoder of its own. Rows correspond by their number: bring
    both recordings to one clock first.

    Args:
        recording: The rows x.
        recording_prime: The rows x': as many, with the same sessions.
        lag: Rows from x to x'; 0: row i goes with row i.

    Returns:
        The pairs, of rows that were observed on both sides.

    Raises:
        ValueError: Recordings of different lengths or sessions, or no pair.

    Example:
        >>> import numpy as np
        >>> from recparam.data.pairs import aligned
        >>> from recparam.data.recording import Recording
        >>> neurons, pose = Recording.of(np.zeros((5, 60))), Recording.of(np.zeros((5, 4)))
        >>> x, x_prime = aligned(neurons, pose).tensors()
        >>> x.shape, x_prime.shape
        (torch.Size([5, 60]), torch.Size([5, 4]))
    """
    check_count("lag", lag, least=0)
    if len(recording_prime) != len(recording):
        raise ValueError(
            f"Expected as many rows on both sides, row i with row i; got {len(recording)} of x and "
            f"{len(recording_prime)} of x'. Bring both to one clock, or cut the longer one."
        )
    if not np.array_equal(recording.sessions, recording_prime.sessions):
        raise ValueError(
            "Expected sessions that end at the same rows on both sides; got others. Give both the same sessions=."
        )
    if recording.row_shapes or recording_prime.row_shapes:
        raise ValueError("Expected sessions that share their columns; got own channels. Align one session at a time.")
    segment = segments(recording, None)[0]
    first, second = shifted(segment, lag)
    keep = recording.usable[first] & recording_prime.usable[second]
    if not keep.any():
        raise ValueError(
            f"Expected rows that were observed on both sides, {lag} apart; got none of {len(recording)}. Give more "
            "data, or a smaller lag."
        )
    how = "row i of X with row i of X_prime" if lag == 0 else f"row i of X with row i + {lag} of X_prime"
    possible = len(shifted(recording.sessions, lag)[0])
    how += taken_by_gaps(recording, segment, possible - len(first), possible)
    return Pairs(recording, first[keep], second[keep], recording_prime, how=how)


def views(recording: Recording, transform: Transform, *, both: bool = True) -> Views:
    """Pairs of two random views of each row, drawn anew in every epoch: what a view changes, latents will ignore.

    Draws depend on the seed and the epoch of a batch; outside of batches (held-out rows, banks, scores) they are
    fixed, so that values may be compared.

    Args:
        recording: The rows, in any order; but see `Pairs.split` for which of them are held out.
        transform: Gives views of a batch of rows (B, ...), float32 or uint8, as a tensor (B, ...); all its draws have
            to come from the generator that it gets.
        both: Whether x is a view, too; otherwise it is the row as it is.

    Returns:
        A pair for each row that was observed.

    Raises:
        ValueError: transform is no function; and later, where it gives no tensor of B rows.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from recparam.data.pairs import views
        >>> from recparam.data.recording import Recording
        >>> def noisy(rows, generator):
        ...     return rows + torch.randn(rows.shape, generator=generator)
        >>> x, x_prime = views(Recording.of(np.zeros((5, 3))), noisy, both=False).tensors()
        >>> x.abs().max() == 0, x_prime.abs().min() > 0
        (tensor(True), tensor(True))
    """
    if not callable(transform):
        raise ValueError(f"Expected transform as a function of rows and a generator; got {transform!r}.")
    rows = np.flatnonzero(recording.usable)
    return Views(recording, rows, rows, transform=transform, both=both)


def by_index(recording: Recording, first: Any, second: Any) -> Pairs:
    """Pairs that somebody else chose; they are taken as declared, across sessions too.

    Args:
        recording: The rows.
        first: Row of x of each pair, whole numbers (P,), from 0.
        second: Row of x' of each pair, (P,).

    Raises:
        ValueError: Indices of different lengths, outside the recording, or of rows that were not observed.

    Example:
        >>> import numpy as np
        >>> from recparam.data.pairs import by_index
        >>> from recparam.data.recording import Recording
        >>> by_index(Recording.of(np.eye(3)), [0, 2], [1, 0]).tensors()[1]
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """
    sides = []
    for name, rows in (("first", first), ("second", second)):
        index = np.asarray(rows)
        if index.ndim != 1 or index.dtype.kind not in "iu" or not len(index):
            raise ValueError(
                f"Expected {name} as whole numbers of shape (P,), P >= 1; got {index.dtype}, {index.shape}."
            )
        if index.min() < 0 or index.max() >= len(recording):
            raise ValueError(
                f"Expected {name} as rows from 0 to {len(recording) - 1}; got {index.min()} to {index.max()}."
            )
        hidden = index[~recording.usable[index]]
        if len(hidden):
            raise ValueError(f"Expected {name} as rows that were observed; got row {hidden[0]}, which the mask hides.")
        sides.append(index.astype(np.int64))
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"Expected first and second of one length; got {len(sides[0])} and {len(sides[1])}.")
    return Pairs(recording, sides[0], sides[1])


def _several(name: str, value: Any) -> list[Any]:
    values = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
    if not values or len(set(values)) < len(values):
        raise ValueError(f"Expected {name} as one number or several different ones; got {value!r}.")
    return values
