"""A world of finitely many x and z in which every expectation of the paper is a finite sum: the oracle.

Written from the paper's equations alone, as sums over whole tables in float64; nothing here comes from the
library. Tables carry one axis per variable, in the order x_1, ..., x_J, z_1, ..., z_J, and a pair (x, x') is
J = 2. Everything is differentiable, so that gradients can be compared too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


class FiniteWorld:
    """The recognition joint and the models built on it.

    Args:
        base: R_base(x_1, ..., x_J), a table with J axes that sums to one.
        recognition: R_phi(z_j|x_j) for each j, a table (x_j, z_j) whose rows sum to one.
    """

    def __init__(self, base: Tensor, recognition: Sequence[Tensor]) -> None:
        self.base = base
        self.recognition = list(recognition)
        self.count = base.ndim
        self.x_axes = tuple(range(self.count))
        self.z_axes = tuple(range(self.count, 2 * self.count))

    def _place(self, table: Tensor, *axes: int) -> Tensor:
        """Put a table's axes at the given positions of the full (x, z) table; all others have length one."""
        shape = [1] * (2 * self.count)
        for axis, size in zip(axes, table.shape, strict=True):
            shape[axis] = size
        return table.reshape(shape)

    def conditional(self) -> Tensor:
        """prod_j R(z_j|x_j), over all axes."""
        out = torch.ones((1,) * (2 * self.count))
        for j, table in enumerate(self.recognition):
            out = out * self._place(table, j, self.count + j)
        return out

    def everything(self) -> Tensor:
        """R(x, x', z, z') (Eq. 3), over all axes."""
        return self._place(self.base, *self.x_axes) * self.conditional()

    def joint(self) -> Tensor:
        """R(z, z') (Eq. 4), over the z axes."""
        return self.everything().sum(self.x_axes)

    def base_marginal(self, j: int) -> Tensor:
        """R_base(x_j)."""
        others = tuple(axis for axis in self.x_axes if axis != j)
        return self.base.sum(others)

    def marginal(self, j: int) -> Tensor:
        """R(z_j) (Eq. 11): the sum over x_j of R(z_j|x_j) R_base(x_j)."""
        return (self.recognition[j] * self.base_marginal(j)[:, None]).sum(0)

    def product_of_marginals(self) -> Tensor:
        """prod_j R(z_j), over the z axes."""
        out = torch.ones(())
        for j in range(self.count):
            out = out[..., None] * self.marginal(j)
        return out

    def const(self) -> Tensor:
        """log prod_j R_base(x_j) (Eq. 13), over the x axes."""
        out = torch.zeros(())
        for j in range(self.count):
            out = out[..., None] + self.base_marginal(j).log()
        return out

    def mutual_information(self) -> Tensor:
        """E_{R(z,z')} log R(z,z') / (R(z) R(z')) (Eq. 5, second line)."""
        joint = self.joint()
        return _mean_log(joint, joint, self.product_of_marginals()).sum()

    def infonce_prior(self, log_f: Sequence[Tensor]) -> Tensor:
        """P(z) P(z'|z) of Eq. 21, with Z(z) of Eq. 22, one log f table (z_t, z_{t+1}) per step of the chain."""
        prior = self.marginal(0)
        for step, table in enumerate(log_f):
            unnormalised = self.marginal(step + 1) * table.exp()
            normaliser = unnormalised.sum(-1, keepdim=True)
            prior = prior[..., None] * (unnormalised / normaliser)
        return prior

    def likelihood(self) -> Tensor:
        """prod_j P(x_j|z_j) = R(z_j|x_j) R_base(x_j) / R(z_j) (Eq. 10), over all axes."""
        out = torch.ones((1,) * (2 * self.count))
        for j, table in enumerate(self.recognition):
            likelihood = table * self.base_marginal(j)[:, None] / self.marginal(j)
            out = out * self._place(likelihood, j, self.count + j)
        return out

    def model(self, prior: Tensor) -> Tensor:
        """P(x, x', z, z') (Eq. 9) for a prior table over the z axes."""
        return self.likelihood() * self._place(prior, *self.z_axes)

    def evidence(self, prior: Tensor) -> Tensor:
        """P(x, x') (Eq. 48), over the x axes."""
        return self.model(prior).sum(self.z_axes)

    def posterior(self, prior: Tensor) -> Tensor:
        """P(z, z'|x, x'), over all axes."""
        return self.model(prior) / self._place(self.evidence(prior), *self.x_axes)

    def elbo(self, prior: Tensor, q: Tensor | None = None) -> Tensor:
        """E_Q log P(x|z) P(x'|z') P(z, z') / Q (Eq. 1), over the x axes; const included. Q is Eq. 14's if not given."""
        q = self.conditional() if q is None else q
        return _mean_log(q, self.model(prior), q).sum(self.z_axes)

    def gap(self, prior: Tensor, q: Tensor | None = None) -> Tensor:
        """D_KL(Q || P(z, z'|x, x')): what Jensen's inequality gives away in Eq. 1, over the x axes."""
        q = self.conditional() if q is None else q
        return _mean_log(q, q, self.posterior(prior)).sum(self.z_axes)

    def mean_elbo(self, prior: Tensor) -> Tensor:
        """E_{R(z,z')} log P(z,z') / (R(z) R(z')) (Eq. 16 less const)."""
        return (self.joint() * (prior / self.product_of_marginals()).log()).sum()

    def divergence(self, prior: Tensor) -> Tensor:
        """D_KL(R(z,z') || P(z,z')) (Eq. 18)."""
        joint = self.joint()
        return (joint * (joint / prior).log()).sum()

    def infinite_infonce(self, log_f: Tensor) -> Tensor:
        """E log f - E_{R(z)} log E_{R(z')} f (Eq. 24 less const), for a pair."""
        inner = (log_f.exp() * self.marginal(1)).sum(1).log()
        return (self.joint() * log_f).sum() - (self.marginal(0) * inner).sum()

    def finite_infonce(self, log_f: Tensor, negatives: int, constant: float) -> Tensor:
        """I_N (Eq. 6) for a pair, summed over every value of the N negatives."""
        joint, marginal, f = self.joint(), self.marginal(1), log_f.exp()
        total = torch.zeros(())
        for choice in itertools.product(range(len(marginal)), repeat=negatives):
            index = list(choice)
            probability = marginal[index].prod()
            denominator = f + f[:, index].sum(1, keepdim=True)
            total = total + probability * (joint * (f / denominator).log()).sum()
        return total + constant

    def optimal_log_f(self) -> Tensor:
        """log R(z,z') / (R(z) R(z')), at which Eqs. 6-7 are tight."""
        return (self.joint() / self.product_of_marginals()).log()


