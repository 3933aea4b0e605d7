"""The precision that the bounds on rounding assume, whatever autocast, TensorFloat settings and `half()` say.

Networks may run in half precision. What they return is lifted to single, and everything after it is single or better.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from recparam.ops.logits import HALF


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within it, matrix products of single-precision tensors on a device are of single precision.

    Autocast would make them half, and TensorFloat rounds their factors to 11 bits. Settings are as before afterwards.
    """
    if device.type == "cuda" and _rounded():
        return _full_precision(device)
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def at_least_single(x: Tensor) -> Tensor:
    """The same numbers in single precision, where they are in half."""
    return x.float() if x.dtype in HALF else x


def as_double(x: Tensor) -> Tensor:
    """The same numbers in double precision, where the device has it."""
    return x.float() if x.device.type == "mps" else x.double()


class SinglePrecision(nn.Module):
    """A module of numbers in nats: `half()`, `bfloat16()` and `to(dtype)` leave what is in it at least single."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def lifted(x: Tensor) -> Tensor:
            moved = fn(x)
            return at_least_single(x.to(moved.device)) if moved.dtype in HALF else moved

        return super()._apply(lifted, recurse)


def check_single(module: nn.Module) -> None:
    """Raise ValueError if a parameter is in half precision, as one made under a default dtype in half is."""
    for parameter in module.parameters():
        if parameter.dtype in HALF:
            raise ValueError(
                f"Expected parameters of {type(module).__name__} in single precision or double, as its values are; got "
                f"{parameter.dtype}. Use .float() on it."
            )


def _rounded() -> bool:
    newer = _since_2_9()
    return newer == "tf32" if newer is not None else torch.get_float32_matmul_precision() != "highest"


def _since_2_9() -> str | None:
    """The setting that torch 2.9 has in addition to the older one."""
    return getattr(torch.backends.cuda.matmul, "fp32_precision", None)


def _older() -> str | None:
    """The older setting; None where only the newer was set, as it cannot be read then."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def _full_precision(device: torch.device) -> Generator[None]:
    older, newer = _older(), _since_2_9()
    with torch.autocast(device.type, enabled=False):
        if older is None:
            torch.backends.cuda.matmul.fp32_precision = "ieee"
        else:
            torch.set_float32_matmul_precision("highest")  # the newer with it
        try:
            yield
        finally:
            if older is None:
                torch.backends.cuda.matmul.fp32_precision = newer
            else:
                torch.set_float32_matmul_precision(older)
