"""Recognition models R_phi(z|x): a network's output read as the parameters of a distribution over latents.

Every latent is a vector, categorical ones included (one-hot), so that a coupling never needs to ask what
kind of latent it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical, constraints

from recparam.ops import BlockScore, DotProduct, GaussianDensity, Score
from recparam.ops.precision import at_least_single
from recparam.utils.checks import check_finite, check_positive, check_tensor, explain_dtype


class DensityError(ValueError):
    """A density was asked of a recognition model that has none (a Dirac)."""


class Dirac(Distribution):
    """A point mass: all probability at `loc`, of shape (B, D). It can be sampled but has no density."""

    has_rsample = True

    def __init__(self, loc: Float[Tensor, "*batch D"]) -> None:
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The point may be anywhere."""
        return {"loc": constraints.real_vector}

    @property
    def mean(self) -> Tensor:
        """The point, shape (B, D)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Zero, shape (B, D)."""
        return torch.zeros_like(self.loc)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The point, repeated."""
        return self.loc.expand(torch.Size(sample_shape) + self.loc.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Always an error: a point mass has no density."""
        raise DensityError(
            "A deterministic recognition model R(z|x) = delta(z - g(x)) has no density (Eq. 38). "
            "Use rp.EpsilonGaussian(net, epsilon=...), Eq. 46, where a density is needed; for what epsilon then does "
            "see docs/deterministic.md."
        )


