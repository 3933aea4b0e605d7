"""A test that x and x' are independent, by permuting held-out pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

LogF = Callable[[Tensor, Tensor], Tensor]

_ROUNDING = 1e-9  # share of the mean |log f| within which two means are equal: ties count against the pairs


@torch.no_grad()
def permutation_p_value(
    log_f: LogF, x: Float[Tensor, "N D"], x_prime: Float[Tensor, "N E"], count: int, *, shifts: bool = False,
    seed: int = 0,
) -> float:
    """p = (1 + permutations whose mean log f is at least that of the pairs) / (1 + permutations).

    For a fixed critic, as one that was learned from other pairs is, and independent pairs it is exact: if x and x' are
    independent, P(p <= a) <= a at any number of pairs and permutations. InfoNCE's denominators are the same in every
    permutation, so that the mean log f orders permutations as the bound does.

    Args:
        log_f: Maps x (N, D) and x' (N, E) to log f of each pair, (N,).
        x: Held-out pairs, shape (N, D).
        x_prime: Shape (N, E).
        count: How many permutations.
        shifts: Whether x' is shifted in time, around the end, and not permuted: all else that neighbours in a series
            share is kept. It is then exact but for the seam, for a stationary series; the shifts all differ.
        seed: Of the permutations.

    Returns:
        p, from 1 / (1 + count) to 1.
    """  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    steps = 1 + torch.randperm(len(x) - 1, generator=generator)
    paired = log_f(x, x_prime).double()
    least = float(paired.mean()) - _ROUNDING * float(paired.abs().mean())
    reached = 0
    for k in range(count):
        order = torch.randperm(len(x), generator=generator) if not shifts else torch.arange(len(x)).roll(int(steps[k]))
        reached += float(log_f(x, x_prime[order]).double().mean()) >= least
    return (1 + reached) / (1 + count)
