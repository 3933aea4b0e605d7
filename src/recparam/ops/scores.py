"""Pairwise scores: what the kernel is told about a coupling or a density, in tensors alone.

A score maps rows `z` of shape (A, D) and columns `bank` of shape (M, E) to a block (A, M) in nats; calling
it is always right. A score that is a matrix product of features of either side says so by `features`, and the
kernel then never calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Score(Protocol):
    """Anything that turns a block of rows and a block of columns into a matrix of scores."""

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column, in nats."""
        ...


class Features(NamedTuple):
    """A score as a matrix product: s_ij = rows_i . columns_j + row_bias_i + column_bias_j.

    Args:
        rows: Shape (A, F).
        columns: Shape (M, F).
        row_bias: Shape (A,), or None for zero.
        column_bias: Shape (M,), or None for zero.
        largest: A bound on |rows_i . columns_j|, where it is known.
    """

    rows: Tensor
    columns: Tensor
    row_bias: Tensor | None = None
    column_bias: Tensor | None = None
    largest: float | None = None


@runtime_checkable
class ProductScore(Score, Protocol):
    """A score that is a matrix product of features."""

    tolerated: float
    """Largest magnitude of the product's terms, in nats, at which single precision is good enough."""

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features | None:
        """Both sides' features, differentiable; None if the score is no such product after all."""
        ...


