"""What the recognition networks make of the rows of a recording, in chunks; a row of several pairs once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from recparam.data.pairs import Pairs, Views, as_tensor, rows_at_once
from recparam.data.recording import Recording
from recparam.data.windows import Windowed
from recparam.model import RPM
from recparam.utils.evaluating import evaluating


def parameters_of(
    model: RPM,
    recording: Recording,
    rows: np.ndarray | None = None,
    *,
    index: int = 0,
    change: Callable[[Tensor], Tensor] | None = None,
    read: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Tensor:
    """The recognition network's output for rows of a recording, in chunks and evaluation mode.

    Args:
        model: Whose recognition model it is.
        recording: The data.
        rows: Which rows; None: all.
        index: Which observation they are, from zero; of no effect where x and x' share a recognition model.
        change: Is done to the rows first.
        read: Gives rows by their numbers; None: the recording.

    Returns:
        Shape (rows, width): latents, or means and log-variances.
    """
    rows = np.arange(len(recording)) if rows is None else rows
    taken = (recording[part] if read is None else read(part) for part in _chunks(rows, recording))
    tensors = (as_tensor(values, double=recording.double) for values in taken)
    chunks = ((x if change is None else change(x),) for x in tensors)
    return _through(model, [network(model, index)], chunks, len(rows))[0]


def latents_of(model: RPM, x: Tensor) -> Tensor:
    """The recognition network's output for rows in memory, in chunks and evaluation mode, (rows, width)."""
    chunks = ((part,) for part in x.split(rows_at_once(x.shape[1:])))
    return _through(model, [network(model)], chunks, len(x))[0]


def encoded_pairs(model: RPM, pairs: Pairs, chosen: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """The recognition parameters of the x and x' of some pairs, or of all; a row that is in several is encoded once.

    For a prior of order p those of x, and of the rows before it, are side by side, oldest first: (pairs, p width).
    """
    chosen = np.arange(len(pairs)) if chosen is None else chosen
    if model.prior.order > 1:
        steps = np.column_stack([pairs.rows(chosen), pairs.second[chosen]])
        unique, places = np.unique(steps, return_inverse=True)
        z = parameters_of(model, pairs.recording, unique)[places.reshape(steps.shape)]
        return z[:, :-1].flatten(1), z[:, -1]
    if isinstance(pairs, Views):
        chunks = map(pairs.tensors, _chunks(chosen, pairs.recording))
        x, x_prime = _through(model, [network(model), network(model, 1)], chunks, len(chosen))
        return x, x_prime
    if model.shared and not (isinstance(pairs.recording, Windowed) and pairs.recording.parted):
        rows, places = np.unique(np.concatenate([pairs.first[chosen], pairs.second[chosen]]), return_inverse=True)
        x, x_prime = parameters_of(model, pairs.recording, rows)[places].split(len(chosen))
        return x, x_prime
    sides = []
    for index, (recording, rows) in enumerate(pairs.sides):
        unique, places = np.unique(rows[chosen], return_inverse=True)
        read = recording.as_x_prime if index else recording.as_x
        sides.append(parameters_of(model, recording, unique, index=index, read=read)[places])
    return sides[0], sides[1]


def network(model: RPM, index: int = 0) -> nn.Module:
    """The network that encodes an observation, counted from zero."""
    return cast(nn.Module, model.recognition[0 if model.shared else index].net)


@torch.no_grad()
def _through(
    model: RPM, nets: Sequence[nn.Module], chunks: Iterable[tuple[Tensor, ...]], count: int
) -> list[Tensor]:
    """What each network makes of its part of each chunk, of so many rows in all, in evaluation mode."""
    device = next(model.parameters()).device
    # Written into one tensor: small results kept between large blocks would keep the blocks' memory.
    found: list[Tensor] = []
    start = 0
    with evaluating(model):
        for chunk in chunks:
            for side, (net, x) in enumerate(zip(nets, chunk, strict=True)):
                part = net(x.to(device))
                if not start:
                    found.append(part.new_empty((count, *part.shape[1:])))
                found[side][start : start + len(x)] = part
            start += len(chunk[0])
    return found


def _chunks(rows: np.ndarray, recording: Recording) -> Iterator[np.ndarray]:
    size = rows_at_once(recording.shape[1:])
    return (rows[start : start + size] for start in range(0, len(rows), size))
