"""What models are compared on: windows of observations, the same rows for all of them, and who the rows are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from recparam.data.labels import Labels
from recparam.data.pairs import Pairs, Views, as_tensor, rows_at_once
from recparam.data.recording import Recording
from recparam.data.segments import segments, shifted
from recparam.model import RPM
from recparam.recognition import Dirac
from recparam.utils.checks import check_count, check_finite, check_tensor, observation_name


class Targets:
    """B windows of J observations, x_1 to x_J in order of time; of pairs J is 2.

    Args:
        sources: Where observations are read: one for all, or one for each of the J.
        index: Row of its source of each observation, (B, J).
        labels: Who the rows are; None: they are taken to be independent.
        how: What they are, for people.
    """

    def __init__(
        self,
        sources: Sequence[Tensor | Recording],
        index: Int[np.ndarray, "B J"],
        *,
        labels: Labels | None = None,
        how: str,
    ) -> None:
        self.sources, self.index, self.labels, self.how = list(sources), index, labels, how

    def __len__(self) -> int:
        return len(self.index)

    @property
    def length(self) -> int:
        """J."""
        return self.index.shape[1]

    def apart_from(self, others: Targets) -> Targets:
        """The same, with labels that do not take rows of another recording for rows of the others' sessions."""
        labels, known = self.labels, others.labels
        if labels is None or known is None or any(a is b for a in self.sources for b in others.sources):
            return self
        shifted = Labels(
            identities=None if labels.identities is None else _beyond(labels.identities, known.identities),
            sessions=None if labels.sessions is None else _beyond(labels.sessions, known.sessions),
            times=labels.times,
        )
        return Targets(self.sources, self.index, labels=shifted, how=self.how)

    def some(self, rows: Int[np.ndarray, " rows"]) -> Targets:
        """The windows of these numbers, without labels."""
        return Targets(self.sources, self.index[rows], how=self.how)

    def observations(self) -> list[Tensor]:
        """All of them, read into memory: J tensors (B, ...)."""
        return [self._read(j, self.index[:, j]) for j in range(self.length)]

    def latents(self, model: RPM) -> list[Tensor] | None:
        """z_1 to z_J, each (B, D), without gradients; None where the recognition model is no point.

        Raises:
            NonFiniteError: An observation, or what the network makes of it, holds NaN or infinity.
            ValueError: Another number of observations than recognition models, or of another shape.
        """
        if not model.shared and len(model.recognition) != self.length:
            raise ValueError(
                f"Expected {len(model.recognition)} observations, one per recognition model; got {self.length}."
            )
        found: list[Tensor] = []
        if model.shared and len(self.sources) == 1:  # windows overlap: each row is encoded once
            rows, places = np.unique(self.index, return_inverse=True)
            z = self._encoded(model, 0, rows)
            if z is None:
                return None
            columns = torch.from_numpy(places.reshape(self.index.shape)).to(z.device)
            return [z[columns[:, j]] for j in range(self.length)]
        for j in range(self.length):
            z = self._encoded(model, j, self.index[:, j])
            if z is None:
                return None
            found.append(z)
        return found

    def _read(self, j: int, rows: Int[np.ndarray, " rows"]) -> Tensor:
        source = self.sources[j if len(self.sources) > 1 else 0]
        return source[torch.from_numpy(rows)] if isinstance(source, Tensor) else as_tensor(source[rows])

    @torch.no_grad()
    def _encoded(self, model: RPM, j: int, rows: Int[np.ndarray, " rows"]) -> Tensor | None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        source = self.sources[j if len(self.sources) > 1 else 0]
        size = rows_at_once(source.shape[1:])
        parts: list[Tensor] = []
        for start in range(0, len(rows), size):
            chunk = model.encode(self._read(j, rows[start : start + size]).to(device), index=j)
            if not isinstance(chunk, Dirac):
                return None
            parts.append(chunk.mean)
        return torch.cat(parts)


