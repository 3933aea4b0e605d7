"""Couplings f_theta(z, z'): how strongly the prior ties one latent to the next, as log f in nats.

A coupling needs no normaliser (Z takes care of that) and no density; `score` describes it to the kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.ops import DotProduct, OnColumns, Score, SquaredDistance, SumOfScores
from recparam.ops.checks import check_count, check_finite, check_positive, check_tensor, explain_dtype

_MEDIAN_ROWS = 1024  # rows used for the median heuristic: enough for two digits, never a large matrix


class Coupling(nn.Module, ABC):
    """log f_theta(z, z') for latents of shape (..., D) and (..., D'), broadcast over the leading axes."""

    @abstractmethod
    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        """log f of broadcast latents, shape (...)."""

    @abstractmethod
    def score(self) -> Score:
        """The same log f as a pairwise score for the kernel."""

    @abstractmethod
    def _check_widths(self, width: int, width_prime: int) -> None:
        """Raise ValueError if latents of these widths cannot be coupled."""

    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Set what is to be learned from the data, once; a no-op where nothing is (or it is set already)."""

    @property
    def initialised(self) -> bool:
        """Whether every data-driven starting value is set."""
        return True

    def check_initialised(self) -> None:
        """Raise ValueError if a data-driven starting value is not set, where there are no pairs to set it from."""
        if not self.initialised:
            raise ValueError(
                "Expected a coupling whose lengthscale is set; got one that waits for data. Call "
                "model.initialise(x, x_prime) first, or give lengthscale=."
            )

    def check_widths(self, width: int, width_prime: int) -> None:
        """Raise ValueError if latents of these widths cannot be coupled; names both widths."""
        self._check_widths(width, width_prime)

    def forward(self, z: Float[Tensor, "*batch D"], z_prime: Float[Tensor, "*batch2 D2"]) -> Tensor:
        """log f(z, z').

        Args:
            z: Shape (..., D).
            z_prime: Shape (..., D'), broadcastable with z.

        Returns:
            Shape (...), in nats.

        Raises:
            ValueError: The widths or dtypes do not fit, or a data-driven lengthscale cannot be set from one row.
        """
        check_tensor("z", z)
        check_tensor("z_prime", z_prime)
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        if not self.initialised:
            self.initialise(z.reshape(-1, z.shape[-1]), z_prime.reshape(-1, z_prime.shape[-1]))
        try:
            return self._log_f(z, z_prime)
        except RuntimeError as error:
            explain_dtype(error, "z", z, self)
            explain_dtype(error, "z_prime", z_prime, self)
            raise

    def __add__(self, other: Coupling) -> CouplingSum:
        """log f of a product of couplings."""
        if not isinstance(other, Coupling):
            return NotImplemented
        return CouplingSum([self, other])


class Bilinear(Coupling):
    """The usual InfoNCE coupling.

    Equation: 8

        log f(z, z') = z^T theta z'

    Args:
        dim: Width D of z.
        dim_prime: Width D' of z'; None means D.
        theta: Initial matrix (D, D'); None means the identity.

    Raises:
        ValueError: A width below one, or a theta of another shape, not floating-point or not finite.
    """

    def __init__(self, dim: int, dim_prime: int | None = None, *, theta: Float[Tensor, "D D2"] | None = None) -> None:
        super().__init__()
        dim_prime = dim if dim_prime is None else dim_prime
        check_count("dim", dim)
        check_count("dim_prime", dim_prime)
        if theta is None:
            theta = torch.eye(dim, dim_prime)
        check_tensor("theta", theta)
        if not theta.is_floating_point():
            raise ValueError(f"Expected floating-point values in theta; got {theta.dtype}. Use theta.float().")
        check_finite("theta", theta)
        if theta.shape != (dim, dim_prime):
            raise ValueError(f"Expected theta of shape ({dim}, {dim_prime}); got {tuple(theta.shape)}.")
        self.theta = nn.Parameter(theta.detach().clone())

    def _check_widths(self, width: int, width_prime: int) -> None:
        if (width, width_prime) != tuple(self.theta.shape):
            raise ValueError(
                f"Expected z and z_prime of widths {tuple(self.theta.shape)} for this Bilinear coupling; "
                f"got {width} and {width_prime}."
            )

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return ((z @ self.theta) * z_prime).sum(-1)

    def score(self) -> Score:
        """The dot product with theta between."""
        return DotProduct(weight=self.theta)


