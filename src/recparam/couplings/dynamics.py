"""Densities of z' given z: linear dynamics with noise, and mixtures of several regimes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.base import Coupling, as_couplings, latest
from recparam.couplings.scaled import median_distance, not_initialised
from recparam.ops import BlockScore, MappedSides, Score
from recparam.ops.distances import WhitenedDistance
from recparam.ops.precision import as_double, at_least_single
from recparam.utils.checks import check_count, check_finite, check_tensor
from recparam.utils.shown import number, shown


class LinearDynamics(Coupling):
    """Linear dynamics with Gaussian noise of any covariance, normaliser included.

        log f(z, z') = log N(z'; A z + b, Sigma)

    A, b and the Cholesky factor of Sigma are learned. Without a covariance, Sigma starts at theta^2 I with theta the
    median distance between latents of different observations.

    Args:
        dim: Width D of the latents.
        matrix: Initial A, shape (D, D); None means the identity.
        offset: Initial b, shape (D,); None means zero.
        covariance: Initial Sigma, shape (D, D), symmetric and positive definite; None: from data.

    Raises:
        ValueError: A width below one, parameters of another shape, or a covariance that is none.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> f = rp.LinearDynamics(2, matrix=0.9 * torch.eye(2), covariance=0.1 * torch.eye(2))
        >>> z, z_prime = torch.tensor([1.0, 0.0]), torch.tensor([0.9, 0.1])
        >>> exact = torch.distributions.MultivariateNormal(0.9 * z, 0.1 * torch.eye(2)).log_prob(z_prime)
        >>> torch.testing.assert_close(f(z, z_prime), exact)
    """

    initialised_flag: Tensor

    def __init__(
        self,
        dim: int,
        *,
        matrix: Float[Tensor, "D D"] | None = None,
        offset: Float[Tensor, " D"] | None = None,
        covariance: Float[Tensor, "D D"] | None = None,
    ) -> None:
        super().__init__()
        check_count("dim", dim)
        given = covariance is not None
        matrix = _parameter("matrix", torch.eye(dim) if matrix is None else matrix, (dim, dim))
        offset = _parameter("offset", torch.zeros(dim) if offset is None else offset, (dim,))
        covariance = _parameter("covariance", torch.eye(dim) if covariance is None else covariance, (dim, dim))
        root, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed) or not torch.allclose(covariance, covariance.T, rtol=1e-4):
            raise ValueError(f"Expected covariance as a symmetric, positive definite matrix; got {covariance}.")
        self.matrix, self.offset = nn.Parameter(matrix), nn.Parameter(offset)
        self.log_diagonal = nn.Parameter(root.diagonal().log())
        self.lower = nn.Parameter(root.tril(-1)[tuple(torch.tril_indices(dim, dim, -1))])
        self.register_buffer("initialised_flag", torch.tensor(given))

    @property
    def initialised(self) -> bool:
        """Whether the covariance was given or set from data."""
        return bool(self.initialised_flag)

    @property
    def covariance(self) -> Float[Tensor, "D D"]:
        """Sigma, in units of z squared."""
        root = self._root()
        return root @ root.T

    def extra_repr(self) -> str:
        """The width, and the variance of each dimension's noise or what will set it."""
        if not self.initialised:
            return shown(not_initialised("covariance"), dim=len(self.offset))
        return shown(dim=len(self.offset), variances=self.covariance.diagonal())

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D"]) -> None:
        """Sigma = theta^2 I by the median heuristic; once.

        Raises:
            ValueError: Fewer than two rows, or the median distance is zero.
        """
        if self.initialised:
            return
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        self.log_diagonal.copy_(median_distance(z, z_prime, per_dimension=False).log().expand_as(self.log_diagonal))
        self.initialised_flag.fill_(True)

    def _root(self) -> Tensor:
        dim = len(self.offset)
        rows, columns = torch.tril_indices(dim, dim, -1, device=self.lower.device)
        return torch.diag(self.log_diagonal.exp()).index_put((rows, columns), self.lower)

    def _whitening(self) -> Tensor:
        """W with W Sigma W^T = I."""
        eye = torch.eye(len(self.offset), dtype=self.offset.dtype, device=self.offset.device)
        return torch.linalg.solve_triangular(self._root(), eye, upper=False)

    def _check_widths(self, width: int, width_prime: int) -> None:
        dim = len(self.offset)
        if (width, width_prime) != (dim, dim):
            raise ValueError(
                f"Expected z and z_prime of width {dim} for this LinearDynamics; got {width} and {width_prime}."
            )

    def _log_normaliser(self) -> Tensor:
        return -self.log_diagonal.sum() - 0.5 * len(self.offset) * math.log(2 * math.pi)

    def _mean(self, z: Tensor) -> Tensor:
        """A z + b."""
        return z @ self.matrix.to(z.dtype).T + self.offset.to(z.dtype)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        # In single precision A z has the digits of its offset, and the noise may be far below.
        noise = (as_double(z_prime) - self._mean(as_double(z))).to(torch.promote_types(z.dtype, z_prime.dtype))
        return WhitenedDistance.of(noise, self._whitening().to(noise.dtype)) + self._log_normaliser()

    def score(self) -> Score:
        """The squared distance of z' from A z + b, whitened by Sigma, and the normaliser."""
        return MappedSides(WhitenedDistance(self._whitening()), rows=self._mean, constant=self._log_normaliser())

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """log N(z'; A z + b, Sigma)."""
        return f"log N({z_prime}; A {context[-1]} + b, Sigma)"


