"""The device and the precision that a fit asks for."""

from __future__ import annotations

import torch

from recparam.estimator.names import unknown_name

_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def device_of(accelerator: object, devices: object, precision: object) -> torch.device:
    """The device of Lightning's names for one, if it has the precision.

    Raises:
        ValueError: An unknown name, a device that is not there, more than one, or a precision that it has not.
    """
    if accelerator not in _ACCELERATORS:
        raise ValueError(unknown_name("accelerator", accelerator, _ACCELERATORS))
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = {"gpu": "mps" if there["mps"] else "cuda", "auto": "cuda" if there["cuda"] else "cpu"}.get(
        str(accelerator), str(accelerator)
    )
    if not there.get(kind, True):
        raise ValueError(f"Expected accelerator='cpu' or 'auto'; got {accelerator!r}, which this machine has not.")
    if precision not in _PRECISIONS:
        raise ValueError(unknown_name("precision", precision, _PRECISIONS))
    if precision == "16-mixed" and kind == "cpu":
        raise ValueError("Expected precision='32-true' or 'bf16-mixed' on a CPU; got '16-mixed'.")
    one = devices in (1, "auto") or (isinstance(devices, list | tuple) and len(devices) == 1)
    if isinstance(devices, bool) or not one:
        raise ValueError(
            f"Expected devices=1, 'auto' or a list of one index, as one process fits; got {devices!r}. For several, "
            "give an rp.RPMModule to Lightning's Trainer."
        )
    if not isinstance(devices, list | tuple):
        return torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
    index, count = devices[0], {"cpu": 0, "mps": 1}.get(kind, torch.cuda.device_count())
    if type(index) is not int or not 0 <= index < count:
        has = f"{kind} has the indices 0 to {count - 1}" if count else f"{kind} has no indices"
        raise ValueError(f"Expected devices that this machine has; got {devices!r}, and {has}. Use devices=1.")
    return torch.device(kind, index)
