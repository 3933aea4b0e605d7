"""Couplings with a scale: what their lengthscales are, and how a training batch sets them."""

from __future__ import annotations

from abc import ABC

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings.base import Coupling
from recparam.ops.precision import at_least_single
from recparam.utils.checks import check_count
from recparam.utils.shown import number, shown

_MEDIAN_ROWS = 1024  # rows used for the median heuristic: enough for two digits, never a large matrix


class ScaledCoupling(Coupling, ABC):
    """A coupling of differences over a lengthscale, which is learned through its logarithm.

    Without a value it starts at the median distance between latents of different observations, so that the scale of z
    does not matter.

    Args:
        lengthscale: Starting value in units of z, positive: a float, or (D,) for one per dimension. None:
            set from the data by `initialise`, or by the first training batch.
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
        value = positive_values("lengthscale", lengthscale if given else 1.0)
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

    def extra_repr(self) -> str:
        """The lengthscale, or what will set it."""
        if self.initialised:
            return shown(lengthscale=self.lengthscale)
        width = len(self.log_lengthscale) if self.log_lengthscale.ndim else None
        return shown(not_initialised("lengthscale"), dim=width)

    def _norm(self) -> float:
        """p of the distance (sum_d |z_d - z'_d|^p)^(1/p) of which log f is a function."""
        return 2.0

    @torch.no_grad()
    def initialise(self, z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"]) -> None:
        """Median heuristic: theta = median distance between z_i and z'_j, i != j; once.

        Per dimension it is the median absolute difference times sqrt(D) (D^(1/p) where log f is of |z - z'|^p), so
        that both versions give scores of the same size.

        Args:
            z: Shape (B, D), B >= 2.
            z_prime: Shape (B, D).

        Raises:
            ValueError: Fewer than two rows, or the median distance is zero.
        """
        if self.initialised:
            return
        self.check_widths(z.shape[-1], z_prime.shape[-1])
        per_dimension = self.log_lengthscale.ndim > 0
        self.log_lengthscale.copy_(median_distance(z, z_prime, per_dimension=per_dimension, norm=self._norm()).log())
        self.initialised_flag.fill_(True)

    def _check_widths(self, width: int, width_prime: int) -> None:
        check_same_width(width, width_prime)
        if self.log_lengthscale.ndim and self.log_lengthscale.shape[0] != width:
            raise ValueError(
                f"Expected latents of width {self.log_lengthscale.shape[0]}, one per lengthscale; got {width} and "
                f"{width_prime}."
            )

    def _over_scale(self, difference: str, norm: str) -> str:
        """|difference| over the lengthscale, for formulas."""
        if self.log_lengthscale.ndim:
            return f"|({difference}) / {number(self.lengthscale)}|{norm}"
        return f"|{difference}|{norm} / {number(self.lengthscale) if self.initialised else 'theta'}"


def median_distance(
    z: Float[Tensor, "B D"], z_prime: Float[Tensor, "B D2"], *, per_dimension: bool, norm: float = 2.0
) -> Tensor:
    """The median distance between latents of different observations, a scalar or one per dimension.

    Args:
        z: Shape (B, D), B >= 2.
        z_prime: Shape (B, D).
        per_dimension: Whether each dimension has its own, times D^(1 / norm).
        norm: p of the distance.

    Raises:
        ValueError: Fewer than two rows, or a median that is zero.
    """
    z, z_prime = at_least_single(z), at_least_single(z_prime)
    rows = min(z.shape[0], z_prime.shape[0])
    if rows < 2:
        raise ValueError(f"Expected at least 2 rows to set the lengthscale from data; got {rows}. Give lengthscale=.")
    step = max(1, rows // _MEDIAN_ROWS)
    z, z_prime = z[:rows:step][:_MEDIAN_ROWS], z_prime[:rows:step][:_MEDIAN_ROWS]
    other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    if per_dimension:
        columns = [(z[:, None, d] - z_prime[None, :, d])[other].abs().median() for d in range(z.shape[1])]
        value = torch.stack(columns) * z.shape[1] ** (1 / norm)
    else:
        # by columns: no (B, B, D) block, no loss at large offsets
        powers = sum((z[:, None, d] - z_prime[None, :, d]).abs().pow(norm) for d in range(z.shape[1]))
        value = torch.as_tensor(powers)[other].pow(1 / norm).median()
    if not bool((torch.isfinite(value) & (value > 0)).all()):
        raise ValueError(
            f"Expected latents that differ between observations, to set the lengthscale; got a median distance of "
            f"{value.tolist()}. Check the encoder, or give lengthscale=."
        )
    return value


def check_same_width(width: int, width_prime: int) -> None:
    """Raise ValueError unless both sides have one width."""
    if width != width_prime:
        raise ValueError(f"Expected z and z_prime of the same width; got {width} and {width_prime}.")


def positive_values(name: str, value: object) -> Tensor:
    """A positive number or vector as a tensor; ValueError otherwise."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype()).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Expected {name} > 0 and finite, a float or a vector (D,); got {value!r}.") from error
    if tensor.ndim > 1 or not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
        raise ValueError(f"Expected {name} > 0 and finite, a float or a vector (D,); got {value}.")
    return tensor


def not_initialised(name: str) -> str:
    """What a `repr` says of a value that is still to come from data."""
    return f"not initialised: takes its {name} from the first training batch"
