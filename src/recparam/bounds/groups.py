"""The ELBO of a prior of independent groups of latents, each against its own negatives."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.bounds.bound import Bound, warn_at_ceiling
from recparam.bounds.doubts import FITTED
from recparam.bounds.influence import summed
from recparam.bounds.objectives import elbo
from recparam.bounds.total_correlation import gaussian_total_correlation as gaussian_total_correlation
from recparam.bounds.total_correlation import log_dependence
from recparam.couplings import Coupling, Groups, chain_steps
from recparam.marginals.batch import BatchMarginal
from recparam.marginals.points import of_points
from recparam.priors import InfoNCEPrior
from recparam.utils.checks import check_finite, check_matrix


def elbo_of_groups(prior: InfoNCEPrior, *latents: Float[Tensor, "B D"]) -> Bound:
    """The ELBO where the groups of `rp.Groups` are independent a priori: base prod_g R_g(z'_g). See also: Eq. 21.

        log P(z'|z) - log R(z') = sum_g log [f_g(z_g, z'_g) / Z_g(z_g)] - log [R(z') / prod_g R_g(z'_g)]

    for a pair, and for longer chains its sum over the steps that the prior scores, each z' with an R(z') of its own.
    Its mean is the InfoNCE of every group, less the total correlation of R(z') at every step. `InfoNCEPrior` has R(z')
    itself as base and B negatives; here negatives are all B^G combinations of the groups' B, at the price of G B, so
    that the ceiling is G log B a step: after log B is reached there is still something to learn. The total correlation
    keeps two groups from being the same. It is taken as that of a normal distribution with the covariance of z', less
    the bias that a finite batch gives it (`gaussian_total_correlation`). So the value is an estimate, and of groups
    with a dependence that no correlation shows, too high. The bias depends on B alone: gradients have no part in it.

    Values under different numbers of groups do not compare, nor do these with `model.elbo`, even where the true ELBO is
    the same: each group's InfoNCE has a ceiling of its own. With several processes the rows are those of all, as with
    `rp.BatchMarginal`.

    Args:
        prior: An InfoNCE prior over `rp.Groups` with shared parameters. In training mode, with gradients, scales that
            wait for data are set from these latents first.
        *latents: z and z', or the latents of windows, each (B, D) from a deterministic encoder. B has to be large
            enough to know the total correlation to half a nat: 10 rows for three groups of two.

    Returns:
        Bound of kind "estimate" with its number of groups, in nats; its terms are the groups' bounds and minus the
        total correlations. The ceiling is one of the mean: a single batch may exceed it by its bias.

    Raises:
        TypeError: Another prior, or groups with parameters of their own.
        ValueError: Latents that do not fit the prior, or too few rows.
        UninitialisedError: A coupling waits for data, and this is no training.
        NonFiniteError: Latents that are not finite, or have no finite total correlation: one is constant, or a
            function of others.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> prior = rp.InfoNCEPrior(rp.Groups(rp.StepLength(1.0, width=0.1), [[0, 1], [2, 3]]))
        >>> bound = rp.elbo_of_groups(prior, z, z + torch.tensor([0.6, 0.8, -1.0, 0.0]))
        >>> bound
        ELBO of 2 groups - const ~ 5.338 nats (estimate, ceiling 10.597)
        >>> {name: f"{term:.2f}" for name, term in bound.terms.items()}
        {'group 0': '2.63', 'group 1': '2.70', '-total correlation': '0.00'}
    """
    groups, one = groups_of(prior)
    for number, z in enumerate(latents):
        check_matrix(f"the latents at place {number}", z)
        check_finite(f"the latents at place {number}", z)
    prior.check_widths([z.shape[1] for z in latents])
    steps = chain_steps(one.coupling, one.first, len(latents))
    fitted = prior.prepare(*latents)
    of_groups = [of_points(*(z[:, group] for z in latents), bank=BatchMarginal()) for group in groups]
    bounds = [elbo(one, recognised) for recognised in of_groups]
    if not torch.is_grad_enabled():
        for bound, recognised in zip(bounds, of_groups, strict=True):
            warn_at_ceiling(bound, rows=recognised.joint.bank.size, steps=len(steps), stacklevel=3)
    shares = torch.stack([bound.per_observation for bound in bounds]).sum(0)
    # At the rows of this process, from those of all.
    banks, own, weights = [r.joint.bank for r in of_groups], of_groups[0].queries.own, of_groups[0].weights
    each = [log_dependence([bank.particles.latents[step.index][0] for bank in banks])[own] for step in steps]
    correlation = torch.stack(each).sum(0).to(torch.promote_types(shares.dtype, torch.float32))
    total = (weights * correlation).sum()
    return replace(
        bounds[0],
        value=torch.stack([bound.value for bound in bounds]).sum() - total,
        per_observation=shares - correlation,
        kind="estimate",
        ceiling=sum(bound.ceiling or 0.0 for bound in bounds),
        terms={f"group {k}": bound.value for k, bound in enumerate(bounds)} | {"-total correlation": -total},
        doubt=FITTED if fitted else bounds[0].doubt,
        groups=len(groups),
        of_bank=summed([(1.0, bound) for bound in bounds]),
    )


def groups_of(prior: InfoNCEPrior) -> tuple[list[list[int]], InfoNCEPrior]:
    """The latents of each group that a prior speaks of, and the prior of one group.

    Raises:
        TypeError: A coupling, or that of the first steps, is not of groups that share their parameters; or the two
            differ in their groups.
    """
    groups, one = _one_of("coupling", prior.coupling)
    if prior.first is None:
        return groups, InfoNCEPrior(one)
    of_first, first = _one_of("coupling first=", prior.first)
    if of_first != groups:
        raise TypeError(f"Expected first= with the groups of the prior's coupling, {groups}; got {of_first}.")
    return groups, InfoNCEPrior(one, first=first)


def _one_of(name: str, coupling: Coupling) -> tuple[list[list[int]], Coupling]:
    one = coupling.couplings[0] if isinstance(coupling, Groups) and coupling.shared else None
    if not (isinstance(coupling, Groups) and isinstance(one, Coupling)):
        raise TypeError(
            f"Expected a prior whose {name} is rp.Groups with shared parameters; got {coupling!r}. Wrap the coupling "
            f"of one group, rp.Groups(coupling, [[0, 1], [2, 3]])."
        )
    return coupling.groups, one
