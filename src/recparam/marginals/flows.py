"""Normalising flows as base densities of vectors, made by zuko (the extra `flows`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.utils.checks import check_count, check_finite, check_matrix, check_positive
from recparam.utils.extras import optional
from recparam.utils.seeds import seeded
from recparam.utils.shown import shown


class FlowBase(nn.Module):
    """R_base(x) of vectors as a neural spline flow.

        R_base(x) = N(t(x); 0, I) |det dt/dx|,   t a chain of monotonic splines, coordinate given those before it

    Beyond five standard deviations the splines end and the tails are Gaussian: take logarithms of heavy-tailed data.

    Args:
        dim: Width D of x.
        transforms: Splines in the chain.
        bins: Of each spline.
        hidden: Widths of the networks that give the splines.

    Raises:
        ImportError: zuko is not installed.
        ValueError: dim, transforms or bins below one.

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> base = rp.FlowBase.fit(x, steps=20)
        >>> base.sample(3).shape, base.log_prob(x).shape
        (torch.Size([3, 1]), torch.Size([200]))
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, dim: int, *, transforms: int = 3, bins: int = 8, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("transforms", transforms), ("bins", bins)):
            check_count(name, value)
        zuko = optional("zuko", "flows", needed_by="FlowBase")
        self.dim = dim
        self.flow: nn.Module = zuko.flows.NSF(dim, transforms=transforms, bins=bins, hidden_features=tuple(hidden))
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def extra_repr(self) -> str:
        """The width, and what standardises x."""
        return shown(dim=self.dim, centre=self.centre, scale=self.scale)

    @classmethod
    def fit(
        cls,
        x: Float[Tensor, "N D"],
        *,
        transforms: int = 3,
        bins: int = 8,
        hidden: Sequence[int] = (64, 64),
        steps: int = 1000,
        batch_size: int = 256,
        lr: float = 3e-3,
        seed: int = 0,
    ) -> FlowBase:
        """Fit a flow to standardised observations by maximum likelihood (Adam, a falling learning rate).

        Args:
            x: Shape (N, D), floating-point, N >= 2.
            transforms: As in the class, like bins and hidden.
            bins: See there.
            hidden: See there.
            steps: Optimiser steps.
            batch_size: Rows per step, drawn with replacement.
            lr: First learning rate.
            seed: Of the network's start and the batches.

        Returns:
            The flow, in evaluation mode and without gradients in its parameters.

        Raises:
            NonFiniteError: x holds NaN or infinity.
            ImportError: zuko is not installed.
            ValueError: x is not a floating-point matrix of two rows that differ, or a count below one.
        """
        check_count("steps", steps)
        check_count("batch_size", batch_size)
        check_positive("lr", lr)
        check_matrix("x", x)
        check_finite("x", x)
        if not x.is_floating_point() or len(x) < 2 or not bool((x.std(0) > 0).all()):
            raise ValueError(
                f"Expected x as floating-point vectors that differ in every column; got {len(x)} of {x.dtype}. "
                f"Leave out constant columns."
            )
        generator = torch.Generator(x.device).manual_seed(seed)
        with seeded(seed):
            base = cls(x.shape[1], transforms=transforms, bins=bins, hidden=hidden)
        base.to(x)
        base.centre.copy_(x.mean(0))
        base.scale.copy_(x.std(0))
        optimiser = torch.optim.Adam(base.parameters(), lr=lr)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
            rows = torch.randint(len(x), (batch_size,), generator=generator, device=x.device)
            optimiser.zero_grad()
            (-base.log_prob(x[rows]).mean()).backward()
            optimiser.step()
        return base.requires_grad_(False).eval()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """Draw n observations, shape (n, D)."""
        check_count("n", n)
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.scale.dtype, device=self.scale.device)
        return self.centre + self.scale * self._distribution().transform.inv(noise)

    def log_prob(self, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """log R_base(x), shape (B,), in nats; differentiable in x."""
        check_matrix("x", x, width=self.dim)
        return self._distribution().log_prob((x - self.centre) / self.scale) - self.scale.log().sum()

    def _distribution(self) -> Any:
        """zuko's distribution over standardised x."""
        return self.flow()
