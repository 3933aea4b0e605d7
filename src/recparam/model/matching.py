"""Matching: how probably the model pairs each row of x with each row of x', P_ij, and P(j|i)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recparam.marginals import Recognised, Scored
from recparam.marginals.joint import RecognitionJoint, Situation
from recparam.ops import (
    BlockScore,
    ParticleScore,
    Places,
    Score,
    Selected,
    pack_particles,
    pairwise_entropy,
    pairwise_logsumexp,
    pairwise_places,
    pairwise_sample,
    pairwise_scores,
    pairwise_topk,
)
from recparam.ops.score_matrix import row_blocks
from recparam.priors import InfoNCEPrior, OptimalPrior, ParametricPrior, Prior
from recparam.recognition import recognise
from recparam.utils.checks import check_count, check_tensor

_MOST_TERMS = 1 << 32
"""Terms that the optimal prior's R(z, z') may cost: seconds for a thousand rows, minutes at the limit."""


class MatchedPairs(NamedTuple):
    """Draws of (i, j) from P_ij.

    Args:
        rows: The rows i of x, shape (num,).
        columns: The rows j of x' that they are matched with, shape (num,).
    """

    rows: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class Matching:
    """P_ij over the rows i of x and j of x': the model of the data where both have an empirical marginal.

    Equation: 30, 31, 33, 34

        P(x, x') = int dz dz' P(z, z') P(x|z) P(x'|z') = R_base(x) R_base(x') F(x, x')
        P_ij = w_i w'_j F(x_i, x'_j),   P(j|i) = w'_j F(x_i, x'_j) / sum_k w'_k F(x_i, x'_k)

    with weights w of 1/N for equal rows. Under the empirical marginal P places mass on these pairs alone, so that a
    draw of it "matches up" observations, and P(j|i) is the classification that InfoNCE learns. The partner of row i is
    row i of x'. A pairwise score of the latents with a term for each is all that it needs, F never being held as a
    matrix; each method goes through all pairs once, in blocks and without gradients.

    Args:
        score: log F(x_i, x'_j) in nats, of a row of `rows` and one of `columns`.
        rows: What stands for x, shape (B, K): latents and the terms -log Z(z) or -log R(z).
        columns: What stands for x', shape (B, K'): latents and the terms zero or -log R(z').
        weights: w, shape (B,), summing to one.
        weights_prime: w', shape (B,), summing to one.
        kind: "exact" where F is: an exact expectation over latents, R(z), R(z') and Z(z) those of a whole data set
            under the empirical marginal. P_ij then sums to one over the whole data set. "estimate" where R is known
            from a batch, a queue, other data or an older encoder, or latents are drawn.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> x = torch.tensor([[0.0], [1.0], [9.0]])
        >>> prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
        >>> model = rp.RPM(rp.Deterministic(torch.nn.Identity()), prior, marginal=rp.DatasetMarginal(x, x))
        >>> matching = model.match(x, x)
        >>> matching
        Matching(3 x 3 rows, exact)
        >>> matching.top_k(2).log_probs.exp()
        tensor([[6.2246e-01, 3.7754e-01],
                [6.2246e-01, 3.7754e-01],
                [1.0000e+00, 1.2664e-14]])
        >>> round(matching.total, 6)
        1.0
    """

    score: Score
    rows: Tensor
    columns: Tensor
    weights: Tensor
    weights_prime: Tensor
    kind: Literal["exact", "estimate"]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        """Sizes and kind."""
        return f"Matching({len(self.rows)} x {len(self.columns)} rows, {self.kind})"

    def log_f(self, indices: Int[Tensor, "*shape"] | None = None) -> Float[Tensor, "*shape"]:
        """log F(x_i, x'_j): how much likelier the pair is than its rows' independence.

        Equation: 32

            F(x, x') = int dz dz' P(z, z') R_phi(z|x) R_phi(z'|x') / (R(z) R(z')) = E_{R(z|x) R(z'|x')}[exp l(z, z')]

        Of partners it is log P(x, x') less its constant. See also: Eqs. 50, 51.

        Args:
            indices: Rows j of x', one for each row i, shape (B,), or several, shape (B, k); None means partners.

        Returns:
            As the indices, in nats.

        Raises:
            ValueError: Indices of another shape, or outside the rows of x'.
        """
        indices = self._indices(indices)
        flat = indices[:, None] if indices.ndim == 1 else indices
        return pairwise_scores(self.score, self.rows, self.columns, flat).reshape(indices.shape)

    def log_joint(self, indices: Int[Tensor, "*shape"] | None = None) -> Float[Tensor, "*shape"]:
        """log P_ij, in nats. Arguments, shape and errors as in `log_f`."""
        indices = self._indices(indices)
        log_w = self.weights.log()
        return self._log_weighted(indices) + (log_w if indices.ndim == 1 else log_w[:, None])

    def log_prob(self, indices: Int[Tensor, "*shape"] | None = None) -> Float[Tensor, "*shape"]:
        """log P(j|i), in nats; by default the partners'. Arguments, shape and errors as in `log_f`."""
        indices = self._indices(indices)
        log_mass = self._log_mass
        return self._log_weighted(indices) - (log_mass if indices.ndim == 1 else log_mass[:, None])

    @property
    def total(self) -> float:
        """sum_ij P_ij; one where `kind` is "exact" and the rows are the whole data set with its weights.

        Near one for an estimate. With an InfoNCE prior it is one whenever the rows of x' are the bank of Z(z), as those
        of a batch are.
        """
        return float((self.weights.double() * self._log_mass.double().exp()).sum())

    def top_k(self, k: int) -> Selected:
        """The k most probable rows j of x' for each row i.

        Args:
            k: From 1 to the number of rows of x'.

        Returns:
            Indices (B, k), best first, and log P(j|i), shape (B, k), in nats.

        Raises:
            ValueError: k is out of range.
        """
        return pairwise_topk(self.score, self.rows, self.columns, k, log_weights=self._log_weights)

    def places(self, indices: Int[Tensor, " B"] | None = None) -> Places:
        """Where each row's partner stands among the rows of x', the most probable first; see also `retrieval`.

        Args:
            indices: What to look for in place of the partners, shape (B,).

        Returns:
            How many rows of x' are more probable, and how many as probable but for rounding, the partner included.

        Raises:
            ValueError: Indices of another shape, or outside the rows of x'.
        """
        indices = self._indices(indices)
        return pairwise_places(self.score, self.rows, self.columns, indices, log_weights=self._log_weights)

    def entropy(self) -> Float[Tensor, " B"]:
        """Entropy of P(j|i) of each row i, shape (B,), in nats: zero for one candidate, log B for no idea."""
        return pairwise_entropy(self.score, self.rows, self.columns, log_weights=self._log_weights)

    def sample(self, num: int = 1, *, generator: torch.Generator | None = None) -> Selected:
        """Rows j of x' drawn from P(j|i) for each row i, independently and with replacement.

        Args:
            num: Draws per row.
            generator: Source of randomness; None uses torch's global one.

        Returns:
            Indices (B, num), and log P(j|i), shape (B, num), in nats.

        Raises:
            ValueError: num is not a whole number of at least one.
        """
        check_count("num", num)
        return pairwise_sample(
            self.score, self.rows, self.columns, num, log_weights=self._log_weights, generator=generator
        )

    def sample_pairs(self, num: int, *, generator: torch.Generator | None = None) -> MatchedPairs:
        """Pairs (i, j) drawn from P_ij, normalised where it is an estimate: samples of P(x, x') (App. A.1).

        Args:
            num: Pairs.
            generator: Source of randomness; None uses torch's global one.

        Returns:
            Rows of x and of x', each (num,); x[rows], x_prime[columns] are the observations.

        Raises:
            ValueError: num is not a whole number of at least one, or no pair has a probability.
        """
        check_count("num", num)
        log_rows = self.weights.double().log() + self._log_mass.double()
        cumulative = (log_rows - log_rows.amax()).exp().cumsum(0)
        if not bool(cumulative[-1].isfinite()):
            raise ValueError("Expected a pair of positive probability; got F that is zero or overflows in every pair.")
        uniform = torch.rand(num, generator=generator, dtype=torch.float64, device=cumulative.device)
        rows = torch.searchsorted(cumulative, (1 - uniform) * cumulative[-1]).clamp_max(len(self) - 1)
        drawn = pairwise_sample(
            self.score, self.rows[rows], self.columns, 1, log_weights=self._log_weights, generator=generator
        )
        return MatchedPairs(rows, drawn.indices[:, 0])

    @cached_property
    def _log_mass(self) -> Tensor:
        """log sum_j w'_j F(x_i, x'_j), shape (B,)."""
        with torch.no_grad():
            return pairwise_logsumexp(self.score, self.rows, self.columns, log_weights=self.weights_prime.log())

    @property
    def _log_weights(self) -> Tensor | None:
        equal = bool((self.weights_prime == self.weights_prime[0]).all())
        return None if equal else self.weights_prime.log()

    def _log_weighted(self, indices: Tensor) -> Tensor:
        return self.log_f(indices) + self.weights_prime.log()[indices]

    def _indices(self, indices: Tensor | None) -> Tensor:
        if indices is None:
            return torch.arange(len(self), device=self.rows.device)
        check_tensor("indices", indices)
        if indices.ndim not in (1, 2) or len(indices) != len(self) or not indices.numel():
            raise ValueError(
                f"Expected indices of shape ({len(self)},) or ({len(self)}, k); got {tuple(indices.shape)}."
            )
        return indices


def matching_from(prior: Prior, scored: Scored, recognised: Recognised) -> Matching:
    """The matching of encoded rows: exp l as a score of two latents, a term of z and a term of z'.

    Args:
        prior: P(z, z').
        scored: The rows to match, encoded.
        recognised: R beside them.

    Raises:
        ValueError: A prior of another kind, or too many pairs for the optimal one.
    """
    prior.check_widths([z.shape[-1] for z in scored.particles.latents])
    sides: list[tuple[Tensor, Tensor]] = []
    for index, distribution in enumerate(scored.distributions):
        if scored.particles.exact:  # each latent's own values, not those of the pair
            single = recognise([distribution])
            sides.append((single.latents[0], single.log_weights))
        else:
            sides.append((scored.particles.latents[index], scored.particles.log_weights))
    (z, log_p), (z_prime, log_p_prime) = sides
    joint, queries = recognised.joint, recognised.queries
    if isinstance(prior, InfoNCEPrior):
        prior.coupling(z[0, :1], z_prime[0, :1])  # complains of dtypes in the user's words
        score = deepcopy(prior.coupling.score())
        log_p = log_p - joint.log_expectation(1, score, z, queries=queries, pooled=True)
    elif isinstance(prior, ParametricPrior | OptimalPrior):
        log_p = log_p - joint.log_marginal(0, z, queries=queries)
        log_p_prime = log_p_prime - joint.log_marginal(1, z_prime, queries=queries)
        if isinstance(prior, ParametricPrior):
            density = deepcopy(prior).log_prob
            score = BlockScore(lambda a, b: density(a[:, None, :], b[None, :, :]))
        else:
            score, z, z_prime = _tabulated(joint, z, z_prime)
    else:
        raise ValueError(
            f"Expected a prior whose l is a score of two latents and a term of each: rp.InfoNCEPrior, rp.OptimalPrior "
            f"or a ParametricPrior; got {type(prior).__name__}."
        )
    weights = recognised.weights / recognised.weights.sum()
    exact = joint.situation is Situation.EXACT and joint.bank.age is None and recognised.doubt is None
    return Matching(
        ParticleScore(score, len(z), len(z_prime)),
        pack_particles(z, log_p),
        pack_particles(z_prime, log_p_prime),
        weights,
        weights,
        "exact" if exact else "estimate",
    )


def _tabulated(joint: RecognitionJoint, z: Tensor, z_prime: Tensor) -> tuple[Score, Tensor, Tensor]:
    """log R(z, z') of every pair of different latents as a table, and the latents as places in it."""
    if joint.bank.exclude_within is not None:
        raise ValueError(
            "Expected exclude_within=None for the optimal prior, whose R(z, z') of rows i and j has no time of its "
            "own; got a marginal that excludes neighbours."
        )
    (values, place), (values_prime, place_prime) = (
        torch.unique(side.flatten(0, 1), dim=0, return_inverse=True) for side in (z, z_prime)
    )
    count, width, terms = len(values), len(values_prime), max(joint.bank.size, 64)
    if count * width * terms > _MOST_TERMS:
        raise ValueError(
            f"Expected at most {_MOST_TERMS} terms for the optimal prior, whose R(z, z') is a mixture over the bank "
            f"for every pair of latents; got {count} x {width} latents and a bank of {joint.bank.size} rows. Match "
            f"fewer rows or draws, or use rp.InfoNCEPrior(...)."
        )
    blocks: list[Tensor] = []
    for rows in row_blocks(count, width, z.device):
        pairs = values[rows].repeat_interleave(width, 0), values_prime.repeat(rows.stop - rows.start, 1)
        blocks.append(joint.log_joint([side[None] for side in pairs])[0])
    table = torch.cat(blocks).reshape(count, width)
    score = BlockScore(lambda a, b: table[a[:, 0].long()[:, None], b[:, 0].long()])
    dtype = torch.promote_types(z.dtype, torch.float32)
    return score, place.reshape(*z.shape[:2], 1).to(dtype), place_prime.reshape(*z_prime.shape[:2], 1).to(dtype)