def features_of(score: Score, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features | None:
    """The score's features, or None if it has none."""
    # Not isinstance, which for a protocol takes longer than a small batch's arithmetic.
    features = getattr(score, "features", None)
    return None if features is None else features(z, bank)


def tolerated_in(score: Score, dtype: torch.dtype) -> float:
    """Largest magnitude of the product's terms, in nats, at which a precision is good enough; zero for other scores."""
    tolerated: float = getattr(score, "tolerated", 0.0)
    return tolerated * (_DOUBLE if dtype == torch.float64 else 1)


_DOUBLE = 2.0**29  # how many times more magnitude double precision holds than single, at the same error
_DISTANCE = 100.0  # a squared distance is small where its terms are large: rounding stays under 6e-6 nats
_DOT = 1e4  # a dot product of this size loses 5e-4 nats in single precision however it is formed
_CENTRED = 100.0  # nats; below this the bank is left where it is


@dataclass(frozen=True)
class DotProduct:
    """Scores `scale * z^T weight z'`, of unit vectors if `normalise`.

    Args:
        weight: Matrix (D, E), or None for the identity.
        scale: Scalar factor, or None for one.
        normalise: Divide both sides by their Euclidean norm first (a zero vector stays zero).
    """

    weight: Tensor | None = None
    scale: Tensor | None = None
    normalise: bool = False
    tolerated = _DOT

    def _sides(self, z: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        wanted = bank.shape[1:] * 2 if self.weight is None else self.weight.shape
        check_sides(z, bank, wanted)
        if self.normalise:
            z, bank = torch.nn.functional.normalize(z, dim=-1), torch.nn.functional.normalize(bank, dim=-1)
        if self.weight is not None:
            z = z @ self.weight.to(z.dtype)
        if self.scale is not None:
            z = z * self.scale.to(z.dtype)
        return z, bank

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        z, bank = self._sides(z, bank)
        return z @ bank.T

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features:
        """Both sides as they are; a bank far from the origin is centred, which moves z . centre into the row's bias."""
        z, bank = self._sides(z, bank)
        with torch.no_grad():
            # Norms of the whole first, which are quicker than the largest of a row's and often small enough.
            centre, size = bank.mean(0), torch.linalg.vector_norm(z)
            largest = float(size * torch.linalg.vector_norm(bank))
            known = largest if largest <= self.tolerated else None
            length = float(centre.norm())
            if not length * float(size) > _CENTRED or not length * float(largest_norm(z)) > _CENTRED:
                return Features(z, bank, largest=known)
            far = length > 0.5 * float((bank - centre).square().mean().mul(bank.shape[1]).sqrt())
        return Features(z, bank - centre, row_bias=z @ centre) if far else Features(z, bank, largest=known)


@dataclass(frozen=True)
class SquaredDistance:
    """Scores `-1/2 sum_d ((z_d - z'_d) / lengthscale_d)^2`.

    Calling it takes the differences directly. Its features expand the square around the bank's centre, which
    errs in single precision as the square of range over lengthscale; the kernel computes that number first.

    Args:
        lengthscale: Scalar or (D,), in units of z.
    """

    lengthscale: Tensor
    tolerated = _DISTANCE

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        check_sides(z, bank, (bank.shape[1], bank.shape[1]))
        difference_AMD = (z[:, None, :] - bank[None, :, :]) / self.lengthscale
        return -0.5 * difference_AMD.square().sum(-1)

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features:
        """The scaled latents around the bank's centre, and minus half their squared norms."""
        check_sides(z, bank, (bank.shape[1], bank.shape[1]))
        centre, per_scale = bank.detach().mean(0), 1 / self.lengthscale.to(z.dtype)
        rows, columns = (z - centre) * per_scale, (bank - centre) * per_scale
        return Features(rows, columns, -0.5 * rows.square().sum(-1), -0.5 * columns.square().sum(-1))


@dataclass(frozen=True)
class GaussianDensity:
    """Scores log N(z; mean_m, diag scale_m^2), one component per column; columns hold (mean, scale)."""

    tolerated = _DISTANCE

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Log-density of every row under every component."""
        check_sides(z, bank, (bank.shape[1] // 2, 2 * z.shape[1]))
        mean_MD, scale_MD = bank.chunk(2, dim=-1)
        standard_AMD = (z[:, None, :] - mean_MD[None]) / scale_MD[None]
        return -0.5 * standard_AMD.square().sum(-1) - _log_normaliser(scale_MD)

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features:
        """z and its square against mean and -1/2, both over the variance, around the centre of the means."""
        check_sides(z, bank, (bank.shape[1] // 2, 2 * z.shape[1]))
        mean_MD, scale_MD = bank.chunk(2, dim=-1)
        centre = mean_MD.detach().mean(0)
        z, mean_MD, precision_MD = z - centre, mean_MD - centre, scale_MD.square().reciprocal()
        shift_MD = mean_MD * precision_MD
        bias = -0.5 * (mean_MD * shift_MD).sum(-1) - _log_normaliser(scale_MD)
        return Features(torch.cat([z, z.square()], -1), torch.cat([shift_MD, -0.5 * precision_MD], -1), None, bias)


@dataclass(frozen=True)
class IntegratedDotProduct:
    """Scores log E[exp(z^T weight z')], z' ~ N(mean_m, diag scale_m^2), by column; columns hold (mean, scale).

        z^T weight mean_m + 1/2 sum_e ((weight^T z)_e scale_me)^2

    Args:
        weight: Matrix (D, E).
    """

    weight: Tensor
    tolerated = _DOT

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        return DotProduct()(*self._sides(z, bank))

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features:
        """weight^T z and its square against the mean and half the variance."""
        return DotProduct().features(*self._sides(z, bank))

    def _sides(self, z: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
        check_sides(z, bank, (self.weight.shape[0], 2 * self.weight.shape[1]))
        z = z @ self.weight.to(z.dtype)
        mean, scale = bank.chunk(2, dim=-1)
        return torch.cat([z, z.square()], -1), torch.cat([mean, 0.5 * scale.square()], -1)


@dataclass(frozen=True)
class IntegratedDistance:
    """Scores log E[exp SquaredDistance(z, z')], z' ~ N(mean_m, diag scale_m^2), by column; columns hold (mean, scale).

        -1/2 sum_d [ (z_d - mean_md)^2 / (lengthscale_d^2 + scale_md^2) + log(1 + scale_md^2 / lengthscale_d^2) ]

    Args:
        lengthscale: Scalar or (D,), in units of z.
    """

    lengthscale: Tensor
    tolerated = _DISTANCE

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        components, log_volume = self._components(bank)
        return GaussianDensity()(z, components) + log_volume

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features:
        """Those of a Gaussian density as wide as f and the column together."""
        components, log_volume = self._components(bank)
        rows, columns, _, bias, _ = GaussianDensity().features(z, components)
        return Features(rows, columns, None, log_volume if bias is None else bias + log_volume)

    def _components(self, bank: Tensor) -> tuple[Tensor, Tensor]:
        """The columns as Gaussians of variance lengthscale^2 + scale^2, and log of the integral of f, a scalar."""
        mean, scale = bank.chunk(2, dim=-1)
        length = self.lengthscale.to(scale.dtype).expand(scale.shape[-1:])
        return torch.cat([mean, torch.hypot(length.expand_as(scale), scale)], -1), _log_normaliser(length)


@dataclass(frozen=True)
class BlockScore:
    """Scores any callable on blocks; a wrong output shape is an error.

    Args:
        function: Maps (A, D) and (M, E) to (A, M), each row and column alone: it is called on blocks.
    """

    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        block = self.function(z, bank)
        if not isinstance(block, Tensor) or block.shape != (z.shape[0], bank.shape[0]):
            got = tuple(block.shape) if isinstance(block, Tensor) else type(block).__name__
            raise ValueError(f"Expected the score to return shape ({z.shape[0]}, {bank.shape[0]}); got {got}.")
        return block


@dataclass(frozen=True)
class OnColumns:
    """Applies a score to chosen entries of each side.

    Args:
        score: The score of the chosen entries.
        rows: Indices or slice into the last axis of `z`.
        columns: Indices or slice into the last axis of `bank`.
    """

    score: Score
    rows: list[int] | slice
    columns: list[int] | slice

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        return self.score(z[:, self.rows], bank[:, self.columns])

    @property
    def tolerated(self) -> float:
        """That of the inner score."""
        return tolerated_in(self.score, torch.float32)

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features | None:
        """The inner score's features of the chosen entries."""
        if not isinstance(self.score, ProductScore):
            return None
        return self.score.features(z[:, self.rows], bank[:, self.columns])


@dataclass(frozen=True)
class MappedSides:
    """Applies a score to functions of either side, plus a constant.

    Args:
        score: The score of what the functions return.
        rows: Maps z (A, D) to (A, D2), row by row; None leaves it.
        columns: Maps the bank (M, E) to (M, E2), row by row; None leaves it.
        constant: A scalar in nats, or None for zero.
    """

    score: Score
    rows: Callable[[Tensor], Tensor] | None = None
    columns: Callable[[Tensor], Tensor] | None = None
    constant: Tensor | None = None

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        z, bank = self._of_rows(z), self._of_columns(bank)
        block = self.score(z, bank)
        return block if self.constant is None else block + self.constant.to(block.dtype)

    @property
    def tolerated(self) -> float:
        """That of the inner score."""
        return tolerated_in(self.score, torch.float32)

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features | None:
        """The inner score's features of what the functions return."""
        if not isinstance(self.score, ProductScore):
            return None
        found = self.score.features(self._of_rows(z), self._of_columns(bank))
        if found is None or self.constant is None:
            return found
        constant = self.constant.to(found.rows.dtype)
        bias = constant.expand(len(z)) if found.row_bias is None else found.row_bias + constant
        return found._replace(row_bias=bias)

    def _of_rows(self, z: Tensor) -> Tensor:
        return z if self.rows is None else self.rows(z)

    def _of_columns(self, bank: Tensor) -> Tensor:
        return bank if self.columns is None else self.columns(bank)


@dataclass(frozen=True)
class Exchanged:
    """A score with its sides exchanged: rows are what the inner score takes as columns.

    Args:
        score: The inner score.
    """

    score: Score

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        return self.score(bank, z).T

    @property
    def tolerated(self) -> float:
        """Half of the inner score's, which expands around a centre of what are here the rows."""
        return tolerated_in(self.score, torch.float32) / 2

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features | None:
        """The inner score's features, exchanged."""
        found = self.score.features(bank, z) if isinstance(self.score, ProductScore) else None
        if found is None:
            return None
        return Features(found.columns, found.rows, found.column_bias, found.row_bias, found.largest)


@dataclass(frozen=True)
class SumOfScores:
    """Adds scores of the same rows and columns."""

    scores: Sequence[Score]

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score every row against every column."""
        total = self.scores[0](z, bank)
        for score in self.scores[1:]:
            total = total + score(z, bank)
        return total

    @property
    def tolerated(self) -> float:
        """The least of the parts'."""
        return min(tolerated_in(score, torch.float32) for score in self.scores)

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features | None:
        """The parts' features side by side."""
        parts = [score.features(z, bank) if isinstance(score, ProductScore) else None for score in self.scores]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        biases = [[bias for bias in side if bias is not None] for side in zip(*(p[2:4] for p in known), strict=True)]
        row_bias, column_bias = (torch.stack(side).sum(0) if side else None for side in biases)
        rows, columns = torch.cat([p.rows for p in known], -1), torch.cat([p.columns for p in known], -1)
        return Features(rows, columns, row_bias, column_bias)


def largest_norm(values: Float[Tensor, "N D"]) -> Tensor:
    """The largest Euclidean norm of a row, without a copy of the whole."""
    return torch.linalg.vector_norm(values, dim=-1).max()


def check_sides(z: Tensor, bank: Tensor, wanted: Sequence[int]) -> None:
    """Raise ValueError unless z and bank have these widths."""
    if [z.shape[1], bank.shape[1]] != list(wanted):
        raise ValueError(
            f"Expected z and bank of widths {wanted[0]} and {wanted[1]} for this score; got {z.shape[1]} and "
            f"{bank.shape[1]}."
        )


def _log_normaliser(scale_MD: Tensor) -> Tensor:
    return scale_MD.log().sum(-1) + 0.5 * scale_MD.shape[-1] * torch.log(scale_MD.new_tensor(2 * torch.pi))