class GaussianRBF(Coupling):
    """The Gaussian coupling: z' is likely to be near z.

    Equation: 27

        log f(z, z') = -1/2 sum_d (z_d - z'_d)^2 / theta_d^2

    The lengthscale theta is learned through its logarithm. Without a value it starts at the median distance
    between latents of different observations, so that the scale of z does not matter.

    Args:
        lengthscale: Starting value in units of z, positive: a float, or (D,) for one per dimension. None:
            set from the data by `initialise`, or by the first batch seen.
        dim: With `lengthscale=None`, the width D for one lengthscale per dimension; None means one for all.

    Raises:
        ValueError: A lengthscale that is not positive and finite, or latents of different widths.
    """

    initialised_flag: Tensor

    def __init__(self, lengthscale: float | Float[Tensor, " D"] | None = None, *, dim: int | None = None) -> None:
        super().__init__()
        if dim is not None:
            check_count("dim", dim)
        given = lengthscale is not None
        try:
            value = torch.as_tensor(lengthscale if given else 1.0, dtype=torch.get_default_dtype()).detach().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"Expected lengthscale > 0 and finite, a float or a vector (D,); got {lengthscale!r}."
            ) from error
        if value.ndim > 1 or not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"Expected lengthscale > 0 and finite, a float or a vector (D,); got {lengthscale}.")
        if dim is not None:
            if value.ndim == 1 and value.shape[0] != dim:
                raise ValueError(f"Expected lengthscale of shape ({dim},) for dim={dim}; got {tuple(value.shape)}.")
            value = value.expand(dim)
        self.log_lengthscale = nn.Parameter(value.log().clone())
        self.register_buffer("initialised_flag", torch.tensor(given))

    @property
    def lengthscale(self) -> Tensor:
        """theta, in units of z; scalar or (D,)."""
        return self.log_lengthscale.exp()

    @property
    def initialised(self) -> bool:
        """Whether the lengthscale was given or set from data."""
        return bool(self.initialised_flag)

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Median heuristic: theta = median distance between z_i and z'_j, i != j; once.

        Per dimension it is the median absolute difference times sqrt(D), so that both versions give scores of
        the same size.

        Args:
            z: Shape (B, D), B >= 2.
            z_prime: Shape (B, D).

        Raises:
            ValueError: Fewer than two rows, or the median distance is zero.
        """
        if self.initialised:
            return
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        rows = min(z.shape[0], z_prime.shape[0])
        if rows < 2:
            raise ValueError(
                f"Expected at least 2 rows to set the lengthscale from data; got {rows}. Give lengthscale=."
            )
        step = max(1, rows // _MEDIAN_ROWS)
        z, z_prime = z[:rows:step][:_MEDIAN_ROWS], z_prime[:rows:step][:_MEDIAN_ROWS]
        other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        if self.log_lengthscale.ndim == 0:
            # |d|^2 of standardised differences by columns: no (B, B, D) block, no loss at large offsets
            squared = sum((z[:, None, d] - z_prime[None, :, d]).square() for d in range(z.shape[1]))
            value = torch.as_tensor(squared)[other].sqrt().median()
        else:
            columns = [(z[:, None, d] - z_prime[None, :, d])[other].abs().median() for d in range(z.shape[1])]
            value = torch.stack(columns) * z.shape[1] ** 0.5
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(
                f"Expected latents that differ between observations, to set the lengthscale; got a median distance of "
                f"{value.tolist()}. Check the encoder, or give lengthscale=."
            )
        self.log_lengthscale.copy_(value.log())
        self.initialised_flag.fill_(True)

    def _check_widths(self, width: int, width_prime: int) -> None:
        if width != width_prime:
            raise ValueError(f"Expected z and z_prime of the same width; got {width} and {width_prime}.")
        if self.log_lengthscale.ndim and self.log_lengthscale.shape[0] != width:
            raise ValueError(
                f"Expected latents of width {self.log_lengthscale.shape[0]}, one per lengthscale; got {width}."
            )

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return -0.5 * ((z - z_prime) / self.lengthscale).square().sum(-1)

    def score(self) -> Score:
        """The scaled squared distance."""
        return SquaredDistance(lengthscale=self.lengthscale)


class Cosine(Coupling):
    """Cosine similarity over a learned temperature, as on a hypersphere.

        log f(z, z') = (z / |z|) . (z' / |z'|) / tau

    Args:
        temperature: Starting tau, positive; learned through its logarithm.

    Raises:
        ValueError: temperature is not positive and finite.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    @property
    def temperature(self) -> Tensor:
        """tau, a scalar."""
        return self.log_temperature.exp()

    def _check_widths(self, width: int, width_prime: int) -> None:
        if width != width_prime:
            raise ValueError(f"Expected z and z_prime of the same width; got {width} and {width_prime}.")

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        # not cosine_similarity, whose guard against zero norms is another than the score's
        unit, unit_prime = nn.functional.normalize(z, dim=-1), nn.functional.normalize(z_prime, dim=-1)
        return (unit * unit_prime).sum(-1) / self.temperature

    def score(self) -> Score:
        """The dot product of unit vectors over tau."""
        return DotProduct(scale=1 / self.temperature, normalise=True)


class OnDimensions(Coupling):
    """A coupling of chosen dimensions only; the others are left independent.

    Args:
        coupling: The coupling of the chosen dimensions.
        dims: Indices into z.
        dims_prime: Indices into z'; None means `dims`.

    Raises:
        ValueError: No coupling, empty, repeated or negative indices, or latents too narrow for them.
    """

    def __init__(self, coupling: Coupling, dims: Sequence[int], *, dims_prime: Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(coupling, Coupling):
            raise ValueError(f"Expected coupling as a recparam Coupling, such as rp.Cosine(); got {coupling!r}.")
        self.coupling = coupling
        self.dims = _indices("dims", dims)
        self.dims_prime = _indices("dims_prime", dims if dims_prime is None else dims_prime)

    @property
    def initialised(self) -> bool:
        """Whether the inner coupling is."""
        return self.coupling.initialised

    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Initialise the inner coupling from the chosen dimensions."""
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        self.coupling.initialise(z[..., self.dims], z_prime[..., self.dims_prime])

    def _check_widths(self, width: int, width_prime: int) -> None:
        if max(self.dims) >= width or max(self.dims_prime) >= width_prime:
            raise ValueError(
                f"Expected latents wide enough for dimensions {self.dims} and {self.dims_prime}; "
                f"got widths {width} and {width_prime}."
            )
        self.coupling.check_widths(len(self.dims), len(self.dims_prime))

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self.coupling(z[..., self.dims], z_prime[..., self.dims_prime])

    def score(self) -> Score:
        """The inner score of the chosen dimensions."""
        return OnColumns(self.coupling.score(), self.dims, self.dims_prime)


class CouplingSum(Coupling):
    """The sum of several log f: a product of couplings, often each on its own dimensions.

    Args:
        couplings: At least one.

    Raises:
        ValueError: No coupling is given, or something else.
    """

    def __init__(self, couplings: Sequence[Coupling]) -> None:
        super().__init__()
        parts = list(couplings) if isinstance(couplings, Iterable) else []
        if not parts or not all(isinstance(part, Coupling) for part in parts):
            raise ValueError(
                f"Expected couplings as a sequence of at least one coupling, such as [rp.Cosine()]; got {couplings!r}."
            )
        self.couplings = nn.ModuleList(parts)

    @property
    def parts(self) -> list[Coupling]:
        """The couplings that are added."""
        return [part for part in self.couplings if isinstance(part, Coupling)]

    @property
    def initialised(self) -> bool:
        """Whether every part is."""
        return all(part.initialised for part in self.parts)

    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Initialise every part."""
        for part in self.parts:
            part.initialise(z, z_prime)

    def _check_widths(self, width: int, width_prime: int) -> None:
        for part in self.parts:
            part.check_widths(width, width_prime)

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return torch.stack([part(z, z_prime) for part in self.parts]).sum(0)

    def score(self) -> Score:
        """The sum of the parts' scores."""
        return SumOfScores([part.score() for part in self.parts])


def _indices(name: str, chosen: Sequence[int]) -> list[int]:
    indices = list(chosen) if isinstance(chosen, Iterable) else []
    whole = all(isinstance(i, Integral) and not isinstance(i, bool) for i in indices)
    if not indices or not whole or min(indices) < 0 or len(set(indices)) != len(indices):
        raise ValueError(f"Expected {name} as distinct indices >= 0, at least one, such as [0, 1]; got {chosen!r}.")
    return indices