class Switching(Coupling):
    """A mixture of regimes: at each step one of several dynamics holds.

        log f(z, z') = log sum_k pi_k f_k(z, z')

    Weights compare the f_k, so these should be densities of z', as `LinearDynamics` and `VonMisesFisher` are: of an
    f_k without its normaliser, pi_k is no probability. Which regime holds is drawn anew at each step.

    Args:
        couplings: The f_k, at least two; of different orders, each reads the latest latents.
        weights: Initial pi, positive, normalised here; None means equal. Learned as logits.

    Raises:
        ValueError: Fewer than two couplings, or weights that do not fit them.
    """

    def __init__(self, couplings: Sequence[Coupling], *, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        parts = as_couplings(couplings)
        if len(parts) < 2:
            raise ValueError(f"Expected at least two couplings to switch between; got {len(parts)}.")
        initial = [1.0] * len(parts) if weights is None else list(weights)
        if len(initial) != len(parts) or not all(math.isfinite(w) and w > 0 for w in initial):
            raise ValueError(f"Expected {len(parts)} positive weights, one per coupling; got {weights!r}.")
        self.couplings = nn.ModuleList(parts)
        self.logits = nn.Parameter((torch.tensor(initial) / sum(initial)).log())

    @property
    def parts(self) -> list[Coupling]:
        """The f_k."""
        return [part for part in self.couplings if isinstance(part, Coupling)]

    @property
    def weights(self) -> Float[Tensor, " K"]:
        """pi, summing to one."""
        return self._log_weights().exp()

    def extra_repr(self) -> str:
        """The weights."""
        return shown(weights=self.weights)

    def _log_weights(self) -> Tensor:
        return self.logits.log_softmax(0)

    @property
    def order(self) -> int:
        """The largest of the parts'."""
        return max(part.order for part in self.parts)

    @property
    def initialised(self) -> bool:
        """Whether every part is."""
        return all(part.initialised for part in self.parts)

    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Initialise every part."""
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        for part in self.parts:
            part.initialise(latest(part.order, self.order)(z), z_prime)

    def _check_widths(self, width: int, width_prime: int) -> None:
        for part in self.parts:
            part.check_widths(width // self.order * part.order, width_prime)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        parts = [part(latest(part.order, self.order)(z), z_prime) for part in self.parts]
        return (torch.stack(parts, -1) + self._log_weights()).logsumexp(-1)

    def score(self) -> Score:
        """The same on blocks."""
        return BlockScore(self.on_pairs)

    def expression(self, context: Sequence[str], z_prime: str) -> str:
        """log(pi_1 exp[...] + ...)."""
        terms = [
            f"{number(weight)} exp[{part.expression(context, z_prime)}]"
            for weight, part in zip(self.weights, self.parts, strict=True)
        ]
        return f"log({' + '.join(terms)})"


def _parameter(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A copy of an initial value; ValueError unless it is finite and of that shape."""
    check_tensor(name, value)
    if value.shape != shape or not value.is_floating_point():
        raise ValueError(f"Expected {name} of shape {shape}, floating-point; got {tuple(value.shape)}, {value.dtype}.")
    check_finite(name, value)
    return at_least_single(value).detach().clone()
