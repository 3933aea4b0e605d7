"""Gaussian mixtures as base densities of vectors, fitted by scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from recparam.utils.checks import check_count, check_finite, check_matrix
from recparam.utils.shown import shown


class GaussianMixtureBase(nn.Module):
    """R_base(x) of vectors as a fitted mixture of K Gaussians.

        R_base(x) = sum_k pi_k N(x; mu_k, Sigma_k)

    Args:
        mixture: A fitted scikit-learn mixture, of any covariance type.
        dtype: Of the samples.
        device: Where they are drawn.

    Raises:
        ValueError: The mixture is not fitted.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> base = rp.GaussianMixtureBase.fit(x, components=1)
        >>> base.sample(3).shape, base.log_prob(x).shape
        (torch.Size([3, 2]), torch.Size([500]))
    """

    weights: Tensor
    means: Tensor
    roots: Tensor

    def __init__(
        self, mixture: GaussianMixture, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        if not hasattr(mixture, "covariances_"):
            raise ValueError("Expected a fitted mixture; got one that is not. Use GaussianMixtureBase.fit(x).")
        means, covariances = np.asarray(mixture.means_), np.asarray(mixture.covariances_)
        count, width = means.shape
        if mixture.covariance_type == "tied":
            covariances = np.broadcast_to(covariances, (count, width, width))
        elif mixture.covariance_type != "full":  # diagonal, or one variance each
            diagonal = covariances if covariances.ndim == 2 else covariances[:, None]
            covariances = np.eye(width) * np.broadcast_to(diagonal, (count, width))[:, None, :]
        values = {"weights": mixture.weights_, "means": means, "roots": np.linalg.cholesky(covariances)}
        for name, value in values.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(value), dtype=dtype, device=device))

    @classmethod
    def fit(cls, x: Float[Tensor, "N D"], *, components: int = 8, seed: int = 0) -> GaussianMixtureBase:
        """Fit full covariances to observations by expectation maximisation.

        Args:
            x: Shape (N, D).
            components: K, at most N.
            seed: Of the start.

        Raises:
            NonFiniteError: x holds NaN or infinity.
            ValueError: x is not a matrix of at least K rows, or K below one.
        """
        check_count("components", components)
        check_matrix("x", x)
        check_finite("x", x)
        if not x.is_floating_point() or len(x) < components:
            raise ValueError(
                f"Expected x as floating-point vectors, at least as many as components, {components}; got {len(x)} of "
                f"{x.dtype}."
            )
        mixture = GaussianMixture(components, random_state=seed).fit(x.detach().cpu().double().numpy())
        return cls(mixture, dtype=x.dtype, device=x.device)

    def extra_repr(self) -> str:
        """The sizes."""
        return shown(components=len(self.means), dim=self.means.shape[1])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """Draw n observations, shape (n, D)."""
        check_count("n", n)
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(
            n, self.means.shape[1], 1, generator=generator, dtype=self.means.dtype, device=self.means.device
        )
        return self.means[chosen] + (self.roots[chosen] @ noise)[..., 0]

    def log_prob(self, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """log R_base(x), shape (B,), in nats; differentiable in x."""
        check_matrix("x", x, width=self.means.shape[1])
        components = MultivariateNormal(self.means.to(x), scale_tril=self.roots.to(x), validate_args=False)
        chances = Categorical(probs=self.weights.to(x), validate_args=False)
        return MixtureSameFamily(chances, components, validate_args=False).log_prob(x)
