"""Banks: the encoded rows that stand for R, with who each row is, where it comes from and how old it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from recparam.data.labels import Labels
from recparam.recognition import Particles, recognise

Source = Literal["batch", "data set", "queue", "base"]


@dataclass(frozen=True)
class Queries:
    """Where the scored rows stand to a bank.

    Args:
        own: The bank row of each scored row, shape (A,); None where the bank does not hold them.
        labels: Who the scored rows are.
    """

    own: Tensor | None = None
    labels: Labels | None = None


class Bank:
    """N encoded tuples: recognition distributions and latents, and what is known of each row.

    Args:
        distributions: R_phi(z_j|x_j) for each observation j, batch shape (N,).
        particles: Latents of the rows (S, N, D_j); those of the scored batch itself where the bank is the
            batch, so that a row's own positive is in the bank.
        weights: Weight of each row, shape (N,), summing to one; None means 1/N.
        labels: Who the rows are; None: unknown.
        source: "batch", "data set", "queue", or "base": draws of the base of each observation alone, no pairs.
        exclude_within: Rows of the same session at most this far from a query in time are left out of every
            expectation for it, other than its own row: neighbours in a series are not independent. None: none.
        age: Optimiser steps since each row was encoded, shape (N,); None: encoded just now.

    Raises:
        ValueError: Labels of another length, or `exclude_within` that is negative or without times.
    """

    def __init__(
        self,
        distributions: Sequence[Distribution],
        particles: Particles,
        *,
        weights: Tensor | None = None,
        labels: Labels | None = None,
        source: Source = "batch",
        exclude_within: float | None = None,
        age: Tensor | None = None,
    ) -> None:
        reference = particles.latents[0]
        self.distributions, self.particles = list(distributions), particles
        self.size = reference.shape[1]
        self.equal = weights is None or bool((weights == weights[0]).all())
        self.weights = reference.new_full((self.size,), 1 / self.size) if weights is None else weights
        self.source: Source = source
        self.exclude_within, self.age = exclude_within, age
        if labels is not None and len(labels) != self.size:
            raise ValueError(f"Expected labels of the {self.size} rows; got {len(labels)}.")
        if exclude_within is not None and (labels is None or labels.times is None):
            raise ValueError("Expected times= in the labels, which exclude_within= refers to; got none.")
        self.labels = labels
        if particles.exact:
            # One enumeration per latent, not the joint one: the expectation over z_j needs no other latent.
            singles = [recognise([d]) for d in self.distributions]
            self.latents = [(single.latents[0], single.log_weights) for single in singles]
        else:
            flat = torch.zeros_like(particles.log_weights[:1])
            self.latents = [(latents, flat) for latents in particles.latents]

    @property
    def entropy(self) -> float:
        """Entropy of the row weights in nats: log N for equal weights; the ceiling of self-included bounds."""
        return math.log(self.size) if self.equal else float(torch.special.entr(self.weights.detach()).sum())

    @property
    def dependent(self) -> bool:
        """Whether rows are known not to be independent draws: identities repeat, or sessions with times are series."""
        labels = self.labels
        if self.exclude_within is not None or labels is None:
            return self.exclude_within is not None
        copies = labels.identities is not None and len(labels.identities.unique()) < self.size
        several = labels.sessions is None or len(labels.sessions.unique()) < self.size
        return copies or (labels.times is not None and several)

    def holds_neighbours(self, queries: Queries) -> bool:
        """Whether rows of a query's own session, with times, are left in its expectations by want of a window."""
        of_queries = self._labels_of(queries)
        if self.exclude_within is not None or _both(of_queries, self.labels, "times") is None:
            return False
        sessions = _both(of_queries, self.labels, "sessions")
        if sessions is None:
            return True
        rows, counts = sessions[1].unique(return_counts=True)
        alone = 0 if queries.own is None else 1  # a query's own row is no neighbour
        return bool(torch.isin(sessions[0], rows[counts > alone]).any())

    def reweighted(self, factors: Tensor) -> Bank:
        """The same rows with their weights times these factors, (N,), normalised; differentiable in the factors."""
        found, weights = copy.copy(self), self.weights.detach() * factors
        found.weights, found.equal = weights / weights.sum(), False
        return found

    @property
    def staleness(self) -> float:
        """Mean age of the rows, in optimiser steps; zero for rows encoded just now."""
        return 0.0 if self.age is None else float(self.age.double().mean())

    def __repr__(self) -> str:
        """Size, source and staleness."""
        stale = f", {self.staleness:.1f} steps old on average" if self.age is not None else ""
        return f"Bank({self.size} rows from the {self.source}{stale})"

    def left_out(self, queries: Queries, *, keep_own: bool) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Which rows to leave out besides own ones: maps query and bank indices to a mask, True to leave out.

        Args:
            queries: The scored rows.
            keep_own: Whether a query's own row stays; then rows of its identity do.

        Returns:
            A function of query indices (k,) and bank indices (m,) that returns (k, m), or None if none are.

        Raises:
            ValueError: `exclude_within` is set and the times of the queries are not known.
        """
        own, of_bank, of_queries = queries.own, self.labels, self._labels_of(queries)
        times, sessions, identities = (_both(of_queries, of_bank, name) for name in ("times", "sessions", "identities"))
        if keep_own:
            identities = None
        window = self.exclude_within
        if window is None:
            times = None
        elif times is None:
            raise ValueError("Expected labels= with the times of the scored rows, as exclude_within is set; got none.")
        if times is None and identities is None:
            return None

        def mask(rows: Tensor, columns: Tensor) -> Tensor:
            out = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=rows.device)
            if window is not None and times is not None:
                out = (times[0][rows, None] - times[1][columns]).abs() <= window
                if sessions is not None:
                    out &= sessions[0][rows, None] == sessions[1][columns]
                if own is not None and keep_own:
                    out &= own[rows, None] != columns
            if identities is not None:
                out |= identities[0][rows, None] == identities[1][columns]
            return out

        return mask

    def _labels_of(self, queries: Queries) -> Labels | None:
        """Who the queries are, from their own rows where it is not given."""
        own = queries.own
        if queries.labels is None and own is not None and self.labels is not None:
            return self.labels.map(lambda part: part[own])
        return queries.labels


def _both(queries: Labels | None, bank: Labels | None, name: str) -> tuple[Tensor, Tensor] | None:
    """One kind of label of either side, or None where a side does not have it."""
    of_queries, of_bank = getattr(queries, name, None), getattr(bank, name, None)
    return None if of_queries is None or of_bank is None else (of_queries, of_bank)


def halves_in_turn(count: int) -> Tensor:
    """An order of rows, (count,), whose even places are the first half and whose odd places are the second.

    Two halves of a bank are its even and its odd places (`RecognitionJoint.log_expectation`), and the lower side takes
    them to be independent. Those of a series in order of time are neighbours. With Zhat_1 = (1 + u) Z(z) and
    Zhat_2 = (1 + v) Z(z), a from the one and Zhat from the other, to second order

        E[1 - log a - Zhat / a] = -log Z(z) - Var(u) / 2 + Cov(u, v)

    if rows are stationary and the bank knows nothing of z. So the side is a bound where the means of f over the two
    halves have a correlation of at most 1/2. Neighbours in turn have almost 1. Two contiguous segments of K rows
    whose f have correlations exp(-k / tau) have 1/2 at K = 1.15 tau, less beyond it, and tau / 2 K in the limit. That
    is no proof: what the second order leaves out is small where Z(z) is known well, and a bank shorter than its own
    memory is no sample of R, whichever its halves. Independent rows have no covariance in any order.
    """
    order = torch.empty(count, dtype=torch.long)
    half = (count + 1) // 2
    order[0::2], order[1::2] = torch.arange(half), torch.arange(half, count)
    return order
