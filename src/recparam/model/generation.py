"""The model as a generator: its density with the constant included, and samples of it by resampling (App. A.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.bounds import Bound
from recparam.utils.checks import check_count


def log_prob(bound: Bound, log_base: Float[Tensor, " B"]) -> Bound:
    """log P(x, x') of log P(x, x') - const and its constant. See also: Eqs. 13, 31, 50.

        log P(x, x') = log R_base(x) + log R_base(x') + log F(x, x')

    Args:
        bound: log P(x, x') - const = log F(x, x'), as `recparam.bounds.log_marginal` gives it.
        log_base: The constant of each row, shape (B,), known exactly.

    Returns:
        Bound of the same kind.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> base = rp.GaussianMixtureBase.fit(torch.linspace(-1, 1, 9)[:, None], components=1)
        >>> marginal = rp.EstimatedMarginal(base, base, generator=torch.Generator().manual_seed(0))
        >>> prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
        >>> model = rp.RPM(rp.Deterministic(torch.nn.Identity()), prior, marginal=marginal)
        >>> x = torch.zeros(1, 1)
        >>> bound = model.log_prob(x, x, side="upper")
        >>> bound.of, bound.kind
        ('log_prob', 'upper')
        >>> torch.allclose(bound.value, 2 * base.log_prob(x) + model.log_marginal(x, x).value)
        True
    """
    const = log_base.to(bound.per_observation)
    weights = torch.full_like(const, 1 / len(const)) if bound.weights is None else bound.weights
    mean = (weights * const).sum()
    return replace(
        bound,
        value=bound.value + mean,
        per_observation=bound.per_observation + const,
        of="log_prob",
        ceiling=None,
        terms={"log_base": mean, "log_F": bound.value},
    )


@dataclass(frozen=True, eq=False)
class Generated:
    """Draws of the model, resampled from independent draws of its bases.

    Args:
        observations: x, x', ..., each (num, ...), rows in correspondence.
        effective_size: (sum_i F_i)^2 / sum_i F_i^2 of the candidates: how many unweighted ones theirs are worth. Draws
            beyond it repeat each other.
        candidates: How many were drawn of the bases.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> normal = lambda n, generator: torch.randn(n, 1, generator=generator)
        >>> generator = torch.Generator().manual_seed(0)
        >>> marginal = rp.EstimatedMarginal(normal, normal, generator=generator)
        >>> prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0))
        >>> model = rp.RPM(rp.Deterministic(torch.nn.Identity()), prior, marginal=marginal)
        >>> drawn = model.sample(500, num_candidates=2000, generator=generator)
        >>> x, x_prime = drawn.observations
        >>> bool(torch.corrcoef(torch.cat([x, x_prime], 1).T)[0, 1] > 0.3)
        True
        >>> 1000 < drawn.effective_size < 2000
        True
    """

    observations: tuple[Tensor, ...]
    effective_size: float
    candidates: int

    def __repr__(self) -> str:
        """Sizes alone."""
        return (
            f"Generated({len(self.observations[0])} draws of {self.candidates} candidates, effective size "
            f"{self.effective_size:.1f})"
        )


def resampled(
    draw: Callable[[int, torch.Generator | None], tuple[Tensor, ...]],
    log_weight: Callable[..., Tensor],
    *,
    num: int,
    num_candidates: int,
    chunk: int,
    generator: torch.Generator | None,
) -> Generated:
    """Sampling-importance-resampling: candidates of a product of bases, drawn again in proportion to F.

    Equation: 9, 10

    The joint P(x|z) P(x'|z') P(z, z') with the likelihoods P(x|z) = R(z|x) R_base(x) / R(z) is the product of the bases
    times F; see `log_prob`.

        (x_i, x'_i) ~ R_base(x) R_base(x'),   P(draw i) = F(x_i, x'_i) / sum_k F(x_k, x'_k)

    Draws follow the model in the limit of many candidates; their error is of order one over the effective size.

    Args:
        draw: Gives n candidates, one tensor per observation.
        log_weight: log F of a batch of candidates, shape (B,).
        num: Draws returned, with replacement.
        num_candidates: Candidates.
        chunk: Candidates weighed together.
        generator: Source of randomness.

    Raises:
        ValueError: A count below one, or no effective sample: every weight is zero, or one is NaN or infinite.
    """
    for name, value in (("num", num), ("num_candidates", num_candidates), ("chunk", chunk)):
        check_count(name, value)
    candidates = draw(num_candidates, generator)
    parts = zip(*(x.split(chunk) for x in candidates), strict=True)
    log_weights = torch.cat([log_weight(*part) for part in parts]).to(candidates[0].device, torch.float64)
    bad = int((log_weights.isnan() | log_weights.isposinf()).sum())
    if bad or bool(log_weights.isneginf().all()):
        got = f"{bad} NaN or infinite weights" if bad else "weight zero for all"
        raise ValueError(
            f"Expected candidates with finite weights F(x, x'), some above zero; got {got} of {num_candidates}, an "
            f"effective sample size of zero. Nothing is sampled: use more num_candidates, bases that cover the data, "
            f"or a model that is not diverged."
        )
    weights = (log_weights - log_weights.max()).exp()
    chosen = torch.multinomial(weights, num, replacement=True, generator=generator)
    effective = float(weights.sum().square() / weights.square().sum())
    return Generated(tuple(x[chosen] for x in candidates), effective, num_candidates)
