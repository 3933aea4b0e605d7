"""The kernel for CUDA tensors, in Triton: tiles of scores that are formed on the chip.

One kernel gives each row's log-sum-exp; its scores never leave the chip. Gradients are products of the
probabilities with either side's features. A panel of probabilities (at most `_PANEL` of them, whatever n and
m are) is formed by a second kernel and multiplied by a third, once over its columns for the rows' gradient and
once over its rows for the columns'. So no width of the features needs an accumulator as wide as they are, and
each score is formed twice: 8 n m F operations for value and gradients.

They are for features in half precision, which the chip multiplies sixteen times as fast as single, so that writing
a matrix of scores to memory is the cost. In single precision the products are, and blocks of them in plain torch
(`blocked.py`) are faster. Everything is accumulated, and returned, in single precision. A panel's entries
exp(t - largest) <= 1 are rounded like the features; a row's weight multiplies its finished sum, or the features of
the rows less the largest weight, so that small weights do not underflow.

Importing this file needs the package `triton`. With TRITON_INTERPRET=1 set before that import, tensors on the
CPU are taken too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, no_type_check

import torch
import triton  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
import triton.language as tl  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
from torch import Tensor

from recparam.ops import blocked
from recparam.ops.logits import HALF, Gradients, Logits, Need, Swept, Weights, weights

_PANEL = (8192, 16384)  # rows, columns: 256 MiB; each costs a few launches, whatever its size
_ALIGNED = 16  # features are padded to multiples: loads of 16 bytes or more


def _compiled(kernel: Callable[..., Any]) -> Any:
    """As `triton.jit`, whose type is not known where triton is missing."""
    return triton.jit(kernel)


# The kernels. `no_type_check` keeps the run-time shape checks of tests away from what Triton compiles.


@_compiled
@no_type_check
def _chunk(side, index, f, F: tl.constexpr, BF: tl.constexpr, UPCAST: tl.constexpr):
    """Features f to f + BF of some rows of one side."""
    feature = f + tl.arange(0, BF)
    at = side + index.to(tl.int64)[:, None] * F + feature[None, :]
    if F % BF == 0:
        chunk = tl.load(at)
    else:
        chunk = tl.load(at, mask=feature[None, :] < F, other=0.0)
    if UPCAST:
        chunk = chunk.to(tl.float32)
    return chunk


@_compiled
@no_type_check
def _scores(
    rows, columns, i, j, F: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BF: tl.constexpr, UPCAST: tl.constexpr
):
    """A tile of products, without bias."""
    scores = tl.zeros((BM, BN), tl.float32)
    for f in range(0, F, BF):
        left = _chunk(rows, i, f, F, BF, UPCAST)
        right = _chunk(columns, j, f, F, BF, UPCAST)
        scores = tl.dot(left, tl.trans(right), scores)
    return scores


@_compiled
@no_type_check
def _bias(bias, j, m, HAS_BIAS: tl.constexpr):
    """The bias of some columns, -inf past the last."""
    if HAS_BIAS:
        value = tl.load(bias + j, mask=j < m, other=float("-inf"))
    else:
        value = tl.where(j < m, 0.0, float("-inf"))
    return value


@_compiled
@no_type_check
def _totals_kernel(
    rows, columns, bias, own, largest, total, t_own, n, m, share,
    F: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BF: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_OWN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Of a tile of rows and a share of the columns: largest logit, sum of exp(t - largest), own column apart."""
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    part = tl.program_id(1)
    inside = i < n
    row = tl.where(inside, i, 0)
    if HAS_OWN:
        mine = tl.load(own + row).to(tl.int32)
    if F <= BF:
        kept = _chunk(rows, row, 0, F, BF, UPCAST)
    high = tl.full((BM,), float("-inf"), tl.float32)
    sums = tl.zeros((BM,), tl.float32)
    for start in range(part * share, tl.minimum(part * share + share, m), BN):
        j = start + tl.arange(0, BN)
        column = tl.where(j < m, j, 0)
        if F <= BF:
            right = _chunk(columns, column, 0, F, BF, UPCAST)
            scores = tl.dot(kept, tl.trans(right))
        else:
            scores = _scores(rows, columns, row, column, F, BM, BN, BF, UPCAST)
        scores += _bias(bias, j, m, HAS_BIAS)[None, :]
        if HAS_OWN:
            scores = tl.where(mine[:, None] == j[None, :], float("-inf"), scores)
        higher = tl.maximum(high, tl.max(scores, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        sums = sums * tl.exp(high - safe) + tl.sum(tl.exp(scores - safe[:, None]), 1)
        high = higher
    at = part.to(tl.int64) * n + i
    tl.store(largest + at, high, mask=inside)
    tl.store(total + at, sums, mask=inside)
    if HAS_OWN:
        if part == 0:
            column = tl.where(mine >= 0, mine, 0)
            product = tl.zeros((BM,), tl.float32)
            for f in range(0, F, BF):
                left = _chunk(rows, row, f, F, BF, UPCAST).to(tl.float32)
                right = _chunk(columns, column, f, F, BF, UPCAST).to(tl.float32)
                product += tl.sum(left * right, 1)
            if HAS_BIAS:
                product += tl.load(bias + column)
            tl.store(t_own + i, tl.where(mine >= 0, product, float("-inf")), mask=inside)


@_compiled
@no_type_check
def _panel_kernel(
    rows, columns, bias, own, reference, weight, panel, sums, n, m, first, stride,
    F: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BF: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_OWN: tl.constexpr, SUMS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile of exp(t - reference) and its weighted column sums.

    Zero at own columns (`own` less `first`) and outside, so that products may run over whole tiles.
    """
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    j = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = i < n
    row, column = tl.where(inside, i, 0), tl.where(j < m, j, 0)
    scores = _scores(rows, columns, row, column, F, BM, BN, BF, UPCAST)
    scores += _bias(bias, j, m, HAS_BIAS)[None, :]
    if HAS_OWN:
        mine = tl.load(own + row) - first
        scores = tl.where(mine.to(tl.int32)[:, None] == j[None, :], float("-inf"), scores)
    shares = tl.where(inside[:, None], tl.exp(scores - tl.load(reference + row)[:, None]), 0.0)
    tl.store(panel + i.to(tl.int64)[:, None] * stride + j[None, :], shares.to(panel.dtype.element_ty))
    if SUMS:
        weights = tl.load(weight + row)
        tl.store(sums + tl.program_id(0) * stride + j, tl.sum(shares * weights[:, None], 0))


@_compiled
@no_type_check
def _product_kernel(
    left, right, factor, out, n, depth, left_stride, depth_stride, factor_stride,
    F: tl.constexpr, BM: tl.constexpr, BF: tl.constexpr, BK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A tile of out += factor * (left @ right), where left is zero past n and depth, up to whole tiles."""
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    f = tl.program_id(1) * BF + tl.arange(0, BF)
    sums = tl.zeros((BM, BF), tl.float32)
    for start in range(0, depth, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(left + i.to(tl.int64)[:, None] * left_stride + k.to(tl.int64)[None, :] * depth_stride)
        at = right + tl.where(k < depth, k, 0).to(tl.int64)[:, None] * F + f[None, :]
        if F % BF == 0:
            b = tl.load(at)
        else:
            b = tl.load(at, mask=(f < F)[None, :], other=0.0)
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums)
    inside = (i < n)[:, None] & (f < F)[None, :]
    here = out + i.to(tl.int64)[:, None] * F + f[None, :]
    scale = tl.load(factor + i * factor_stride, mask=i < n, other=0.0)
    tl.store(here, tl.load(here, mask=inside, other=0.0) + sums * scale[:, None], mask=inside)


_INTERPRETED = not isinstance(_product_kernel, triton.JITFunction)


def sweep(logits: Logits, need: Need | None) -> Swept:
    """Values of all rows and, with `need`, the gradients of their sum; float32 where the features are half."""
    if _elsewhere(logits):
        return blocked.sweep(_single(logits), need)
    with _on(logits.rows.device):
        sides = _Sides(logits)
        reference, rows = sides.weights()
        found = None if need is None else sides.gradients(reference, rows.off, rows.own, need)
        return Swept(rows.value, found)


def gradients(logits: Logits, upstream: Tensor, need: Need) -> Gradients:
    """Gradients for upstream gradients (n,) that differ between rows: the rows' sums are formed again."""
    if _elsewhere(logits):
        single = _single(logits)
        return blocked.gradients(single, upstream.to(single.rows.dtype), need)
    with _on(logits.rows.device):
        sides = _Sides(logits)
        (reference, rows), g = sides.weights(), upstream.to(torch.float32)
        return sides.gradients(reference, rows.off * g, None if rows.own is None else rows.own * g, need)


class _Tiles(NamedTuple):
    """Rows, columns and features of a tile of scores, and how it is run."""

    rows: int
    columns: int
    features: int
    warps: int
    stages: int


class _Sides:
    """Both sides as the kernels want them, and the launches."""

    def __init__(self, logits: Logits) -> None:
        rows, columns, bias = logits.rows, logits.columns, logits.bias
        self.logits, self.n, self.m, self.features = logits, len(rows), len(columns), rows.shape[1]
        self.rows, self.columns = _padded(rows), _padded(columns)
        self.width, self.dtype = self.rows.shape[1], rows.dtype
        self.bias = None if bias is None else bias.to(torch.float32).contiguous()
        self.own = None if logits.own is None else logits.own.contiguous()
        self.upcast = _INTERPRETED and self.dtype == torch.bfloat16  # the interpreter multiplies its bits
        self.tiles = _tiles(self.width)

    def weights(self) -> tuple[Tensor, Weights]:
        """Sweep once over all pairs for the sums: each row's reference, and what follows from its sum."""
        reference, total, t_own = self._totals()
        return reference, weights(self.logits, reference, total, t_own)

    def gradients(self, reference: Tensor, weight: Tensor, weight_own: Tensor | None, need: Need) -> Gradients:
        """Panel by panel, each formed once and multiplied for either side."""
        new = self.rows.new_zeros
        single = torch.float32
        grad_rows = new(self.n, self.width, dtype=single) if need[0] else None
        grad_columns = new(self.m, self.width, dtype=single) if need[1] else None
        grad_bias = new(self.m, dtype=single) if need[2] else None
        height, width = min(_PANEL[0], self.n), min(_PANEL[1], self.m)
        whole = self.tiles.rows  # no tile of a kernel is larger
        panel = self.rows.new_empty(triton.cdiv(height, whole) * whole, triton.cdiv(width, whole) * whole)
        for top in range(0, self.n, height):
            here = slice(top, min(top + height, self.n))
            w, count = weight[here], min(height, self.n - top)
            largest = w.abs().amax(0, keepdim=True).clamp_min(torch.finfo(single).tiny)
            scaled = (self.rows[here] * (w / largest)[:, None]).to(self.dtype) if need[1] else None
            for left in range(0, self.m, width):
                there = slice(left, min(left + width, self.m))
                part = panel[:count, : there.stop - left]
                sums = self._fill(part, here, there, reference, w, sums=need[2])
                if grad_rows is not None:
                    self._multiply(part, self.columns[there], w, grad_rows[here])
                if grad_columns is not None and scaled is not None:
                    self._multiply(part.T, scaled, largest, grad_columns[there])
                if grad_bias is not None and sums is not None:
                    grad_bias[there] += sums.sum(0)
            if self.own is None or weight_own is None:
                continue
            own, v = self.own[here].clamp_min(0), weight_own[here]  # zero where a row has none
            if grad_rows is not None:
                grad_rows[here].addcmul_(self.columns[own].to(single), v[:, None])
            if grad_columns is not None:
                grad_columns.index_add_(0, own, self.rows[here] * v[:, None])
            if grad_bias is not None:
                grad_bias.index_add_(0, own, v)
        if self.width > self.features:
            grad_rows = None if grad_rows is None else grad_rows[:, : self.features].clone()
            grad_columns = None if grad_columns is None else grad_columns[:, : self.features].clone()
        return Gradients(grad_rows, grad_columns, grad_bias)

    def _totals(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Largest logit (0 if none is finite) and sum of exp(t - largest), own column apart; then t_own - largest."""
        tiles, n = self.tiles, self.n
        blocks = triton.cdiv(n, tiles.rows)
        # Few rows would leave processors idle: they share the columns of a row among them.
        parts = max(1, 2 * _processors(self.rows) // blocks)
        share = tiles.columns * triton.cdiv(triton.cdiv(self.m, tiles.columns), parts)
        parts = triton.cdiv(self.m, share)
        largest, total = (self.rows.new_empty(parts, n, dtype=torch.float32) for _ in range(2))
        t_own = None if self.own is None else self.rows.new_empty(n, dtype=torch.float32)
        _totals_kernel[blocks, parts](
            self.rows, self.columns, self.bias, self.own, largest, total, t_own, n, self.m, share,
            F=self.width, BM=tiles.rows, BN=tiles.columns, BF=tiles.features,
            HAS_BIAS=self.bias is not None, HAS_OWN=self.own is not None, UPCAST=self.upcast,
            **_launched(tiles.warps, tiles.stages),
        )  # fmt: skip
        reference = largest.amax(0)
        reference = torch.where(torch.isneginf(reference), 0, reference)
        total = (total * (largest - reference).exp()).sum(0)
        return reference, total, None if t_own is None else t_own - reference

    def _fill(
        self, panel: Tensor, rows: slice, columns: slice, reference: Tensor, weight: Tensor, *, sums: bool
    ) -> Tensor | None:
        """Fill a panel with exp(t - reference), own columns zero; return weighted column sums, tile by tile."""
        tiles = self.tiles
        height, width = panel.shape
        grid = triton.cdiv(height, tiles.rows), triton.cdiv(width, tiles.columns)
        partial = panel.new_empty(grid[0], panel.stride(0), dtype=torch.float32) if sums else None
        _panel_kernel[grid](
            self.rows[rows], self.columns[columns], None if self.bias is None else self.bias[columns],
            None if self.own is None else self.own[rows], reference[rows], weight, panel, partial,
            height, width, columns.start, panel.stride(0),
            F=self.width, BM=tiles.rows, BN=tiles.columns, BF=tiles.features,
            HAS_BIAS=self.bias is not None, HAS_OWN=self.own is not None, SUMS=sums, UPCAST=self.upcast,
            **_launched(tiles.warps, tiles.stages),
        )  # fmt: skip
        return None if partial is None else partial[:, :width]

    def _multiply(self, left: Tensor, right: Tensor, factor: Tensor, out: Tensor) -> None:
        """out += factor[:, None] * (left @ right), in single precision; a factor of one entry is every row's."""
        tiles = _product_tiles(self.width)
        _product_kernel[triton.cdiv(len(left), tiles.rows), triton.cdiv(self.width, tiles.features)](
            left, right, factor, out, len(left), left.shape[1], left.stride(0), left.stride(1), int(len(factor) > 1),
            F=self.width, BM=tiles.rows, BF=tiles.features, BK=tiles.columns, UPCAST=self.upcast,
            **_launched(tiles.warps, tiles.stages),
        )  # fmt: skip


def _launched(warps: int, stages: int) -> dict[str, Any]:
    """Options of a launch; fused multiply-adds are requested by name, as their default changes between versions."""
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def _elsewhere(logits: Logits) -> bool:
    """Whether the plain implementation has to answer."""
    return logits.excluded is not None or logits.rows.dtype not in HALF


def _single(logits: Logits) -> Logits:
    """The same in single precision, if it was in half."""
    if logits.rows.dtype not in HALF:
        return logits
    bias = None if logits.bias is None else logits.bias.float()
    return replace(logits, rows=logits.rows.float(), columns=logits.columns.float(), bias=bias)


def _padded(side: Tensor) -> Tensor:
    missing = -side.shape[1] % _ALIGNED
    return torch.nn.functional.pad(side, (0, missing)) if missing else side.contiguous()


def _tiles(width: int) -> _Tiles:
    """Tiles of scores, whose buffers fit 96 KiB of shared memory."""
    features = triton.next_power_of_2(width)
    if features == 128:
        return _Tiles(128, 64, 128, 4, 3)
    return _Tiles(128, 128, min(features, 64), 4, 3)


def _product_tiles(width: int) -> _Tiles:
    """Tiles of a panel (its columns are the depth) times features."""
    return _Tiles(128, 64, min(128, triton.next_power_of_2(width)), 4, 3)


def _processors(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 4


def _on(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
