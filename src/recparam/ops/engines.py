"""Which implementation sweeps over the pairs of a score that is a matrix product of features."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from recparam.ops import blocked, compile, native
from recparam.ops.logits import Gradients, Logits, Need, Swept


@dataclass(frozen=True)
class Engine:
    """An implementation of the kernel.

    Args:
        name: What `implementation` calls it.
        sweep: Values of all rows and, if needed, gradients of their sum.
        gradients: Gradients for upstream gradients that differ between rows.
        half: Whether it takes half-precision features (their bias is float32, and so is what it returns).
    """

    name: str
    sweep: Callable[[Logits, Need | None], Swept]
    gradients: Callable[[Logits, Tensor, Need], Gradients]
    half: bool = False


def _triton_sweep(logits: Logits, need: Need | None) -> Swept:
    from recparam.ops import triton_kernels  # imports triton, which is optional

    return triton_kernels.sweep(logits, need)


def _triton_gradients(logits: Logits, upstream: Tensor, need: Need) -> Gradients:
    from recparam.ops import triton_kernels

    return triton_kernels.gradients(logits, upstream, need)


BLOCKED = Engine("blocked", blocked.sweep, blocked.gradients)
NATIVE = Engine("native", native.sweep, native.gradients)
TRITON = Engine("triton", _triton_sweep, _triton_gradients, half=True)

_MANY = 1 << 20  # pairs from which the C kernel is worth the second that compiling it takes, once on a machine
_LEAST = 64  # rows, and columns: with fewer its tiles save little


def choose(implementation: str, device: torch.device, logits: Logits | None = None) -> Engine:
    """The implementation of that name for logits on a device; with no logits, whether the name can run there.

    "auto" takes Triton on a GPU where it is installed, and on the CPU the C kernel where a compiler is found and the
    logits are many and of few features (`against_native`); otherwise blocks. Triton's kernels are for half precision;
    in single, blocks answer.

    Raises:
        ValueError: An unknown name, or an implementation that cannot run here.
    """
    if implementation not in ("auto", "blocked", "native", "triton"):
        raise ValueError(
            f"Expected implementation 'auto', 'dense', 'blocked', 'native' or 'triton'; got {implementation!r}."
        )
    on_gpu = device.type == "cuda"
    if implementation == "native":
        if native.why_unavailable():
            raise ValueError(
                f"Expected a working C compiler for implementation='native'; {native.why_unavailable()}. "
                "Install one, name it in the environment variable CC, or use implementation='auto'."
            )
        return NATIVE
    if implementation == "triton":
        if find_spec("triton") is None:
            raise ValueError(
                "Expected the package triton for implementation='triton'; it is not installed. "
                "Use pip install 'recparam[triton]', or implementation='auto'."
            )
        if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"Expected CUDA tensors for implementation='triton'; got {device}. Use implementation='auto'."
            )
        return TRITON
    if implementation == "auto" and on_gpu and find_spec("triton") is not None:
        return TRITON
    if implementation == "auto" and logits is not None and not against_native(logits):
        return NATIVE
    return BLOCKED


def against_native(logits: Logits) -> str:
    """Why "auto" does not take the C kernel for these logits; empty if it does. What it takes many of compiles it."""
    n, m = len(logits.rows), len(logits.columns)
    if n * m < _MANY or min(n, m) < _LEAST:
        return f"{n} x {m} pairs are few (of {_MANY}, {_LEAST} on either side)"
    if not native.takes(logits):
        return "the C kernel is for single precision on the CPU, at most 16 features and no leave_out"
    tensors = (logits.rows, logits.columns, logits.bias, logits.own)
    if not compile.readable(*(each for each in tensors if each is not None)):
        return "the tensors are traced, compiled or batched"
    return native.why_unavailable()
