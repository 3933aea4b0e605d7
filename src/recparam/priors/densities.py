"""Priors that are normalised densities of their own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.marginals import Recognised
from recparam.priors.base import Prior, Terms
from recparam.priors.directions import Side
from recparam.recognition import enumerable
from recparam.utils.checks import check_count, is_finite_number
from recparam.utils.shown import number, shown


class ParametricPrior(Prior):
    """A prior with a density of its own: l is that density over mixture estimates of the marginals."""

    family = "density"

    @abstractmethod
    def log_prob(self, *latents: Tensor) -> Tensor:
        """log P_theta(z_1, ..., z_J) of latents (..., D_j), shape (...), in nats."""

    def log_conditional(
        self, z: Float[Tensor, "A D"], grid: Float[Tensor, "G E"], log_base: Float[Tensor, " G"]
    ) -> Float[Tensor, "A G"]:
        """log P(z, z') for every pair; the prior has a density of its own and ignores the base."""
        self.check_widths([z.shape[-1], grid.shape[-1]])
        return self.log_prob(z[:, None, :], grid[None, :, :])  # widths may differ: no common shape

    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        joint, queries = recognised.joint, recognised.queries
        keep_own = self.direction(recognised, side).own == "kept"
        marginals = [joint.log_marginal(j, z, queries=queries, keep_own=keep_own) for j, z in enumerate(latents)]
        return Terms.total(
            {"log_prior": self.log_prob(*latents), "minus_log_marginals": -torch.stack(marginals).sum(0)}
        )


class JointGaussianPrior(ParametricPrior):
    """Standard normal latents with a learned correlation between neighbours, per dimension.

        P(z_1) = N(0, I),   P(z_{t+1}|z_t) = N(diag(rho) z_t, I - diag(rho)^2)

    Args:
        dim: Width D of every latent.
        correlation: Starting rho for every dimension, between -1 and 1; learned through its inverse tanh.

    Raises:
        ValueError: dim < 1, or |correlation| >= 1.
    """

    def __init__(self, dim: int, *, correlation: float = 0.5) -> None:
        super().__init__()
        check_count("dim", dim)
        if not is_finite_number(correlation) or not -1 < correlation < 1:
            raise ValueError(f"Expected a correlation between -1 and 1, exclusive; got {correlation!r}.")
        self.raw_correlation = nn.Parameter(torch.full((dim,), math.atanh(correlation)))

    @property
    def correlation(self) -> Tensor:
        """rho, shape (D,)."""
        return self.raw_correlation.tanh()

    def extra_repr(self) -> str:
        """Width and correlations."""
        return shown(dim=len(self.raw_correlation), correlation=self.correlation)

    def formula(self) -> str:
        """The density of each dimension, with the correlations learned so far."""
        return f"P(z, z') = prod_d N(z_d, z'_d; 0, [[1, rho_d], [rho_d, 1]]), rho = {number(self.correlation)}"

    def check_densities(self, distributions: Sequence[Distribution]) -> None:
        """Raise DensityError for a Dirac, ValueError for categorical latents."""
        super().check_densities(distributions)
        if any(enumerable([d]) for d in distributions):
            raise ValueError(
                "Expected continuous latents for JointGaussianPrior, as of rp.Gaussian(net); got categorical ones. "
                "Use JointCategoricalPrior, rp.OptimalPrior or rp.InfoNCEPrior."
            )

    def check_widths(self, widths: Sequence[int]) -> None:
        """Raise ValueError if a latent's width is not dim."""
        if any(width != len(self.raw_correlation) for width in widths):
            raise ValueError(f"Expected latents of width {len(self.raw_correlation)}; got {list(widths)}.")

    def log_prob(self, *latents: Tensor) -> Tensor:
        """Log-density of a chain of latents (..., D), shape (...), in nats."""
        rho = self.correlation
        # 1 - tanh^2 = 1 / cosh^2 keeps its digits where rho is near one
        log_scale = -(
            self.raw_correlation.abs() + nn.functional.softplus(-2 * self.raw_correlation.abs()) - math.log(2)
        )
        total = _standard_normal(latents[0])
        for z, z_prime in zip(latents[:-1], latents[1:], strict=True):
            total = total + _standard_normal((z_prime - rho * z) * (-log_scale).exp()) - log_scale.sum()
        return total


class JointCategoricalPrior(ParametricPrior):
    """A table of probabilities over categorical (one-hot) latents.

        P(z_1 = k_1, ..., z_J = k_J) = softmax(logits)_{k_1 ... k_J}

    Args:
        sizes: Number of values K_j of each latent, at least two latents.

    Raises:
        ValueError: Fewer than two sizes, or a size below one.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"Expected at least two sizes >= 1; got {sizes}.")
        for j, size in enumerate(sizes):
            check_count(f"sizes[{j}]", size)
        self.logits = nn.Parameter(torch.zeros(sizes))

    def extra_repr(self) -> str:
        """The sizes of the table."""
        return shown(sizes=tuple(self.logits.shape))

    def formula(self) -> str:
        """The table, by its size."""
        sizes = self.logits.shape
        names = ", ".join([f"z_{j + 1}" for j in range(len(sizes))] if len(sizes) > 2 else ["z", "z'"])
        return f"P({names}) = softmax(theta)[{names}], theta {' x '.join(map(str, sizes))}"

    def check_densities(self, distributions: Sequence[Distribution]) -> None:
        """Raise DensityError for a Dirac, ValueError for continuous latents."""
        super().check_densities(distributions)
        if not enumerable(distributions):
            raise ValueError(
                "Expected one-hot latents for JointCategoricalPrior, as of rp.Categorical(net); got continuous ones. "
                "Use rp.JointGaussianPrior, rp.OptimalPrior or rp.InfoNCEPrior."
            )

    def check_widths(self, widths: Sequence[int]) -> None:
        """Raise ValueError if the latents' widths are not the table's."""
        if tuple(widths) != tuple(self.logits.shape):
            raise ValueError(f"Expected latents of widths {tuple(self.logits.shape)}; got {tuple(widths)}.")

    def log_conditional(
        self, z: Float[Tensor, "A D"], grid: Float[Tensor, "G E"], log_base: Float[Tensor, " G"]
    ) -> Float[Tensor, "A G"]:
        """log P(z, z') for every pair of one-hot rows; ValueError for other rows."""
        for name, value in (("z", z), ("grid", grid)):
            if not bool((((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)).all()):
                raise ValueError(
                    f"Expected one-hot rows in {name} for JointCategoricalPrior, such as torch.eye(K); got other rows. "
                    f"Enumerate or draw latents; the mean of a categorical distribution is none."
                )
        return super().log_conditional(z, grid, log_base)

    def log_prob(self, *latents: Tensor) -> Tensor:
        """Log-probability of one-hot latents (..., K_j), shape (...), in nats."""
        table = (self.logits - self.logits.logsumexp(tuple(range(self.logits.ndim)))).flatten()
        index = torch.zeros_like(latents[0][..., 0], dtype=torch.long)
        for z in latents:
            index = index * z.shape[-1] + z.argmax(-1)
        return table[index]


def _standard_normal(z: Tensor) -> Tensor:
    return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
