"""The kernel in C for few features, single precision and the CPU: tiles of rows against all columns.

What it does not take goes to `blocked`. It is compiled at first use.
`torch.get_num_threads()` threads share the rows; how many they are changes gradients of the columns by rounding.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from recparam.ops import blocked, compile
from recparam.ops.logits import Gradients, Logits, Need, Swept

_MOST = 16  # features
_MOST_COLUMNS = 1 << 30


def why_unavailable() -> str:
    """Say why the C kernel does not run here; empty if it does. The first call compiles it."""
    return _build()[1]


def sweep(logits: Logits, need: Need | None) -> Swept:
    """Values of all rows and, with `need`, the gradients of their sum, in one sweep."""
    if not takes(logits):
        return blocked.sweep(logits, need)
    out, gradients = _run(logits, None, need or (False, False, False))
    return Swept(out, None if need is None else gradients)


def gradients(logits: Logits, upstream: Tensor, need: Need) -> Gradients:
    """Gradients for upstream gradients (n,) that differ between rows: each score is formed again."""
    if not takes(logits):
        return blocked.gradients(logits, upstream, need)
    return _run(logits, upstream, need)[1]


def takes(logits: Logits) -> bool:
    """Whether the C kernel computes these logits."""
    rows = logits.rows
    few = 0 < rows.shape[1] <= _MOST and max(len(rows), len(logits.columns)) < _MOST_COLUMNS
    return few and rows.dtype == torch.float32 and rows.device.type == "cpu" and logits.excluded is None


def _run(logits: Logits, upstream: Tensor | None, need: Need) -> tuple[Tensor, Gradients]:
    library, reason = _build()
    if library is None:
        raise RuntimeError(reason)
    own = None if logits.own is None else logits.own.contiguous()
    tensors = (logits.rows, logits.columns, logits.bias, own, upstream)
    inputs = [None if x is None else x.detach().contiguous() for x in tensors]
    rows, columns = logits.rows, logits.columns
    (n, width), m = rows.shape, len(columns)
    out = rows.new_empty(n)
    shapes = ((n, width), (m, width), (m,))
    grads = [rows.new_empty(shape) if needed else None for shape, needed in zip(shapes, need, strict=True)]
    options = (int(logits.keep_own), int(logits.contrast), torch.get_num_threads())
    compile.call(library, "recparam_native", n, m, width, *options, *inputs, out, *grads)
    return out, Gradients(*grads)


@functools.cache
def _build() -> tuple[ctypes.CDLL | None, str]:
    """The compiled C source, or why there is none."""
    return compile.build(Path(__file__).with_name("native.c"), compile.VECTORS)
