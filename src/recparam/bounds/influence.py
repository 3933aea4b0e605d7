"""What a value owes to the rows of its bank, which are themselves a sample: their influence, to first order.

With a bank of weights w, value = F(w). If the bank were drawn anew, F would change by the sum over its rows of
dF / d log w_k: a row counts as a negative of all others as much as it counts for itself. One sweep of the kernel gives
this gradient, and no B x N matrix is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from recparam.bounds.bound import Bound

OfBank = tuple[Tensor, Tensor | None]
"""dF / d log w_k of each row of the bank, (N,), zero in sum; and the bank row of each scored row, (B,), or None."""


def on_bank(value: Callable[[Tensor], Tensor], like: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The derivative of a value in the logarithm of each weight of its bank.

    Args:
        value: Maps factors of the weights, (N,), to the value, a scalar.
        like: The weights; a row of weight zero has no influence.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        log_factors = torch.zeros_like(like, requires_grad=True)
        (found,) = cast(
            "tuple[Tensor | None]", torch.autograd.grad(value(log_factors.exp()), log_factors, allow_unused=True)
        )
    return torch.zeros_like(like) if found is None else torch.where(like > 0, found, 0)


def effective_share(columns: Float[Tensor, " N"]) -> Tensor:
    """The share of a bank's rows that count, by the spread of how often each is expected: 1 / (1 + Var(N c_k)).

    Under an InfoNCE prior 1 - N c_k is P(z'_k) / R(z'_k), the weight that the prior gives the row of the bank in the
    mean over scored rows. Where few rows have most of it, log Z(z) rests on them.
    """
    return 1 / (1 + (len(columns) * columns).square().mean())


def of_second_order(columns: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Influence made larger where few rows of the bank count, since log Z(z) is no linear function of their weights.

    The factor is the root of one over the effective share, and at most sqrt(2). In the worlds of
    benchmarks/comparing_alike.py that made up for what the first order misses, down to a share of a half.
    """
    return columns * effective_share(columns).clamp(min=0.5).rsqrt()


def summed(parts: Sequence[tuple[float, Bound]]) -> Callable[[], OfBank] | None:
    """The influence of one bank on a sum of multiples of bounds; None where none of them has a bank."""
    if all(bound.of_bank is None for _, bound in parts):
        return None

    def total() -> OfBank:
        known = [(factor, bound.influence()) for factor, bound in parts]
        (columns, own), *others = [(factor * found[0], found[1]) for factor, found in known if found is not None]
        return sum((other for other, _ in others), columns), own

    return total


def joined(parts: Sequence[tuple[Tensor, Bound]]) -> Callable[[], OfBank] | None:
    """The influence of banks that have no row in common on the mean over all rows of bounds on some of them.

    Args:
        parts: The place of each scored row, and their bound.
    """
    if any(bound.of_bank is None for _, bound in parts):
        return None

    def total() -> OfBank:
        count, known = sum(len(rows) for rows, _ in parts), [bound.influence() for _, bound in parts]
        columns, own, start = [], [], 0
        for (rows, _), found in zip(parts, known, strict=True):
            assert found is not None
            columns.append(len(rows) / count * found[0])
            if found[1] is not None:
                own.append(start + found[1])
            start += len(found[0])
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return torch.cat(columns), torch.cat(own)[order] if own else None

    return total
