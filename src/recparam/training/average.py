"""The running average of a model's states, by which a fit is judged and which it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_ETA = 4.0  # the average is over the last fifth of the steps, roughly


class Average:
    """The polynomial-decay average of a model's states over its steps, by Shamir and Zhang (2013).

        average_t = (1 - w) average_{t-1} + w state_t,    w = (eta + 1) / (eta + t)

    A single state is thrown about by its last batches; the average over the last fifth of the steps is not, so that
    the held-out bounds of two starts, or of two moments, can be told apart.

    Args:
        model: Whose floating-point parameters and buffers are averaged; whatever else is in its state is the last.
        eta: The larger, the shorter the memory.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> average = Average(net)
        >>> average.update(1)
        >>> torch.equal(average.state["weight"], net.weight)
        True
    """

    def __init__(self, model: nn.Module, *, eta: float = _ETA) -> None:
        self.model, self.eta = model, eta
        self._live = [t.detach() for t in model.state_dict(keep_vars=True).values()]
        self._kept = [t.clone() for t in self._live]
        self._floats = [i for i, t in enumerate(self._live) if t.is_floating_point()]

    @property
    def state(self) -> dict[str, Tensor]:
        """The average, as the model's own `state_dict`."""
        self._take_the_rest()
        return dict(zip(self.model.state_dict(), (t.clone() for t in self._kept), strict=True))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Stand where another average of the same model stood."""
        for kept, given in zip(self._kept, state.values(), strict=True):
            kept.copy_(given)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's present state in, which is that after so many steps, from 1."""
        weight = (self.eta + 1) / (self.eta + step)
        for i in self._floats:
            self._kept[i].lerp_(self._live[i], weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the average for its state, as long as the context lasts."""
        self._take_the_rest()
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _take_the_rest(self) -> None:
        for i, (kept, live) in enumerate(zip(self._kept, self._live, strict=True)):
            if i not in self._floats:
                kept.copy_(live)

    @torch.no_grad()
    def _swap(self) -> None:
        for kept, live in zip(self._kept, self._live, strict=True):
            was = live.clone()
            live.copy_(kept)
            kept.copy_(was)
