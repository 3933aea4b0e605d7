"""Which implementation sweeps over the pairs of a score that is a matrix product of features."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from recparam.ops import blocked
from recparam.ops.logits import Gradients, Logits, Need, Swept


@dataclass(frozen=True)
class Engine:
    """An implementation of the kernel.

    Args:
        sweep: Values of all rows and, if asked, gradients of their sum.
        gradients: Gradients for upstream gradients that differ between rows.
        half: Whether it takes half-precision features (a bias beside them is float32, and so is what it returns).
    """

    sweep: Callable[[Logits, Need | None], Swept]
    gradients: Callable[[Logits, Tensor, Need], Gradients]
    half: bool = False


def _triton_sweep(logits: Logits, need: Need | None) -> Swept:
    from recparam.ops import triton_kernels  # imports triton, which is optional

    return triton_kernels.sweep(logits, need)


def _triton_gradients(logits: Logits, upstream: Tensor, need: Need) -> Gradients:
    from recparam.ops import triton_kernels

    return triton_kernels.gradients(logits, upstream, need)


BLOCKED = Engine(blocked.sweep, blocked.gradients)
TRITON = Engine(_triton_sweep, _triton_gradients, half=True)


def choose(implementation: str, device: torch.device | None = None) -> Engine:
    """The implementation of that name for tensors on a device (None: the CPU).

    "auto" takes Triton on a GPU where it is installed.

    Raises:
        ValueError: An unknown name, or an implementation that cannot run here.
    """
    if implementation not in ("auto", "blocked", "triton"):
        raise ValueError(f"Expected implementation 'auto', 'dense', 'blocked' or 'triton'; got {implementation!r}.")
    on_gpu = device is not None and device.type == "cuda"
    if implementation == "triton":
        if find_spec("triton") is None:
            raise ValueError(
                "Expected the package triton for implementation='triton'; it is not installed. "
                "Use pip install 'recparam[triton]', or implementation='auto'."
            )
        if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"Expected CUDA tensors for implementation='triton'; got {device or 'cpu'}. Use implementation='auto'."
            )
        return TRITON
    if implementation == "auto" and on_gpu and find_spec("triton") is not None:
        return TRITON
    return BLOCKED
