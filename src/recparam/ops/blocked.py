"""The kernel in plain torch: blocks of rows against all columns, each score formed once.

The gradient of a row follows from the block as soon as its sum is known (`logits.weights`); that of the columns
too, if every row's upstream gradient is one (or all are equal), so that a mean needs each score once and 6 n m F
operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recparam.ops.logits import Gradients, Logits, Need, Swept, Weights, weights
from recparam.ops.precision import full_precision

_AUGMENTED = 16  # up to this width bias and reference are features of the matrix products, too
_BLOCK = 1 << 19  # scores in a block with few features; stays near the processor
_WIDE_BLOCK = 1 << 23  # with many features, where taller blocks make better matrix products
SMALL = 1 << 18  # up to so many scores in all, the number of operations counts more than their passes
_LARGE = 1 << 16  # columns
_GPU_BLOCK = 1 << 26  # on a GPU, where a block of the sizes above takes longer to ask for than to do
_LEAST_ROWS = 16
_OVERSHOT = 1e20  # sums beyond this may overflow when they meet the features
_PROBES = 16  # columns from which a row's reference is taken


def sweep(logits: Logits, need: Need | None) -> Swept:
    """Values of all rows and, with `need`, the gradients of their sum, in one sweep."""
    with full_precision(logits.rows.device):
        return _sweep(logits, need)


def _sweep(logits: Logits, need: Need | None) -> Swept:
    few = len(logits.rows) * len(logits.columns) <= SMALL
    if few and logits.contrast and logits.keep_own and logits.own is not None and logits.excluded is None:
        return small_contrast(logits, need)
    blocks = _Blocks(logits, need or (False, False, False))
    out: list[Tensor] = []
    for rows in blocks.slices():
        found = blocks.weights(rows)
        out.append(found.value)
        if need is not None:
            blocks.accumulate(rows, found.off, found.own)
    return Swept(torch.cat(out), blocks.gradients() if need is not None else None)


def gradients(logits: Logits, upstream: Tensor, need: Need) -> Gradients:
    """Gradients for upstream gradients (n,) that differ between rows: each score is formed again."""
    with full_precision(logits.rows.device):
        blocks = _Blocks(logits, need)
        for rows in blocks.slices():
            found, g = blocks.weights(rows), upstream[rows]
            blocks.accumulate(rows, found.off * g, None if found.own is None else found.own * g)
        return blocks.gradients()


def small_contrast(logits: Logits, need: Need | None) -> Swept:
    """A training batch at once: the sweep below in as few operations as it takes.

    Rows (S, n, F), columns (S, m, F) and biases (S, m) may be of S batches with one `own` (n,).
    """
    rows, columns, bias = logits.rows, logits.columns, logits.bias
    assert logits.own is not None
    if rows.ndim > 2:
        own = logits.own[:, None].expand(len(rows), -1, 1)
        bias = None if bias is None else bias[:, None]
        block = torch.bmm(rows, columns.mT) if bias is None else torch.baddbmm(bias, rows, columns.mT)
    else:
        own = logits.own[:, None]
        block = torch.mm(rows, columns.T) if bias is None else torch.addmm(bias, rows, columns.T)
    t_own = block.gather(-1, own)
    block.scatter_(-1, own, -torch.inf)
    largest = block.amax(-1, keepdim=True).clamp_min(torch.finfo(block.dtype).min)  # -inf: no column but the own
    _exp(block.sub_(largest), logits, _taken_out(bias))
    total = block.sum(-1, keepdim=True)
    off = total.log().add_(largest)
    lead = t_own - off
    gradients = None
    if need is not None:
        share_off = torch.sigmoid(-lead)
        block.mul_(share_off / -total.clamp_min(torch.finfo(total.dtype).tiny)).scatter_(-1, own, share_off)
        if rows.ndim == 2 and rows.shape[1] < _AUGMENTED:  # transposed, these products take half the time
            by_rows, by_columns = (columns.T @ block.T).T, (rows.T @ block).T
        else:
            by_rows, by_columns = block @ columns, block.mT @ rows
        gradients = Gradients(by_rows, by_columns, block.sum(-2) if need[2] else None)
    return Swept(torch.nn.functional.logsigmoid(lead)[..., 0], gradients)


def _taken_out(bias: Tensor | None) -> Tensor | None:
    """Mask of the columns that the bias takes out, or None if it leaves all in."""
    out = None if bias is None else torch.isneginf(bias)
    return out if out is not None and bool(out.any()) else None


def _exp(block: Tensor, logits: Logits, out: Tensor | None) -> None:
    """The exponential in place of t less a logit of its row, zero in the columns that are out."""
    # Where the result would be below the smallest normal number, the library's exponential takes thirty times as
    # long. What is added instead is 1e-38 of a sum of at least a half.
    least = -87.0 if block.dtype == torch.float32 else -708.0
    if not 2 * logits.largest < -least:
        block.clamp_min_(least)
    block.exp_()
    if out is not None:
        block.masked_fill_(out, 0)


class _Blocks:
    """The buffers of a sweep, and what is done to one block."""

    def __init__(self, logits: Logits, need: Need) -> None:
        self.logits, self.need = logits, need
        rows, columns, bias = logits.rows, logits.columns, logits.bias
        self.n, self.m, self.width = len(rows), len(columns), rows.shape[1]
        self.small = self.n * self.m <= SMALL
        here = rows.device.type == "cpu"
        self.augmented = here and not self.small and self.width + 2 <= _AUGMENTED
        # In a large bank the gradients take the memory, and a lower block has to do.
        wide = _WIDE_BLOCK if self.m <= _LARGE else _WIDE_BLOCK * 3 // 8
        budget = _BLOCK if self.augmented else wide if here else _GPU_BLOCK
        self.height = min(self.n, max(_LEAST_ROWS, budget // self.m))
        self.buffer = rows.new_empty(self.height, self.m)
        if self.augmented:
            self.columns = columns.new_zeros(self.m, _AUGMENTED)
            self.columns[:, : self.width] = columns
            if bias is not None:
                self.columns[:, self.width] = bias
            self.columns[:, self.width + 1] = 1
            self.rows = rows.new_zeros(self.n, _AUGMENTED)
            self.rows[:, : self.width] = rows
            self.rows[:, self.width] = 1
        else:
            self.columns, self.rows = columns, rows
        self.out = _taken_out(bias)
        if not self.small:
            self.probes = torch.linspace(0, self.m - 1, min(self.m, _PROBES), device=rows.device).long()
        self.grad_rows = torch.empty_like(self.rows) if need[0] else None
        # Few features: transposed, which makes a better matrix product of few rows.
        shape = (_AUGMENTED, self.m) if self.augmented else (self.m, self.width)
        self.grad_columns = columns.new_zeros(shape) if need[1] or (need[2] and self.augmented) else None
        self.grad_bias = rows.new_zeros(self.m) if need[2] and not self.augmented else None

    def slices(self) -> list[slice]:
        return [slice(start, min(start + self.height, self.n)) for start in range(0, self.n, self.height)]

    def weights(self, rows: slice) -> Weights:
        """Fill the buffer with exp(t - reference), own columns zero, and return what turns it into derivatives."""
        own = None if self.logits.own is None else self.logits.own[rows]
        if self.small or self.logits.excluded is not None:
            return weights(self.logits, *self._after_largest(rows, own))
        reference, total, t_own = self._after_probes(rows, own)
        if not bool(((total >= 0.5) & (total < _OVERSHOT)).all()):  # a column far above the probes, or none
            return weights(self.logits, *self._after_largest(rows, own))
        return weights(self.logits, reference, total, t_own)

    def accumulate(self, rows: slice, weight_off: Tensor, weight_own: Tensor | None) -> None:
        """Add the block's part of every gradient that is needed."""
        block = self.buffer[: len(weight_off)]
        here = self.rows[rows]
        own = None if self.logits.own is None or weight_own is None else self._valid(self.logits.own[rows])
        if self.grad_rows is not None:
            part = torch.mm(block, self.columns, out=self.grad_rows[rows]).mul_(weight_off[:, None])
            if own is not None and weight_own is not None:
                part.addcmul_(self.columns.index_select(0, own), weight_own[:, None])
        if self.grad_columns is not None:
            weighted = here * weight_off[:, None]
            if self.augmented:
                self.grad_columns.addmm_(weighted.T, block)
            else:
                self.grad_columns.addmm_(block.T, weighted)
            if own is not None and weight_own is not None:
                weighted = here * weight_own[:, None]
                self.grad_columns.index_add_(*((1, own, weighted.T) if self.augmented else (0, own, weighted)))
        if self.grad_bias is not None:
            self.grad_bias.addmv_(block.T, weight_off)
            if own is not None and weight_own is not None:
                self.grad_bias.index_add_(0, own, weight_own)

    def gradients(self) -> Gradients:
        """The gradients of all blocks; nothing can be added afterwards."""
        width = self.width
        self.buffer = self.rows = self.columns = self.buffer.new_empty(0)  # their memory is for the copies below
        rows, columns, bias = self.grad_rows, self.grad_columns, self.grad_bias
        if self.augmented:
            bias = columns[width].clone() if columns is not None and self.need[2] else None
            columns = columns[:width].T.contiguous() if columns is not None and self.need[1] else None
            rows = None if rows is None else rows[:, :width].clone()
        return Gradients(rows, columns, bias)

    def _valid(self, own: Tensor) -> Tensor:
        """Own columns as indices: a row without one points anywhere, with weight zero."""
        return own if self.logits.contrast else own.clamp_min(0)

    def _after_largest(self, rows: slice, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Reference, sum of the others and own logit, with the largest of the other logits as reference."""
        block = self._scores(rows, None)
        t_own = self._own(block, own)
        self._leave_out(block, rows, own, -torch.inf)
        reference = block.amax(1)
        reference = torch.where(torch.isneginf(reference), 0, reference)
        _exp(block.sub_(reference[:, None]), self.logits, self.out)
        self._leave_out(block, rows, own, 0.0)
        return reference, block.sum(1), None if t_own is None else t_own - reference

    def _after_probes(self, rows: slice, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same with the largest of a few logits as reference: two passes over the block fewer."""
        logits = self.logits
        probed = logits.rows[rows] @ logits.columns[self.probes].T
        if logits.bias is not None:
            probed += logits.bias[self.probes]
        if own is not None:
            probed.masked_fill_(own[:, None] == self.probes, -torch.inf)
        reference = probed.amax(1)
        reference = torch.where(torch.isneginf(reference), 0, reference)
        block = self._scores(rows, reference)
        t_own = self._own(block, own)
        _exp(block, logits, self.out)
        self._leave_out(block, rows, own, 0.0)
        return reference, block.sum(1), t_own

    def _own(self, block: Tensor, own: Tensor | None) -> Tensor | None:
        if own is None:
            return None
        t_own = block.gather(1, self._valid(own)[:, None])[:, 0]
        return t_own if self.logits.contrast else torch.where(own >= 0, t_own, -torch.inf)

    def _scores(self, rows: slice, reference: Tensor | None) -> Tensor:
        here = self.rows[rows]
        block = self.buffer[: len(here)]
        if self.augmented:
            if reference is not None:
                here[:, self.width + 1] = -reference
            torch.mm(here, self.columns.T, out=block)
            here[:, self.width + 1] = 0
            return block
        if self.logits.bias is None:
            torch.mm(here, self.columns.T, out=block)
        else:
            torch.addmm(self.logits.bias, here, self.columns.T, out=block)
        return block if reference is None else block.sub_(reference[:, None])

    def _leave_out(self, block: Tensor, rows: slice, own: Tensor | None, value: float) -> None:
        if own is not None:
            if self.logits.contrast:
                block.scatter_(1, own[:, None], value)
            else:
                have = (own >= 0).nonzero()[:, 0]
                block[have, own[have]] = value
        if self.logits.excluded is not None:
            block.masked_fill_(self.logits.excluded(rows), value)
