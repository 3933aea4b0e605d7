"""The recognition joint R: its marginals R(z_j), its joint density R(z_1..z_J) and expectations under them.

R is made of encoded observations, the *bank*: the batch being scored (the true-marginal reading of
Appendix A) or a data set (the empirical marginal). A query may be a row of the bank; then its own row is
kept or left out, and which of the two decides the direction of every bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from recparam.ops import OnColumns, Score, SumOfScores, pairwise_logmeanexp
from recparam.ops.checks import check_finite, check_tensor, observation_name
from recparam.recognition import Particles, density_score, enumerable, recognise

Situation = Literal["exact", "exact_sampled", "batch", "independent"]
"""How the bank relates to the queries.

exact: the bank is the whole data set under the empirical base, every expectation a sum; exact_sampled: the
same, with latents drawn rather than enumerated; batch: the bank is the scored batch, a sample of the true
marginal; independent: other data, taken not to hold the queries.
"""


class RecognitionJoint:
    """R(z_1, ..., z_J) as the mixture over a bank of N encoded tuples.

    Args:
        distributions: R_phi(z_j|x_j) for each observation j, batch shape (N,).
        particles: Latents of the bank's rows (S, N, D_j); those of the scored batch itself where the bank is
            the batch, so that a row's own positive is in the bank.
        weights: Weight of each row, shape (N,), summing to one; None means 1/N.
        situation: How the bank relates to the queries.
    """

    def __init__(
        self,
        distributions: Sequence[Distribution],
        particles: Particles,
        *,
        weights: Float[Tensor, " N"] | None = None,
        situation: Situation = "batch",
    ) -> None:
        self.distributions = list(distributions)
        self.situation: Situation = situation
        reference = particles.latents[0]
        self.size = reference.shape[1]
        if weights is None:
            weights = reference.new_full((self.size,), 1 / self.size)
        self.weights = weights
        if particles.exact:
            # One enumeration per latent, not the joint one: the expectation over z_j needs no other latent.
            singles = [recognise([d]) for d in self.distributions]
            self._banks = [(single.latents[0], single.log_weights) for single in singles]
        else:
            flat = torch.zeros_like(particles.log_weights[:1])
            self._banks = [(latents, flat) for latents in particles.latents]
        self._enumerated = particles.exact

    @property
    def entropy(self) -> float:
        """Entropy of the row weights in nats: log N for equal weights; the ceiling of self-included bounds."""
        return float(torch.special.entr(self.weights.detach()).sum())

    def log_marginal(
        self, index: int, z: Float[Tensor, "S A D"], *, own: Int[Tensor, " A"] | None = None, keep_own: bool = True
    ) -> Float[Tensor, "S A"]:
        """log R(z_j), the mixture of the bank's recognition distributions.

        Equation: 11

            R(z) = int dx R_phi(z|x) R_base(x) = sum_i w_i R_phi(z|x_i)

        Args:
            index: Which observation j, from zero.
            z: Queries (S, A, D_j).
            own: The bank row each query came from, shape (A,), or None.
            keep_own: Whether that row's component stays in the mixture.

        Returns:
            Shape (S, A), in nats. See also: Eqs. 29 and 37.

        Raises:
            DensityError: The recognition model is a Dirac.
        """
        score, bank = density_score(self.distributions[index])
        return self._mean(score, z, bank, self.weights.log(), own, keep_own)

    def log_joint(
        self, latents: Sequence[Tensor], *, own: Int[Tensor, " A"] | None = None, keep_own: bool = True
    ) -> Float[Tensor, "S A"]:
        """log R(z_1, ..., z_J), the mixture of products over the bank's tuples.

        Equation: 4

            R(z, z') = int dx dx' R_phi(z|x) R_phi(z'|x') R_base(x, x') = sum_i w_i R(z|x_i) R(z'|x'_i)

        Args:
            latents: Queries, one (S, A, D_j) per observation.
            own: The bank row each query came from, shape (A,), or None.
            keep_own: Whether that row's component stays in the mixture.

        Returns:
            Shape (S, A), in nats.

        Raises:
            DensityError: A recognition model is a Dirac.
        """
        parts: list[Score] = []
        banks: list[Tensor] = []
        row = column = 0
        for z, distribution in zip(latents, self.distributions, strict=True):
            score, bank = density_score(distribution)
            rows, columns = slice(row, row + z.shape[-1]), slice(column, column + bank.shape[-1])
            parts.append(OnColumns(score, rows, columns))
            banks.append(bank)
            row, column = rows.stop, columns.stop
        joined = torch.cat(list(latents), dim=-1)
        return self._mean(SumOfScores(parts), joined, torch.cat(banks, dim=-1), self.weights.log(), own, keep_own)

    def log_expectation(
        self,
        index: int,
        score: Score,
        z: Float[Tensor, "S A D"],
        *,
        own: Int[Tensor, " A"] | None = None,
        keep_own: bool = True,
        half: Literal[0, 1] | None = None,
    ) -> Float[Tensor, "S A"]:
        """log E_{R(z_j)}[exp score(z, z_j)] over the bank's latents. See also: Eq. 22.

        Args:
            index: Which observation j the expectation is over.
            score: Pairwise score in nats.
            z: Queries (S, A, D).
            own: The bank row each query came from, shape (A,), or None.
            keep_own: Whether that row's latents stay in.
            half: 0 or 1 uses the even or the odd rows of the bank alone, so that the two are independent.

        Returns:
            Shape (S, A), in nats.

        Raises:
            ValueError: A query has no bank row left.
        """
        latents, log_mass = self._banks[index]
        owner = torch.arange(self.size, device=latents.device)
        if half is not None:
            if self.size < 4:
                raise ValueError(
                    f"Expected a bank of at least 4 observations for side='lower', which splits it; got {self.size}."
                )
            owner = owner[half::2]
            latents, log_mass = latents[:, half::2], log_mass[:, half::2]
        log_weights = log_mass + self.weights.log()[owner]
        if self._enumerated:
            count = latents.shape[0]
            return self._mean(
                score, z, latents.flatten(0, 1), log_weights.flatten(), own, keep_own, owner.repeat(count)
            )
        # Sampled: replicate s of the queries meets replicate s of the bank, so each is a plain InfoNCE batch.
        rows = [
            self._mean(score, z[s : s + 1], latents[s % latents.shape[0]], log_weights[0], own, keep_own, owner)
            for s in range(z.shape[0])
        ]
        return torch.cat(rows)

    def _mean(
        self,
        score: Score,
        z: Float[Tensor, "S A D"],
        bank: Float[Tensor, "M E"],
        log_weights: Float[Tensor, " M"],
        own: Int[Tensor, " A"] | None,
        keep_own: bool,
        owner: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "S A"]:
        row_owner = None if own is None or keep_own else own.repeat(z.shape[0])
        if row_owner is not None and owner is None:
            owner = torch.arange(self.size, device=bank.device)
        out = pairwise_logmeanexp(
            score,
            z.flatten(0, 1),
            bank,
            log_weights=log_weights,
            row_owner=row_owner,
            bank_owner=None if row_owner is None else owner,
        )
        return out.reshape(z.shape[:2])


@dataclass(frozen=True)
class Recognised:
    """What a bound is computed from: latents of the scored rows, the joint R, and who is who.

    Args:
        particles: Latents of the scored rows (S, B, D_j).
        joint: R.
        own: The bank row of each scored row, or None where the bank does not hold them.
        weights: Weight of each scored row in averages, shape (B,), summing to one.
        redraw: A second joint with independent latents, where latents are sampled under the empirical base.
    """

    particles: Particles
    joint: RecognitionJoint
    own: Tensor | None
    weights: Tensor
    redraw: RecognitionJoint | None = None


Encode = Callable[..., list[Distribution]]


class Marginal(ABC):
    """Where R's bank comes from."""

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError if the scored rows do not go with the bank; `RPM` asks before it encodes anything."""
        if rows is not None:
            check_tensor("rows", rows)

    @abstractmethod
    def recognised(
        self,
        observations: Sequence[Tensor],
        distributions: Sequence[Distribution],
        particles: Particles,
        *,
        encode: Encode,
        weights: Tensor,
        rows: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Recognised:
        """Put the scored rows beside their bank."""


class BatchMarginal(Marginal):
    """The bank is the batch being scored: an estimate of the true marginal from a sample of it (App. A.2)."""

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError for a batch of one (it has no negative), or if `rows` are given."""
        size = observations[0].shape[0]
        if rows is not None:
            raise ValueError("Expected rows=None with BatchMarginal; rows index the data set of a DatasetMarginal.")
        if size < 2:
            raise ValueError(f"Expected a batch of at least 2 observations (one has no negative); got {size}.")

    def recognised(
        self,
        observations: Sequence[Tensor],
        distributions: Sequence[Distribution],
        particles: Particles,
        *,
        encode: Encode,
        weights: Tensor,
        rows: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Recognised:
        """Use the batch as its own bank.

        Raises:
            ValueError: A batch of one (it has no negative), or `rows` given.
        """
        self.check(observations, rows)
        joint = RecognitionJoint(distributions, particles, weights=weights, situation="batch")
        own = torch.arange(len(observations[0]), device=particles.log_weights.device)
        return Recognised(particles, joint, own, weights)


class DatasetMarginal(Marginal):
    """The bank is a whole data set, encoded afresh at each call: the empirical marginal (App. A.1).

    Scoring rows of that data set gives exact values under the empirical base. Rows are recognised when the
    scored tensors are the data set's own, or named by `rows=`. The value of other observations is an estimate;
    where the caller knows that the data set does not hold them, `side="upper"` makes it an upper bound
    (see docs/theory.md).

    Args:
        observations: One tensor (N, ...) per observation.
        weights: Weight of each row, shape (N,), not negative; normalised here. None means 1/N.

    Raises:
        NonFiniteError: An observation holds NaN or infinity.
        ValueError: Fewer than two observations or rows, different numbers of rows, no tensors, or bad weights.
    """

    def __init__(self, *observations: Tensor, weights: Float[Tensor, " N"] | None = None) -> None:
        if len(observations) < 2:
            raise ValueError(f"Expected at least two observations (x, x_prime); got {len(observations)}.")
        for j, x in enumerate(observations):
            check_tensor(f"{observation_name(j)} of the DatasetMarginal", x)
        sizes = [x.shape[0] if x.ndim else 0 for x in observations]
        if len(set(sizes)) > 1 or sizes[0] < 2:
            raise ValueError(f"Expected observations with the same number of rows, at least 2; got {sizes}.")
        for j, x in enumerate(observations):
            check_finite(f"{observation_name(j)} of the DatasetMarginal", x)
        self.observations = observations
        self.weights = None if weights is None else normalised_weights(weights, sizes[0])

    def check(self, observations: Sequence[Tensor], rows: Tensor | None) -> None:
        """Raise ValueError unless there are as many observations, and `rows` are where the data set holds them."""
        data, size = self.observations, len(self.observations[0])
        if len(data) != len(observations):
            raise ValueError(f"Expected {len(data)} observations, as in the DatasetMarginal; got {len(observations)}.")
        super().check(observations, rows)
        if rows is None:
            return
        whole = not (rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool)
        inside = whole and rows.shape == (len(observations[0]),)
        if not inside or int(rows.min()) < 0 or int(rows.max()) >= size:
            raise ValueError(
                f"Expected rows as {len(observations[0])} indices from 0 to {size - 1}, one per scored "
                f"observation; got {rows.dtype} of shape {tuple(rows.shape)}."
            )
        for j, (held, scored) in enumerate(zip(data, observations, strict=True)):
            if not _same(held[rows.to(held.device, torch.long)].to(scored.device), scored):
                raise ValueError(
                    f"Expected {observation_name(j)} to be rows `rows` of the DatasetMarginal; got other values, "
                    f"shape or dtype. Score those rows, or leave rows=None for observations that are not in it."
                )

    def recognised(
        self,
        observations: Sequence[Tensor],
        distributions: Sequence[Distribution],
        particles: Particles,
        *,
        encode: Encode,
        weights: Tensor,
        rows: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Recognised:
        """Encode the data set and put the scored rows, as `check` lets them pass, beside it."""
        device = observations[0].device
        data = [x.to(device) for x in self.observations]
        size = data[0].shape[0]
        if rows is not None:
            rows = rows.to(device, torch.long)
        elif all(_same(a, b) for a, b in zip(data, observations, strict=True)):
            rows = torch.arange(size, device=device)
        encoded = encode(*data)
        bank_weights = self.weights
        if bank_weights is None:
            bank_weights = weights.new_full((size,), 1 / size)
        bank_weights = bank_weights.to(weights)
        known = rows is not None
        if known and self.weights is not None:
            weights = weights * bank_weights[rows]
            weights = weights / weights.sum()
        exact = enumerable(encoded)
        situation: Situation = ("exact" if exact else "exact_sampled") if known else "independent"
        samples = particles.latents[0].shape[0]
        banks = [
            RecognitionJoint(
                encoded,
                recognise(encoded, num_samples=samples, generator=generator),
                weights=bank_weights,
                situation=situation,
            )
            for _ in range(2 if situation == "exact_sampled" else 1)
        ]
        return Recognised(particles, banks[0], rows, weights, banks[1] if len(banks) > 1 else None)


def normalised_weights(weights: Tensor, size: int) -> Tensor:
    """Weights (size,) that sum to one; ValueError for a wrong type or shape, a negative or a non-finite entry."""
    check_tensor("weights", weights)
    good = weights.shape == (size,) and bool(torch.isfinite(weights).all()) and bool((weights >= 0).all())
    if not good or not bool(weights.sum() > 0):
        raise ValueError(
            f"Expected weights of shape ({size},), finite, not negative, with a positive sum; "
            f"got shape {tuple(weights.shape)}."
        )
    return weights / weights.sum()


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b)))
