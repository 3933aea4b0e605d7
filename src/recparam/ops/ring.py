"""The kernel over the banks of all processes, of which none holds them all: blocks go round a ring.

In each of W steps a process meets its rows with the bank of one process and hands that bank to the next one.
The sums of the blocks are merged by their logarithms; the own column, which every process has in its own bank,
stays apart as everywhere in the kernel, so that with o = log sum over the others (of all processes)

    t_own - lse = -log(1 + exp(o - t_own)),   d/dt_own = sigmoid(o - t_own),   do/dt_ij = exp(t_ij - o_i).

Backward is a second time around. The gradient of a bank travels with it, one step behind, and comes home.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from recparam.ops import engines
from recparam.ops.collectives import Group, Handed, exchange, gather_rows, processes, rank
from recparam.ops.logits import Gradients, Logits
from recparam.ops.logsumexp import Implementation, pairwise_infonce, pairwise_logsumexp
from recparam.ops.pairs import check_pairs
from recparam.ops.scores import Features, ProductScore, Score, largest_norm, tolerated_in

_GRADIENTS = 1  # tag of travelling gradients; banks have tag zero


def pairwise_infonce_ring(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    keep_positive: bool = True,
    group: Group = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, " A"]:
    """`pairwise_infonce` of this process's rows over the banks of all processes, with linear memory in its own.

        out_a = score(z_a, bank_a) - log mean_m exp score(z_a, bank_m),   m over the banks of all processes

    Scores that are products of features go round the ring: besides its own a process holds the block it works
    on and the one that is arriving, and their gradients in backward. Other scores fall back to gathering all
    banks on every process, as do products whose terms are too large for double precision.

    Args:
        score: As in `pairwise_logsumexp`, and the same on every process.
        z: This process's queries, shape (A, D); A may differ between processes.
        bank: This process's columns, shape (M, E), M >= A; column a is the positive of row a.
        keep_positive: Whether the positive stays in the mean.
        group: The process group; None is the default one. Without one it is `pairwise_infonce`.
        implementation: As in `pairwise_logsumexp`, other than "dense".

    Returns:
        Shape (A,), in nats. For the gradient see `recparam.ops.collectives`: of the sum over processes of what
        they differentiate. Every process has to take part in backward.

    Raises:
        ValueError: As `pairwise_infonce`, or widths or dtypes that differ between processes.
        RuntimeError: A process did not answer; the message names the operation.
    """
    engine = _engine(implementation, z)
    if processes(group) == 1:
        return pairwise_infonce(score, z, bank, keep_positive=keep_positive, implementation=implementation)
    asked = _ask("pairwise_infonce_ring", score, z, bank, group, positives=True)
    features, count, total = asked.features, len(z), sum(asked.sizes)
    if features is None:
        start = sum(asked.sizes[: rank(group)])
        positives = torch.arange(start, start + count, device=z.device)
        everywhere = gather_rows(bank, group)
        return pairwise_infonce(
            score, z, everywhere, positives=positives, keep_positive=keep_positive, implementation=implementation
        )
    off, t_own = _met(asked, features, engine, count)
    if keep_positive:
        value = math.log(total) - torch.logaddexp(off - t_own, torch.zeros_like(off))
    else:
        value = math.log(total - 1) + (t_own - off)
    return value.to(z.dtype)


def pairwise_logsumexp_ring(
    score: Score,
    z: Float[Tensor, "A D"],
    bank: Float[Tensor, "M E"],
    *,
    group: Group = None,
    implementation: Implementation = "auto",
) -> Float[Tensor, " A"]:
    """`pairwise_logsumexp` of this process's rows over the banks of all processes.

    See `pairwise_infonce_ring` for the arguments and for what is raised; z and bank need not correspond.

        out_a = log sum_m exp score(z_a, bank_m),   m over the banks of all processes
    """
    engine = _engine(implementation, z)
    if processes(group) == 1:
        return pairwise_logsumexp(score, z, bank, implementation=implementation)
    asked = _ask("pairwise_logsumexp_ring", score, z, bank, group, positives=False)
    if asked.features is None:
        return pairwise_logsumexp(score, z, gather_rows(bank, group), implementation=implementation)
    value, _ = _met(asked, asked.features, engine, 0)
    row_bias = asked.features.row_bias
    return (value if row_bias is None else value + row_bias).to(z.dtype)


@dataclass(frozen=True)
class _Asked:
    """What the processes agree on before the first block moves.

    Args:
        operation: For errors.
        group: Of the ring.
        sizes: Columns of each process.
        features: This process's, around the common centre; None where the score has none that are right.
        travels: Whether gradients of columns or bias are needed on some process.
    """

    operation: str
    group: Group
    sizes: list[int]
    features: Features | None
    travels: bool


def _engine(implementation: str, z: Tensor) -> engines.Engine:
    if implementation == "dense":
        raise ValueError("Expected implementation 'auto' or the name of an engine for the ring; got 'dense'.")
    return engines.choose(implementation, z.device)


def _ask(operation: str, score: Score, z: Tensor, bank: Tensor, group: Group, *, positives: bool) -> _Asked:
    check_pairs(score, z, bank, None, None, None, None)
    if positives and len(z) > len(bank):
        raise ValueError(f"Expected at least {len(z)} bank rows, the positives first; got {len(bank)}.")
    told = [len(bank), z.shape[1], bank.shape[1], z.dtype == torch.float64, torch.is_grad_enabled()]
    table = exchange(operation, told, like=z, group=group)
    other = (table[:, 1:] != table[rank(group), 1:]).any(1)
    if bool(other.any()):
        raise ValueError(
            f"Expected widths, precision and gradient mode of z and bank as on every process; got "
            f"{tuple(z.shape[1:])}, {tuple(bank.shape[1:])}, {z.dtype}, gradients {torch.is_grad_enabled()} on process "
            f"{rank(group)}, and other on {other.nonzero()[:, 0].tolist()}."
        )
    sizes = [int(size) for size in table[:, 0]]
    features = _features(operation, score, z, bank, group)
    travels = False
    if features is not None and torch.is_grad_enabled():
        columns = features.columns.requires_grad
        columns = columns or (features.column_bias is not None and features.column_bias.requires_grad)
        table = exchange(operation, [columns or features.rows.requires_grad, columns], like=z, group=group)
        without = (table[:, 0] == 0).nonzero()[:, 0].tolist()
        if 0 < len(without) < len(table):
            raise ValueError(f"Expected all processes or none to need gradients; got none on {without}.")
        travels = bool(table[:, 1].any())
    return _Asked(operation, group, sizes, features, travels)


def _features(operation: str, score: Score, z: Tensor, bank: Tensor, group: Group) -> Features | None:
    """Features around the centre of all banks, in the least precision in which their product is right on all."""
    if not isinstance(score, ProductScore):
        return None
    table = exchange(operation, [len(bank), *bank.detach().mean(0, dtype=torch.float64).tolist()], like=z, group=group)
    centre = (table[:, :1] * table[:, 1:]).sum(0) / table[:, 0].sum()
    start = torch.float64 if z.dtype == torch.float64 else torch.float32
    for dtype in dict.fromkeys((start, torch.float64)):
        features = score.features(z.to(dtype), bank.to(dtype), centre=centre.to(z.device, dtype))
        if features is None:
            return None
        if _magnitude(operation, features, group) <= tolerated_in(score, dtype):
            return features
    return None


@torch.no_grad()
def _magnitude(operation: str, features: Features, group: Group) -> float:
    """The largest term, in nats, that any process can meet."""
    biases = [0.0 if bias is None else float(bias.abs().max()) for bias in (features.row_bias, features.column_bias)]
    told = [float(largest_norm(features.rows)), float(largest_norm(features.columns)), *biases]
    rows, columns, row_bias, column_bias = exchange(operation, told, like=features.rows, group=group).amax(0).tolist()
    return rows * columns + row_bias + column_bias


def _met(asked: _Asked, features: Features, engine: engines.Engine, own: int) -> tuple[Tensor, Tensor]:
    off, t_own = _Ring.apply(features.rows, features.columns, features.column_bias, own, asked, engine)
    return off, t_own


class _Ring(torch.autograd.Function):
    """o_i = log sum exp t_ij over the columns of all processes other than the row's own, and the own logit t_ii.

    The first `own` rows, all or none, have one, of the same number.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        bias: Tensor | None,
        own: int,
        asked: _Asked,
        engine: engines.Engine,
    ) -> tuple[Tensor, Tensor]:
        ctx.own, ctx.asked, ctx.engine = own, asked, engine
        ring = _Blocks(asked, rows.detach(), columns.detach(), None if bias is None else bias.detach(), own)
        off = torch.stack([engine.sweep(logits, None).off for logits in ring])  # (W, n), in the order they came by
        merged = torch.logsumexp(off, 0)
        ctx.save_for_backward(rows, columns, bias, off, merged)
        t_own = (rows[:own] * columns[:own]).sum(-1)
        return merged, t_own if bias is None else t_own + bias[:own]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, columns, bias, off, merged = ctx.saved_tensors
        g, g_own = upstream
        own, asked, engine = ctx.own, ctx.asked, ctx.engine
        need_rows, travels = ctx.needs_input_grad[0], asked.travels
        grad_rows: Tensor | None = None
        ring = _Blocks(asked, rows, columns, bias, own)
        sizes, here, width = asked.sizes, rank(asked.group), columns.shape[1] + (bias is not None)
        behind: Handed | None = None
        for step, logits in enumerate(ring):
            # exp(t_ij - o_i) is the block's own share of its sum times the block's share of the whole
            weight = g * torch.exp(off[step] - merged)
            part = engine.gradients(logits, weight, (need_rows, travels, travels and bias is not None))
            if step == 0:
                _add_own(part, rows[:own], columns[:own], g_own)
                grad_rows = part.rows
            elif grad_rows is not None and part.rows is not None:
                grad_rows += part.rows
            if travels:
                flat = _packed(part)
                del part
                if behind is not None:
                    flat += behind.arrived()
                into = flat.new_empty(sizes[(here - step - 1) % len(sizes)] * width)
                behind = Handed(asked.operation, flat, into, tag=_GRADIENTS, group=asked.group)
        if behind is None:
            return grad_rows, None, None, None, None, None
        home = behind.arrived()
        split = columns.numel()
        return (
            grad_rows,
            home[:split].view_as(columns) if ctx.needs_input_grad[1] else None,
            home[split:] if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def _add_own(part: Gradients, rows: Tensor, columns: Tensor, g: Tensor) -> None:
    """Add the gradients of the own logits to those of the others."""
    if part.rows is not None:
        part.rows[: len(g)].addcmul_(columns, g[:, None])
    if part.columns is not None:
        part.columns[: len(g)].addcmul_(rows, g[:, None])
    if part.bias is not None:
        part.bias[: len(g)].add_(g)


class _Blocks:
    """The rows against each process's columns in turn: first its own, then that of the process before it, ...

    While one block is worked on the next one arrives, in one of two buffers. Columns and bias travel as one flat
    tensor.
    """

    def __init__(self, asked: _Asked, rows: Tensor, columns: Tensor, bias: Tensor | None, own: int) -> None:
        self.asked, self.rows = asked, rows
        self.own = torch.arange(own, device=rows.device) if own else None
        self.width, self.biased = columns.shape[1], bias is not None
        self.first = _packed(Gradients(None, columns, bias))

    def __iter__(self) -> Iterator[Logits]:
        sizes, here = self.asked.sizes, rank(self.asked.group)
        entries = [size * (self.width + self.biased) for size in sizes]
        buffers = [self.first.new_empty(max(entries)) for _ in sizes[1:3]]
        current = self.first
        for step in range(len(sizes)):
            size = sizes[(here - step) % len(sizes)]
            handed = None
            if step + 1 < len(sizes):
                into = buffers[step % 2][: entries[(here - step - 1) % len(sizes)]]
                handed = Handed(self.asked.operation, current, into, group=self.asked.group)
            split = size * self.width
            columns, bias = current[:split].view(size, self.width), current[split:] if self.biased else None
            own = self.own if step == 0 else None
            yield Logits(self.rows, columns, bias, own, keep_own=own is None)
            if handed is not None:
                current = handed.arrived()


def _packed(part: Gradients) -> Tensor:
    """Columns, then bias, in one flat tensor."""
    assert part.columns is not None
    flat = part.columns.reshape(-1)
    return flat if part.bias is None else torch.cat([flat, part.bias])
