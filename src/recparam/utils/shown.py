"""Numbers as people read them, in formulas and in the `repr` of modules."""

from __future__ import annotations

from torch import Tensor

_SHORT = 8  # a longer vector is shown by its size


def number(value: Tensor) -> str:
    """A number or short vector, to three digits."""
    if value.ndim:
        return f"[{', '.join(f'{v:.3g}' for v in value.detach().tolist())}]"
    return f"{float(value.detach()):.3g}"


def shown(*words: str, **values: object) -> str:
    """What is between the brackets of a `repr`: name=value of each that is not None, then words that are not empty.

    Example:
        >>> import torch
        >>> shown(lengthscale=torch.tensor(1.5), dims=[0, 1], rest=None)
        'lengthscale=1.5, dims=[0, 1]'
    """
    named = [f"{name}={_shown(value)}" for name, value in values.items() if value is not None]
    return ", ".join([*named, *filter(None, words)])


def _shown(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    short = value.ndim == 0 or (value.ndim == 1 and len(value) <= _SHORT)
    return number(value) if short else f"<{' x '.join(map(str, value.shape))}>"
