"""A number in nats that says what it is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from recparam.bounds.influence import OfBank, of_second_order
from recparam.bounds.scalar import Scalar
from recparam.priors import Kind

Of = Literal["elbo", "mi", "log_marginal", "log_prob", "kl", "gap"]
_NAMES = {
    "elbo": "ELBO - const",
    "mi": "MI",
    "log_marginal": "log P(x, x') - const",
    "log_prob": "log P(x, x')",
    "kl": "KL",
    "gap": "ELBO(Q) - ELBO(R)",
}
_SIGNS = {"lower": ">=", "upper": "<=", "exact": "=", "estimate": "~"}
_AT_CEILING = 0.1  # nats per step: the own row then has more than exp(-0.1) = 90 % of its denominator


class CeilingWarning(UserWarning):
    """A value about as large as its bank allows says "more than the bank can show", not "this much"."""


@dataclass(frozen=True)
class Bound(Scalar):
    """A number in nats that says what it is, and is to be maximised.

    It goes where a scalar tensor goes: `f"{bound:.3f}"`, `bound.item()`, `bound - penalty`, `torch.stack([bound])`.
    What is computed from it is a plain tensor, of no kind and with no ceiling.

    Training maximises it: `(-bound).backward()` before an optimiser's step. `bound.backward()` gives the gradient of
    the bound itself, for an optimiser with `maximize=True`.

    Args:
        value: Mean over the scored rows, a scalar; differentiable.
        per_observation: Value of each scored row, shape (B,).
        of: "elbo", "mi", "log_marginal", "log_prob" (const included), "kl" or "gap".
        kind: "lower" or "upper" bound, "exact", or "estimate" (no side holds).
        ceiling: The largest mean value the bank allows, in nats; None where there is no such limit.
        terms: Named means that add up to the value, where it is a sum.
        weights: Weight of each row in the mean, shape (B,), summing to one; None means equal.
        doubt: Why it is an estimate, where the encoder or the scales are not what a direction takes them for: in
            training mode, random, or set by this very call (`recparam.bounds.doubts`); None where nothing is found.
        groups: Number of independent groups of latents in its base (`rp.elbo_of_groups`); None: latents are whole.
            Values with different numbers do not compare.
        of_bank: What the value owes to each row of its bank, or a function that computes it; None: it has no bank.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> z = torch.tensor([[0.0], [1.0]], requires_grad=True)
        >>> bound = rp.infonce(rp.GaussianRBF(lengthscale=1.0), z, z)
        >>> bound
        MI >= 0.219 nats (lower, ceiling 0.693)
        >>> f"{bound:.2f}", -bound
        ('0.22', tensor(-0.2191, grad_fn=<NegBackward0>))
        >>> (-bound).backward()
        >>> z - 0.1 * z.grad  # a step that raises it
        tensor([[-0.0378],
                [ 1.0378]], grad_fn=<SubBackward0>)
    """

    value: Tensor
    per_observation: Tensor
    of: Of
    kind: Kind
    ceiling: float | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    doubt: str | None = None
    groups: int | None = None
    of_bank: Callable[[], OfBank] | OfBank | None = field(default=None, repr=False, compare=False)

    @property
    def standard_error(self) -> float:
        """Standard error over draws of the rows and of their bank, in nats; NaN if one row has all the weight.

        Rows of either are taken to be independent; `recparam.comparison` has intervals for series. With w_i (v_i -
        mean) of a scored row and c_k = d value / d log w_k of a row of the bank, added where they are one row:

            sqrt( sum_i (w_i (v_i - mean) + c_i)^2 / (1 - sum_i w_i^2) + N / (N - 1) sum_k c_k^2 )

        The c_k take one more sweep over the bank, when they are asked for, with the parameters of that moment: ask
        before the model is trained on. Where few rows of the bank count they are made larger
        (`recparam.bounds.influence.of_second_order`); with very few, the error is larger still.
        """
        value_B = self.per_observation.detach().cpu().double()
        weights_B = torch.full_like(value_B, 1 / len(value_B))
        if self.weights is not None:
            weights_B = self.weights.detach().to(value_B)
            weights_B = weights_B / weights_B.sum()  # one of several processes holds its rows' share
        rest = 1 - float(weights_B.square().sum())
        if int((weights_B > 0).sum()) < 2 or rest <= 0:
            return math.nan
        rows_B, others, influence = weights_B * (value_B - (weights_B * value_B).sum()), 0.0, self.influence()
        if influence is not None:
            columns_N, own_B = of_second_order(influence[0].cpu().double()), influence[1]
            if own_B is not None:
                rows_B = rows_B + columns_N[own_B.cpu()]
                columns_N = columns_N.index_fill(0, own_B.cpu(), 0.0)
            others = float(columns_N.square().sum()) * len(columns_N) / max(len(columns_N) - 1, 1)
        return math.sqrt(float(rows_B.square().sum()) / rest + others)

    def influence(self) -> OfBank | None:
        """What the value owes to each row of its bank, d value / d log w_k (N,), and which of them the scored rows are.

        None where there is no bank, or none is known.
        """
        return self.of_bank() if callable(self.of_bank) else self.of_bank

    def settled(self) -> Bound:
        """The same with the influence computed, so that it outlives a change of the parameters."""
        return replace(self, of_bank=self.influence())

    def doubted(self, doubt: str | None) -> Bound:
        """The same; where there is a doubt, as an estimate that names it."""
        return self if doubt is None else replace(self, kind="estimate", doubt=doubt)

    def __str__(self) -> str:
        """One line: quantity, relation, value, kind, ceiling, and what is in doubt."""
        limit = "" if self.ceiling is None else f", ceiling {self.ceiling:.3f}"
        reason = "" if self.doubt is None else f": {self.doubt}"
        name = _NAMES[self.of]
        if self.groups is not None:
            name = name.replace("ELBO", f"ELBO of {self.groups} group{'s' if self.groups > 1 else ''}")
        return f"{name} {_SIGNS[self.kind]} {float(self):.3f} nats ({self.kind}{limit}{reason})"

    __repr__ = __str__


@dataclass(frozen=True)
class MutualInformation:
    """Bounds on the mutual information of the latents, in nats.

    Args:
        lower: A lower bound.
        estimate: The best available number without a side.
        upper: An upper bound, or None: from raw pairs alone, without a known conditional, there is none.
    """

    lower: Bound
    estimate: Bound
    upper: Bound | None


@dataclass(frozen=True)
class Decomposition:
    """The ELBO as mutual information less a divergence; elbo = mi - kl holds between the three values.

    Args:
        elbo: ELBO - const: exact, or an upper bound.
        mi: Mutual information: exact, or a lower bound.
        kl: D_KL(R(z, z') || P(z, z')): exact, or a lower bound (lower MI less upper ELBO).
    """

    elbo: Bound
    mi: Bound
    kl: Bound


def at_ceiling(bound: Bound, *, steps: int = 1) -> bool:
    """Whether a value is within 0.1 nats of its ceiling, for a chain within 0.1 per step that is scored."""
    return bound.ceiling is not None and float(bound) > bound.ceiling - _AT_CEILING * steps


def warn_at_ceiling(
    bound: Bound, *, rows: int, source: str = "batch", steps: int = 1, stacklevel: int = 2
) -> None:
    """Warn where a value sits at its ceiling: within 0.1 nats of it, for a chain within 0.1 per step that is scored.

    The text depends on the rows alone, so that Python's default filter shows it once per line of code.

    Args:
        bound: What was computed.
        rows: Size of the bank that it comes from.
        source: What to enlarge.
        steps: How many steps of the chain have a term, J - 1 for a pair's priors.
        stacklevel: As in `warnings.warn`, of the line to blame.
    """
    if bound.ceiling is None or not at_ceiling(bound, steps=steps):
        return
    warnings.warn(
        f"The {_NAMES[bound.of]} is at its ceiling of {bound.ceiling:.3f} nats, which is all that {rows} rows can "
        f"show. Use a larger {source}: with {math.ceil(math.e * rows)} rows the ceiling is "
        f"{bound.ceiling + steps:.3f} nats.",
        CeilingWarning,
        stacklevel=stacklevel + 1,
    )
