"""Scores of particles: each row, and each column, is several latents with a term of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.ops.scores import Features, ProductScore, Score, tolerated_in
from recparam.ops.select import logit_blocks


@dataclass(frozen=True)
class ParticleScore:
    """Scores of particles, S latents z_s with terms a_s to a row and T latents z'_t with terms b_t to a column.

        log sum_st exp( score(z_s, z'_t) + a_s + b_t )

    Rows and columns are what `pack_particles` makes of latents and terms. With one latent to a row and a column it is
    the inner score and the two terms, and a matrix product where that is one.

    Args:
        score: Of a latent z and a latent z'.
        rows: Latents per row, S.
        columns: Latents per column, T.

    Example:
        >>> import torch
        >>> from recparam.ops import DotProduct, ParticleScore, pack_particles
        >>> two = pack_particles(torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[0.0], [1.0]]))
        >>> one = pack_particles(torch.ones(1, 1, 1), torch.zeros(1, 1))
        >>> ParticleScore(DotProduct(), rows=2, columns=1)(two, one)  # log(e^0 + e^2)
        tensor([[2.1269]])
    """

    score: Score
    rows: int = 1
    columns: int = 1

    def __call__(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Float[Tensor, "A M"]:
        """Score the particles of every row against those of every column."""
        (z_ASD, a_AS), (bank_MTE, b_MT) = _unpacked(z, self.rows), _unpacked(bank, self.columns)
        if self.rows == self.columns == 1:
            return self.score(z_ASD[:, 0], bank_MTE[:, 0]) + a_AS + b_MT.T
        parts = [
            block.unflatten(1, b_MT.shape).logsumexp(2)
            for block in logit_blocks(
                self.score, z_ASD.flatten(0, 1), bank_MTE.flatten(0, 1), log_weights=b_MT.flatten(), whole=True
            )
        ]
        return (torch.cat(parts).unflatten(0, a_AS.shape) + a_AS[..., None]).logsumexp(1)

    @property
    def tolerated(self) -> float:
        """That of the inner score."""
        return tolerated_in(self.score, torch.float32)

    def features(self, z: Float[Tensor, "A D"], bank: Float[Tensor, "M E"]) -> Features | None:
        """The inner score's features, with the terms as biases; None for more than one latent to a row or column."""
        if self.rows > 1 or self.columns > 1 or not isinstance(self.score, ProductScore):
            return None
        (z_ASD, a_AS), (bank_MTE, b_MT) = _unpacked(z, 1), _unpacked(bank, 1)
        inner = self.score.features(z_ASD[:, 0], bank_MTE[:, 0])
        if inner is None:
            return None
        a, b = a_AS[:, 0], b_MT[:, 0]
        return inner._replace(
            row_bias=a if inner.row_bias is None else inner.row_bias + a,
            column_bias=b if inner.column_bias is None else inner.column_bias + b,
        )


def pack_particles(latents: Float[Tensor, "S A D"], terms: Float[Tensor, "S A"]) -> Float[Tensor, "A K"]:
    """Rows, or columns, of a `ParticleScore`: S latents to each, with terms in nats, as a matrix (A, S (D + 1))."""
    return torch.cat([latents, terms[..., None]], -1).movedim(0, 1).flatten(1)


def _unpacked(packed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Latents (A, S, D) and terms (A, S)."""
    if packed.shape[1] % count or packed.shape[1] <= count:
        raise ValueError(f"Expected rows of {count} latents with a term each; got rows of width {packed.shape[1]}.")
    parts = packed.unflatten(1, (count, -1))
    return parts[..., :-1], parts[..., -1]
