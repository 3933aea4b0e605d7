"""Which implementation sweeps over the pairs of a score that is a matrix product of features."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType

import torch
from torch import Tensor

from recparam.ops import blocked, native
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
NATIVE = Engine(native.sweep, native.gradients)
TRITON = Engine(_triton_sweep, _triton_gradients, half=True)

_auto = "auto"  # what "auto" means in this process; see `use`


class use:  # noqa: N801 - called as a function, and a context manager
    """Make "auto" mean an implementation in this process, from here on or within a `with` block.

    Args:
        implementation: "native" compiles, at this call, a C kernel for few features (up to 16) in single
            precision on the CPU; what it does not take runs as before. "auto" is the default again.

    Raises:
        ValueError: An unknown name, or "native" where no C compiler works.

    Example:
        >>> import recparam as rp
        >>> with rp.ops.use("blocked"):
        ...     pass
    """

    def __init__(self, implementation: str) -> None:
        global _auto
        choose(implementation)
        self._before, _auto = _auto, implementation

    def __enter__(self) -> None:
        """Nothing more: the choice holds since the call."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore what "auto" meant before."""
        global _auto
        _auto = self._before


def choose(implementation: str, device: torch.device | None = None) -> Engine:
    """The implementation of that name for tensors on a device (None: the CPU).

    "auto" takes Triton on a GPU where it is installed, and on the CPU what `use` named, or "blocked". Triton's kernels
    are for half precision; in single, blocks answer.

    Raises:
        ValueError: An unknown name, or an implementation that cannot run here.
    """
    if implementation not in ("auto", "blocked", "native", "triton"):
        raise ValueError(
            f"Expected implementation 'auto', 'dense', 'blocked', 'native' or 'triton'; got {implementation!r}."
        )
    on_gpu = device is not None and device.type == "cuda"
    if implementation == "auto" and _auto != "auto" and not on_gpu:
        implementation = _auto
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
                f"Expected CUDA tensors for implementation='triton'; got {device or 'cpu'}. Use implementation='auto'."
            )
        return TRITON
    if implementation == "auto" and on_gpu and find_spec("triton") is not None:
        return TRITON
    return BLOCKED