def random_base(generator: torch.Generator, *sizes: int, empty: int = 0) -> Tensor:
    """A table of unequal probabilities; the first `empty` cells get none, if every x still has some."""
    table = torch.rand(sizes, generator=generator).pow(3) + 0.01
    table.view(-1)[:empty] = 0.0
    return table / table.sum()


def cells(base: Tensor) -> tuple[list[Tensor], Tensor]:
    """All cells of a base table as observations: the indices (N,) of each x_j, and the cells' weights (N,)."""
    index = torch.cartesian_prod(*(torch.arange(size) for size in base.shape))
    return list(index.unbind(1)), base.reshape(-1)


def multisets(size: int, count: int, probabilities: Tensor) -> list[tuple[list[int], float]]:
    """Every unordered sample of `count` cells out of `size`, with its probability under independent draws."""
    out = []
    for choice in itertools.combinations_with_replacement(range(size), count):
        orders = math.factorial(count)
        for cell in set(choice):
            orders //= math.factorial(choice.count(cell))
        out.append((list(choice), orders * float(probabilities[list(choice)].prod())))
    return out


def _mean_log(weight: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """weight * log(numerator / denominator), zero where the weight is (0 log 0 = 0)."""
    weight, numerator, denominator = torch.broadcast_tensors(weight, numerator, denominator)
    one = torch.ones(())
    inside = weight > 0
    ratio = torch.where(inside, numerator, one) / torch.where(inside, denominator, one)
    return torch.where(inside, weight * ratio.log(), torch.zeros(()))
