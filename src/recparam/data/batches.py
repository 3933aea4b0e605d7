"""Batches of tuples and of pairs of frames, in an order that depends on a seed and the epoch only."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from recparam.utils.checks import check_finite


class Batches(ABC):
    """Batches of rows in an order that depends on the seed and the epoch only; a base class.

    The last batch may be smaller. It is left out when a single row remains, which would have no negative.

    Args:
        rows: the number of rows.
        batch_size: rows in a batch, at least 2.
        seed: a whole number, not negative.
        least: rows of the last batch, which is left out if it has fewer.
    """

    def __init__(self, rows: int, *, batch_size: int, seed: int, least: int = 2) -> None:
        if batch_size < 2:
            raise ValueError(
                f"batch_size: expected at least 2, got {batch_size}. The negatives of a row are the other "
                "rows of its batch; a batch of one has none."
            )
        if rows < 2:
            raise ValueError(f"observations: expected at least 2 tuples, got {rows}. Give more data.")
        if seed < 0:
            raise ValueError(f"seed: expected a whole number >= 0, got {seed}. Choose another.")
        self.rows, self.batch_size, self.seed, self.least, self.epoch = rows, batch_size, seed, least, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass.

        Args:
            epoch: the number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.rows, self.batch_size)
        return whole + (rest >= self.least)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.after(0)

    def after(self, done: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of the pass but for the first ones, whose rows are not read.

        Args:
            done: how many to leave out.
        """
        order = torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(self.rows))
        for batch in range(done, len(self)):
            yield self._gather(order[batch * self.batch_size : (batch + 1) * self.batch_size])

    @abstractmethod
    def _gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The observations of these rows."""


class TupleBatches(Batches):
    """Random batches of aligned observations: row i of each belongs to the same tuple.

    Args:
        observations: arrays or tensors of shape (rows, ...), one per observation.
        batch_size: tuples in a batch, at least 2.
        seed: decides the order, together with the epoch.

    Raises:
        ValueError: no observations, different numbers of rows, numbers that are not finite, a batch of one.
    """

    def __init__(self, *observations: Tensor | np.ndarray, batch_size: int, seed: int) -> None:
        lengths = [len(observation) for observation in observations]
        if not lengths or len(set(lengths)) > 1:
            raise ValueError(
                f"observations: expected one or more with the same number of rows, got {lengths} rows. "
                "Row i of each has to belong to the same tuple."
            )
        super().__init__(lengths[0], batch_size=batch_size, seed=seed)
        for number, observation in enumerate(observations):
            check_finite(f"observations[{number}]", observation)
        self.observations = observations

    def _gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(_take(observation, rows) for observation in self.observations)


class PairBatches(Batches):
    """Random batches of pairs of frames, gathered by index from one recording that is never copied.

    Args:
        frames: array or tensor of shape (time, ...).
        pairs: which frames belong together, of shape (pairs, J), J observations each; by default all
            consecutive pairs (t, t + 1).
        targets: something known about each frame, of shape (time, ...); batches then hold, after the frames,
            the targets of the same J indices.
        batch_size: pairs in a batch, at least 2.
        seed: decides the order, together with the epoch.
        least: pairs of the last batch, which is left out if it has fewer.

    Raises:
        ValueError: indices outside the recording, targets of another length, numbers that are not finite, a
            batch of one.
    """

    def __init__(
        self,
        frames: Shaped[Tensor, "time ..."] | Shaped[np.ndarray, "time ..."],
        *,
        pairs: Int[Tensor, "pairs J"] | Int[np.ndarray, "pairs J"] | None = None,
        targets: Shaped[Tensor, "targets ..."] | Shaped[np.ndarray, "targets ..."] | None = None,
        batch_size: int,
        seed: int,
        least: int = 2,
    ) -> None:
        if pairs is None:
            start = torch.arange(max(len(frames) - 1, 0))
            indices = torch.stack([start, start + 1], dim=1)
        else:
            indices = torch.as_tensor(pairs, dtype=torch.int64, device="cpu")
        super().__init__(len(indices), batch_size=batch_size, seed=seed, least=least)
        if indices.min() < 0 or indices.max() >= len(frames):
            raise ValueError(
                f"pairs: expected indices from 0 to {len(frames) - 1}, got {int(indices.min())} to "
                f"{int(indices.max())}. Count from the first frame."
            )
        if targets is not None and len(targets) != len(frames):
            raise ValueError(
                f"targets: expected one per frame, {len(frames)}, got {len(targets)}. Give each frame one."
            )
        check_finite("frames", frames)
        if targets is not None:
            check_finite("targets", targets)
        self.frames, self.targets, self.indices = frames, targets, indices

    def _gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        columns = self.indices[rows].unbind(dim=1)
        sources = (self.frames,) if self.targets is None else (self.frames, self.targets)
        return tuple(_take(source, column) for source in sources for column in columns)


def _take(values: Any, rows: Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values[rows.to(values.device)]
    # Index first: a read-only or memory-mapped array never becomes a tensor as a whole.
    return torch.from_numpy(np.asarray(values[rows.numpy()]))
