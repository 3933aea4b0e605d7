"""Products in the precision that the bounds on rounding assume, whatever autocast and TensorFloat settings say."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within it, matrix products of single-precision tensors on a device are of single precision.

    Autocast would make them half, and TensorFloat rounds their factors to 11 bits. Settings are as before afterwards.
    """
    if device.type == "cuda" and _rounded():
        return _full_precision(device)
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


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
