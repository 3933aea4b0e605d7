"""What the kernel needs of torch.distributed: the rows of all processes, with gradients.

Conventions. The objective of a group is the sum of what its processes differentiate, and the gradient of a
process's tensor is that of the sum, whichever process the tensor was used on. DistributedDataParallel divides
the sum of the parameters' gradients by the number of processes W; so a process that holds n of the group's N
rows returns the mean over its own rows times n W / N (a plain mean where all hold equally many), and what DDP
arrives at is the gradient of the mean over all N.

Every process of the group has to make the same calls in the same order, backward included. One that does not
makes the others fail within the group's time limit (`timeout` of `torch.distributed.init_process_group`).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

Group: TypeAlias = Any
"""A `torch.distributed.ProcessGroup`, or None for the default one; torch may be built without them."""


def processes(group: Group = None) -> int:
    """How many processes the group has; one where none is set up."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: Group = None) -> int:
    """Which process of the group this is, from zero; zero where none is set up."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def gather_rows(x: Shaped[Tensor, " rows *rest"], group: Group = None) -> Shaped[Tensor, " total *rest"]:
    """The rows of all processes in the order of their ranks, differentiable.

        out = [x^(0); x^(1); ...; x^(W-1)],    gradient of x^(r) = sum over processes of their gradients of it

    Args:
        x: This process's rows, shape (n, ...); n may differ between processes, and be zero.
        group: The process group; None is the default one. Without one, x itself is returned.

    Returns:
        Shape (N, ...), N the sum of the n.

    Raises:
        ValueError: On every process, if dtypes or shapes of a row differ, or only some need a gradient.
        RuntimeError: A process did not answer; the message names the operation.
    """
    if processes(group) == 1:
        return x
    needs = x.requires_grad and torch.is_grad_enabled()
    kind = zlib.crc32(f"{x.dtype} {tuple(x.shape[1:])}".encode())
    table = exchange("gather_rows", [len(x), kind, needs], like=x, group=group)
    sizes = [int(size) for size in table[:, 0]]
    mine = (table[:, 1:] == table[rank(group), 1:]).all(1)
    if not bool(mine.all()):
        raise ValueError(
            f"Expected x with rows of one shape and dtype on every process, all or none in need of a gradient; got "
            f"{x.dtype}, {tuple(x.shape[1:])}, {'a' if needs else 'no'} gradient on process {rank(group)}, and other "
            f"on {(~mine).nonzero()[:, 0].tolist()}."
        )
    rows = _Gather.apply(x, sizes, group)
    assert isinstance(rows, Tensor)
    return rows


def row_counts(x: Shaped[Tensor, " rows *rest"], group: Group = None) -> list[int]:
    """The number of rows on each process, in the order of their ranks."""
    if processes(group) == 1:
        return [len(x)]
    return [int(size) for size in exchange("row_counts", [len(x)], like=x, group=group)[:, 0]]


@dataclass(frozen=True)
class Share:
    """The rows of a process among the rows of all.

    Args:
        rows: How many it has.
        start: The place of its first one.
        total: How many all have.
        processes: How many processes there are.
    """

    rows: int
    start: int
    total: int
    processes: int

    @staticmethod
    def of(x: Shaped[Tensor, " rows *rest"], *, across_processes: bool) -> Share:
        """That of rows x in the default group, or of a process by itself."""
        counts = row_counts(x) if across_processes else [len(x)]
        here = rank() if len(counts) > 1 else 0
        return Share(len(x), sum(counts[:here]), sum(counts), len(counts))

    def gathered(self, x: Shaped[Tensor, " rows *rest"]) -> Shaped[Tensor, " total *rest"]:
        """The rows of all, differentiable."""
        return gather_rows(x) if self.processes > 1 else x

    def places(self, device: torch.device) -> Tensor:
        """Where its rows are among those of all, shape (rows,)."""
        return torch.arange(self.start, self.start + self.rows, device=device)

    def mean(self, values: Shaped[Tensor, " rows"]) -> Tensor:
        """The mean of its rows times n W / N, whose mean over processes is that over all rows."""
        if self.processes == 1:
            return values.mean()
        return values.sum() * (self.processes / self.total)

    def weights(self, like: Tensor) -> Tensor | None:
        """Weight of each row in that mean; None for 1 / n."""
        return None if self.processes == 1 else like.new_full((self.rows,), self.processes / self.total)


def exchange(operation: str, numbers: Sequence[float | int], *, like: Tensor, group: Group = None) -> Tensor:
    """Tell all processes a few numbers.

    Args:
        operation: On whose behalf, for the error of a process that does not answer.
        numbers: Equally many on every process.
        like: A tensor on the device that the group communicates from.
        group: The process group; None is the default one.

    Returns:
        Shape (W, numbers), float64 on the CPU: a row for each process.
    """
    mine = torch.tensor(numbers, dtype=torch.float64, device=like.device)
    table = mine.new_empty(processes(group), len(numbers))
    if processes(group) == 1:
        return mine[None].cpu()
    with answering(operation):
        dist.all_gather(list(table.unbind()), mine, group=group)
    return table.cpu()


@contextmanager
def answering(operation: str) -> Generator[None, None, None]:
    """Name the operation where a process of the group has died or stays silent beyond the time limit."""
    start = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"{operation}: a process of the group did not answer (given up after {time.monotonic() - start:.1f} s). It "
            f"has ended, or makes other calls than this one; see its own error. The longest wait is `timeout` of "
            f"torch.distributed.init_process_group."
        ) from error


class _Gather(torch.autograd.Function):
    """All-gather; backward is the sum over processes, scattered back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: Group) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        largest = max(sizes)
        mine = x.detach()
        if len(x) < largest:
            mine = torch.cat([mine, mine.new_zeros(largest - len(x), *x.shape[1:])])
        rows = mine.new_empty(len(sizes), largest, *x.shape[1:])
        if rows.numel():
            with answering("gather_rows"):
                dist.all_gather(list(rows.unbind()), mine.contiguous(), group=group)
        if min(sizes) == largest:
            return rows.flatten(0, 1)
        return torch.cat([block[:size] for block, size in zip(rows, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Each process sends every other its part of the gradient: the traffic of a reduce-scatter, which gloo lacks.
        (g,) = upstream
        size = ctx.sizes[rank(ctx.group)]
        parts = g.new_empty(len(ctx.sizes) * size, *g.shape[1:])
        if g.numel():
            with answering("gather_rows (backward)"):
                dist.all_to_all_single(parts, g.contiguous(), [size] * len(ctx.sizes), list(ctx.sizes), group=ctx.group)
        return parts.reshape(len(ctx.sizes), size, *g.shape[1:]).sum(0), None, None
