"""The recognition joint R: its marginals R(z_j), its joint density R(z_1..z_J) and expectations under them.

R is made of a bank of encoded observations: the batch being scored (the true-marginal reading of Appendix A)
or a data set (the empirical marginal). A query may be a row of the bank; then its own row is kept or left out,
and which of the two decides the direction of every bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from recparam.marginals.bank import Bank, Queries
from recparam.ops import LeaveOut, OnColumns, Score, SumOfScores, pairwise_contrast, pairwise_logmeanexp
from recparam.ops.stacks import pairwise_infonce_stacked
from recparam.recognition import density_score, gaussian_parameters


class Situation(StrEnum):
    """How the bank relates to the queries."""

    EXACT = "exact"
    """The bank is the whole data set under the empirical base; expectations under R are sums, or closed integrals."""
    EXACT_SAMPLED = "exact_sampled"
    """The same, with latents drawn."""
    BATCH = "batch"
    """The bank holds the queries and is, with them, a sample of the true marginal."""
    INDEPENDENT = "independent"
    """Other data, taken not to hold the queries."""
    QUEUE = "queue"
    """The batch, and rows encoded by earlier states of the encoder."""

    @property
    def empirical(self) -> bool:
        """Whether the bank is the whole data set under the empirical base."""
        return self in (Situation.EXACT, Situation.EXACT_SAMPLED)


_ANY = Queries()

Pairs = Callable[[Tensor, Tensor], Tensor]
"""A score of rows and partners, one by one."""


class _Columns(NamedTuple):
    """Columns (M, E), the bank rows that they are of (M,), and the log of their share in those rows (M,)."""

    values: Tensor
    owner: Tensor
    log_mass: Tensor | None = None


class RecognitionJoint:
    """R(z_1, ..., z_J) as the mixture over a bank of N encoded tuples.

    Args:
        bank: The encoded tuples.
        situation: How the bank relates to the queries.
    """

    def __init__(self, bank: Bank, *, situation: Situation | str = Situation.BATCH) -> None:
        self.bank = bank
        self.situation = Situation(situation)

    @property
    def distributions(self) -> list[Distribution]:
        """R_phi(z_j|x_j) of the bank's rows, for each observation j."""
        return self.bank.distributions

    def log_marginal(
        self, index: int, z: Float[Tensor, "S A D"], *, queries: Queries = _ANY, keep_own: bool = True
    ) -> Float[Tensor, "S A"]:
        """log R(z_j), the mixture of the bank's recognition distributions.

        Equation: 11

            R(z) = int dx R_phi(z|x) R_base(x) = sum_i w_i R_phi(z|x_i)

        Args:
            index: Which observation j, from zero.
            z: Queries (S, A, D_j).
            queries: Where the queries stand to the bank; by default nothing is known of it.
            keep_own: Whether the component of a query's own row stays in the mixture.

        Returns:
            Shape (S, A), in nats. See also: Eqs. 29 and 37.

        Raises:
            DensityError: The recognition model is a Dirac.
        """
        score, bank = density_score(self.distributions[index])
        return self._mean(score, z, self._as_columns(bank), queries, keep_own)

    def log_joint(
        self, latents: Sequence[Tensor], *, queries: Queries = _ANY, keep_own: bool = True
    ) -> Float[Tensor, "S A"]:
        """log R(z_1, ..., z_J), the mixture of products over the bank's tuples.

        Equation: 4

            R(z, z') = int dx dx' R_phi(z|x) R_phi(z'|x') R_base(x, x') = sum_i w_i R(z|x_i) R(z'|x'_i)

        Args:
            latents: Queries, one (S, A, D_j) per observation.
            queries: Where the queries stand to the bank; by default nothing is known of it.
            keep_own: Whether the component of a query's own row stays in the mixture.

        Returns:
            Shape (S, A), in nats.

        Raises:
            DensityError: A recognition model is a Dirac.
            ValueError: The bank holds no pairs.
        """
        if self.bank.source == "base":
            raise ValueError(
                "Expected a bank of pairs for R(z, z') (Eq. 4), as rp.OptimalPrior needs; got an EstimatedMarginal, "
                "whose bases know no pairs. Use marginal=rp.BatchMarginal() or rp.DatasetMarginal(...)."
            )
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
        return self._mean(SumOfScores(parts), joined, self._as_columns(torch.cat(banks, dim=-1)), queries, keep_own)

    def log_expectation(
        self,
        index: int,
        score: Score,
        z: Float[Tensor, "S A D"],
        *,
        queries: Queries = _ANY,
        keep_own: bool = True,
        half: Literal[0, 1] | None = None,
        pooled: bool = False,
    ) -> Float[Tensor, "S A"]:
        """log E_{R(z_j)}[exp score(z, z_j)] over the bank's latents. See also: Eq. 22.

        Args:
            index: Which observation j the expectation is over.
            score: Pairwise score in nats.
            z: Queries (S, A, D).
            queries: Where the queries stand to the bank; by default nothing is known of it.
            keep_own: Whether the latents of a query's own row stay in.
            half: 0 or 1 uses the even or the odd rows of the bank alone, so that the two are independent.
            pooled: Where latents are sampled, whether each query meets all draws of the bank's rows, not only those
                of its own replicate.

        Returns:
            Shape (S, A), in nats.

        Raises:
            ValueError: A query has no bank row left.
        """
        parts = self._columns(index, half, len(z), pooled=pooled)
        return torch.cat([self._mean(score, z[rows], columns, queries, keep_own) for rows, columns in parts])

    def log_integral(
        self,
        index: int,
        score: Score,
        z: Float[Tensor, "S A D"],
        *,
        queries: Queries = _ANY,
        keep_own: bool = True,
        half: Literal[0, 1] | None = None,
    ) -> Float[Tensor, "S A"]:
        """`log_expectation` with the integral over R_phi(z_j|x_m) in the score, which reads (mean, scale) of each row.

        Arguments otherwise, and errors, as there; a ValueError also for latents that are not Gaussian.
        """
        return self._mean(score, z, self._components(index, half), queries, keep_own)

    def log_contrast(
        self,
        indices: Sequence[int],
        score: Score,
        pairs: Pairs,
        z: Float[Tensor, "T S A D"],
        z_own: Float[Tensor, "T S A E"],
        *,
        queries: Queries = _ANY,
        keep_own: bool = True,
        half: Literal[0, 1] | None = None,
        integrated: bool = False,
    ) -> Float[Tensor, "T S A"]:
        """score(z, z_own) - log E_{R(z_j)}[exp score(z, z_j)], both of one sweep.

        Args:
            indices: Which observations j the expectations are over, T of them.
            score: Pairwise score in nats.
            pairs: The same score of rows and partners one by one.
            z: Queries (T, S, A, D).
            z_own: What each query is paired with (T, S, A, E).
            queries: Where the queries stand to the bank.
            keep_own: Whether the latents of a query's own row stay in.
            half: As in `log_expectation`.
            integrated: Whether the score reads (mean, scale), as in `log_integral`.

        Returns:
            Shape (T, S, A), in nats, of the precision that it was formed in.

        Raises:
            ValueError: A query has no bank row left.
        """
        held = None if half is not None or integrated else self._held(indices, z_own, queries)
        # Encoded once more, the bank would keep the gradient that belongs to z_own.
        moved = self.bank.source == "data set" and torch.is_grad_enabled() and z_own.requires_grad
        if held is not None and queries.own is not None and not moved:
            # The positives are then read from the bank: the same values, with the same gradient in the encoder.
            value = pairwise_infonce_stacked(
                score,
                z.flatten(0, 1),
                held,
                positives=queries.own,
                keep_positive=keep_own,
                log_weights=None if self.bank.equal else self.bank.weights.log(),
                leave_out=self._leave_out(queries, keep_own, self._rows(None, like=held), rows=z.shape[2]),
            )
            return value.unflatten(0, z.shape[:2])
        steps: list[Tensor] = []
        for t, index in enumerate(indices):
            whole = [(slice(None), self._components(index, half))] if integrated else None
            parts = whole or self._columns(index, half, z.shape[1])
            values = [
                self._mean(
                    score, z[t, rows], columns, queries, keep_own, pairs=pairs, partners=z_own[t, rows],
                    held=held is not None,
                )
                for rows, columns in parts
            ]  # fmt: skip
            steps.append(torch.cat(values))
        return torch.stack(steps)

    def _held(self, indices: Sequence[int], z_own: Tensor, queries: Queries) -> Tensor | None:
        """The bank's latents (T * S, N, E), if those of the own rows are z_own (T, S, A, E); else None."""
        own, draws = queries.own, z_own.shape[1]
        banked = [self.bank.latents[index][0] for index in indices]
        if own is None or any(len(z_j) not in (1, draws) for z_j in banked):
            return None
        enumerated = self.bank.particles.exact and any(len(z_j) > 1 for z_j in banked)
        if enumerated or not bool((self.bank.weights[own] > 0).all()):
            return None
        each = [z_j.expand(draws, -1, -1) for z_j in banked]
        held = each[0] if len(each) == 1 else torch.cat(each)
        return held if torch.equal(held[:, own], z_own.flatten(0, 1)) else None

    def _columns(
        self, index: int, half: Literal[0, 1] | None, draws: int, *, pooled: bool = False
    ) -> list[tuple[slice, _Columns]]:
        """The bank's latents of one observation as columns, for each part of the queries' draws that meets its own."""
        latents, log_mass = self.bank.latents[index]
        owner = self._rows(half, like=latents)
        if half is not None:
            latents, log_mass = latents[:, owner], log_mass[:, owner]
        if self.bank.particles.exact or pooled:
            flat = None if len(latents) == 1 or not self.bank.particles.exact else log_mass.flatten()
            return [(slice(None), _Columns(latents.flatten(0, 1), owner.repeat(len(latents)), flat))]
        # Sampled: replicate s of the queries meets replicate s of the bank, so each is a plain InfoNCE batch.
        return [(slice(s, s + 1), _Columns(latents[s % len(latents)], owner)) for s in range(draws)]

    def _components(self, index: int, half: Literal[0, 1] | None) -> _Columns:
        """R_phi(z_j|x_m) of the bank's rows as columns (mean, scale)."""
        columns = gaussian_parameters(self.distributions[index])
        owner = self._rows(half, like=columns)
        return _Columns(columns if half is None else columns[owner], owner)

    def _as_columns(self, bank: Tensor) -> _Columns:
        return _Columns(bank, self._rows(None, like=bank))

    def _rows(self, half: Literal[0, 1] | None, *, like: Tensor) -> Int[Tensor, " N"]:
        """Indices of the bank's rows, or of its even or odd ones."""
        rows = torch.arange(self.bank.size, device=like.device)
        if half is None:
            return rows
        if self.bank.size < 4:
            raise ValueError(
                f"Expected a bank of at least 4 observations for side='lower', which splits it; got {self.bank.size}."
            )
        return rows[half::2]

    def _mean(
        self,
        score: Score,
        z: Float[Tensor, "S A D"],
        columns: _Columns,
        queries: Queries,
        keep_own: bool,
        *,
        pairs: Pairs | None = None,
        partners: Float[Tensor, "S A E"] | None = None,
        held: bool = False,
    ) -> Float[Tensor, "S A"]:
        """Log of the mean of exp score over columns, or the score with partners less it; `held` in the own columns."""
        values, owner, log_mass = columns
        log_weights = log_mass
        if not self.bank.equal or log_mass is not None:
            log_weights = (
                self.bank.weights.log()[owner] if log_mass is None else log_mass + self.bank.weights.log()[owner]
            )
        own = None if queries.own is None or keep_own else queries.own.repeat(z.shape[0])
        known: dict[str, Any] = {
            "log_weights": log_weights,
            "leave_out": self._leave_out(queries, keep_own, owner, rows=z.shape[1]),
        }
        owners: dict[str, Any] = {"row_owner": own, "bank_owner": None if own is None else owner}
        rows = z.flatten(0, 1)
        if partners is None or pairs is None:
            out = pairwise_logmeanexp(score, rows, values, **known, **owners)
        else:
            if held and queries.own is not None:
                owners = {"positives": queries.own.repeat(z.shape[0]), "keep_positive": keep_own}
            out = pairwise_contrast(score, pairs, rows, partners.flatten(0, 1), values, **known, **owners)
        return out.reshape(z.shape[:2])

    def _leave_out(self, queries: Queries, keep_own: bool, owner: Tensor, *, rows: int) -> LeaveOut | None:
        mask = self.bank.left_out(queries, keep_own=keep_own)
        if mask is None:
            return None

        def leave_out(chosen: slice) -> Tensor:
            index = torch.arange(chosen.start, chosen.stop, device=owner.device) % rows
            return mask(index, owner)

        return leave_out
