"""Which implementation sweeps over the pairs of a score that is a matrix product of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from recparam.ops import blocked
from recparam.ops.logits import Gradients, Logits, Need, Swept


@dataclass(frozen=True)
class Engine:
    """An implementation of the kernel.

    Args:
        sweep: Values of all rows and, if asked, gradients of their sum.
        gradients: Gradients for upstream gradients that differ between rows.
        half: Whether it takes half-precision features.
    """

    sweep: Callable[[Logits, Need | None], Swept]
    gradients: Callable[[Logits, Tensor, Need], Gradients]
    half: bool = False


BLOCKED = Engine(blocked.sweep, blocked.gradients)


def choose(implementation: str) -> Engine:
    """The implementation of that name.

    Raises:
        ValueError: An unknown name.
    """
    if implementation not in ("auto", "blocked"):
        raise ValueError(f"Expected implementation 'auto', 'dense' or 'blocked'; got {implementation!r}.")
    return BLOCKED