def targets_of(
    name: str,
    data: Any,
    *,
    window: int | None = None,
    lag: int = 1,
    pairs: Pairs | None = None,
    labels: Labels | None = None,
    sessions: Any = None,
    times: Any = None,
) -> Targets:
    """Windows of a tuple of aligned observations, of a recording, or the pairs of one.

    Args:
        name: What the caller knows the data by.
        data: A tuple (x_1, ..., x_J), or what `Recording.of` takes.
        window: J, where the data are a recording.
        lag: Rows between neighbours of such a window.
        pairs: Pairs of the recording, in place of windows.
        labels: Who the rows of a tuple are.
        sessions: As `Recording.of`.
        times: As `Recording.of`.

    Raises:
        NonFiniteError: An observation holds NaN or infinity.
        ValueError: Data that are neither, options of the other, or windows longer than any session.
    """
    if isinstance(data, tuple):
        if window is not None or pairs is not None or sessions is not None or times is not None:
            raise ValueError(
                f"Expected window=, pairs=, sessions= and times= with a recording; got them with a tuple of aligned "
                f"observations as {name}. Say who the rows of a tuple are with labels=rp.Labels(...)."
            )
        return _of_tuple(name, data, labels)
    if labels is not None:
        raise ValueError(f"Expected labels= with a tuple of observations; got a recording as {name}, which has them.")
    if pairs is not None:
        return _of_pairs(pairs)
    if window is None:
        raise ValueError(
            f"Expected {name} as a tuple of aligned observations (x_1, ..., x_J), or a recording with window= "
            f"(observations in a row) or pairs=; got {type(data).__name__} alone."
        )
    return _of_recording(Recording.of(data, sessions=sessions, times=times), window, lag)


def _of_tuple(name: str, data: tuple[Any, ...], labels: Labels | None) -> Targets:
    if len(data) < 2:
        raise ValueError(f"Expected {name} as at least two observations (x, x_prime); got {len(data)}.")
    tensors = [as_tensor(x) if isinstance(x, np.ndarray) else x for x in data]
    for j, x in enumerate(tensors):
        check_tensor(f"{observation_name(j)} of {name}", x)
    sizes = [len(x) if x.ndim else 0 for x in tensors]
    if len(set(sizes)) > 1 or sizes[0] < 2:
        raise ValueError(f"Expected observations with the same number of rows, at least 2, in {name}; got {sizes}.")
    for j, x in enumerate(tensors):
        check_finite(f"{observation_name(j)} of {name}", x)
    if labels is not None and len(labels) != sizes[0]:
        raise ValueError(f"Expected labels of the {sizes[0]} rows of {name}; got {len(labels)}.")
    index = np.repeat(np.arange(sizes[0])[:, None], len(tensors), 1)
    return Targets(tensors, index, labels=labels, how=f"{sizes[0]} rows of {name}")


def _of_pairs(pairs: Pairs) -> Targets:
    if pairs.strata is not None:
        raise ValueError(
            "Expected sessions that share their columns; got channels of their own, which have an R(z) each. Compare "
            "fitted estimators, each with the bank of its fit: rp.compare(estimators, X, pairs=pairs)."
        )
    if isinstance(pairs, Views) or pairs.recording.parted:
        x, x_prime = pairs.tensors()
        return _of_tuple("the pairs", (x, x_prime), pairs.labels)
    (recording, first), (recording_prime, second) = pairs.sides
    order = np.argsort(first, kind="stable")
    pairs = pairs.where(order)
    sources = [recording] if pairs.recording_prime is None else [recording, recording_prime]
    return Targets(sources, np.stack([first, second], 1)[order], labels=pairs.labels, how=f"pairs, {pairs.how}")


def _of_recording(recording: Recording, window: int, lag: int) -> Targets:
    check_count("window", window, least=2)
    check_count("lag", lag)
    segment, _ = segments(recording, None)
    first, _ = shifted(segment, (window - 1) * lag)
    index = first[:, None] + lag * np.arange(window)
    index = index[recording.usable[index].all(1)]
    if len(index) < 2:
        longest = int(np.bincount(segment).max())
        raise ValueError(
            f"Expected at least 2 windows of {window} rows, {lag} apart, that stay in one session; got {len(index)}, "
            f"where at most {longest} rows follow each other without the end of a session or a gap in time. Use a "
            "smaller window= or lag=, or longer sessions."
        )
    labels = Pairs(recording, index[:, -2], index[:, -1]).labels
    return Targets([recording], index, labels=labels, how=f"windows of {window} rows, lag {lag}")


def _beyond(values: Tensor, others: Tensor | None) -> Tensor:
    """Whole numbers, none of which is among others."""
    return values if others is None else values - values.min() + others.max() + 1