class RecognitionModel(nn.Module, ABC):
    """R_phi(z|x): wraps a network and returns a distribution for each row of a batch.

    Args:
        net: Module that maps a batch of observations to a matrix of parameters (B, P).

    Raises:
        ValueError: net is not a module.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise ValueError(f"Expected net as a torch module, such as torch.nn.Linear(4, 2); got {net!r}.")
        self.net = net

    @abstractmethod
    def _distribution(self, parameters: Float[Tensor, "B P"]) -> Distribution:
        """Read a row of network output as a distribution over z."""

    def forward(self, x: Tensor) -> Distribution:
        """Encode a batch.

        Args:
            x: Observations, any shape with the batch first.

        Returns:
            Distribution with batch shape (B,) and event shape (D,).

        Raises:
            ValueError: x is no batch or has another dtype than the network takes, or the network's output is not a
                matrix with one row per observation, or not finite.
        """
        return self._distribution(self._output(x))

    def encode_many(self, *observations: Tensor) -> list[Distribution]:
        """Encode several batches of the same kind in one pass of the network.

        One pass is quicker, and gives batch norm the statistics of all batches together, as one sample of R_base.
        Batches that cannot be joined (other shapes or dtypes) are encoded one by one.
        """
        first = observations[0]
        if any(x.shape[1:] != first.shape[1:] or x.dtype != first.dtype for x in observations):
            return [self(x) for x in observations]
        parameters = self._output(torch.cat(observations))
        return [self._distribution(part) for part in parameters.split([len(x) for x in observations])]

    def _output(self, x: Tensor) -> Float[Tensor, "B P"]:
        check_tensor("x", x)
        if not x.ndim:
            raise ValueError("Expected x with the batch first; got a scalar. Use x[None].")
        try:
            parameters = self.net(x)
        except RuntimeError as error:
            explain_dtype(error, "x", x, self.net)
            raise
        if not isinstance(parameters, Tensor) or parameters.ndim != 2 or parameters.shape[0] != x.shape[0]:
            got = tuple(parameters.shape) if isinstance(parameters, Tensor) else type(parameters).__name__
            raise ValueError(f"Expected net(x) of shape ({x.shape[0]}, width), one row per observation; got {got}.")
        if not parameters.is_floating_point():
            raise ValueError(f"Expected floating-point values from net(x); got {parameters.dtype}. Use x.float().")
        check_finite("the output of the recognition network", parameters)
        return at_least_single(parameters)


class Deterministic(RecognitionModel):
    """A Dirac recognition model: z = g(x), exactly.

    Equation: 38, 39

        R_phi(z|x) = delta(z - g_phi(x))

    It has no density, so it goes with the InfoNCE prior, where R(z) R(z') cancels.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> rp.Deterministic(torch.nn.Identity())(torch.ones(3, 2)).mean.shape
        torch.Size([3, 2])
    """

    def _distribution(self, parameters: Float[Tensor, "B P"]) -> Distribution:
        return Dirac(parameters)


class EpsilonGaussian(RecognitionModel):
    """A Gaussian of small fixed variance around the network's output: the cure where a Dirac has no density.

    Equation: 46, 47

        R_phi(z|x) = N(z; g_phi(x), epsilon I)

    Args:
        net: Maps (B, ...) to means (B, D).
        epsilon: The variance, in squared units of z; positive.

    Raises:
        ValueError: epsilon is not positive and finite.
    """

    def __init__(self, net: nn.Module, *, epsilon: float) -> None:
        super().__init__(net)
        check_positive("epsilon", epsilon, what="variance")
        self.epsilon = float(epsilon)

    def _distribution(self, parameters: Float[Tensor, "B P"]) -> Distribution:
        return Independent(
            Normal(parameters, torch.full_like(parameters, self.epsilon**0.5), validate_args=False),
            1,
            validate_args=False,
        )


class Gaussian(RecognitionModel):
    """A diagonal Gaussian whose mean and log-variance both come from the network.

        R_phi(z|x) = N(z; mu(x), diag exp(v(x))),   net(x) = [mu(x), v(x)]

    Args:
        net: Maps (B, ...) to (B, 2 D): D means, then D log-variances.

    Raises:
        ValueError: The network's output has an odd width.
    """

    def _distribution(self, parameters: Float[Tensor, "B P"]) -> Distribution:
        if parameters.shape[1] % 2:
            raise ValueError(
                f"Expected net(x) of even width (means, then log-variances); got width {parameters.shape[1]}."
            )
        mean, log_variance = parameters.chunk(2, dim=-1)
        return Independent(Normal(mean, (0.5 * log_variance).exp(), validate_args=False), 1, validate_args=False)


class Categorical(RecognitionModel):
    """A categorical latent of K values, represented one-hot; expectations over it are finite sums.

        R_phi(z = e_k|x) = softmax(net(x))_k

    Args:
        net: Maps (B, ...) to logits (B, K).
    """

    def _distribution(self, parameters: Float[Tensor, "B P"]) -> Distribution:
        return OneHotCategorical(logits=parameters, validate_args=False)


def density_score(distribution: Distribution) -> tuple[Score, Tensor]:
    """Describe log R_phi(z|x_m), m = 1..M, to the kernel as a score and its bank.

    Returns:
        The score and the bank (M, E) that it reads; together they give log-densities (A, M) in nats.

    Raises:
        DensityError: The distribution is a Dirac.
    """
    if isinstance(distribution, Dirac):
        distribution.log_prob(distribution.loc)
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return GaussianDensity(), gaussian_parameters(distribution)
    if isinstance(distribution, OneHotCategorical):
        return DotProduct(), distribution.logits
    rows = torch.arange(distribution.batch_shape[0], dtype=torch.get_default_dtype())[:, None]
    return BlockScore(lambda z, bank: distribution.log_prob(z[:, None, :])), rows


def gaussian_parameters(distribution: Distribution) -> Float[Tensor, "B E"]:
    """Mean and scale of a diagonal Gaussian side by side, (B, 2 D); a Dirac is one of scale zero.

    Raises:
        ValueError: Another distribution.
    """
    if isinstance(distribution, Dirac):
        return torch.cat([distribution.loc, torch.zeros_like(distribution.loc)], dim=-1)
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return torch.cat([distribution.base_dist.loc, distribution.base_dist.scale], dim=-1)
    raise ValueError(
        f"Expected Gaussian latents for expectation='analytic', of rp.Gaussian(net) or rp.EpsilonGaussian(net, "
        f"epsilon=...), or deterministic ones; got {type(distribution).__name__}. Use expectation='sampled'."
    )
