"""The ELBO of a prior of independent groups of latents, each against its own negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from recparam.bounds.bound import Bound, warn_at_ceiling
from recparam.bounds.objectives import elbo
from recparam.couplings import Coupling, Groups
from recparam.marginals.batch import BatchMarginal
from recparam.marginals.points import of_points
from recparam.priors import InfoNCEPrior
from recparam.utils.checks import check_finite


def elbo_of_groups(prior: InfoNCEPrior, *latents: Float[Tensor, "B D"]) -> Bound:
    """The ELBO where the groups of `rp.Groups` are independent a priori: base prod_g R_g(z'_g). See also: Eq. 21.

        log P(z'|z) - log R(z') = sum_g log [f_g(z_g, z'_g) / Z_g(z_g)] - log [R(z') / prod_g R_g(z'_g)]

    Its mean is the InfoNCE of every group, less the total correlation of R. `InfoNCEPrior` has R(z') itself as base
    and B negatives; here negatives are all B^G combinations of the groups' B, at the price of G B, so that the ceiling
    is G log B: after log B is reached there is still something to learn. The total correlation keeps two groups
    from being the same. It is taken as that of a Gaussian with the covariance of all latents, so that the value is an
    estimate, and of groups with a dependence that no correlation shows, too high.

    Args:
        prior: An InfoNCE prior over `rp.Groups` with shared parameters; initialised.
        *latents: z and z', or the latents of windows, each (B, D) from a deterministic encoder; B above D.

    Returns:
        Bound of kind "estimate", in nats; its terms are the groups' bounds and minus the total correlation.

    Raises:
        TypeError: Another prior, or groups with parameters of their own.
        ValueError: Latents that are not finite.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> prior = rp.InfoNCEPrior(rp.Groups(rp.StepLength(1.0, width=0.1), [[0, 1], [2, 3]]))
        >>> bound = rp.elbo_of_groups(prior, z, z + torch.tensor([0.6, 0.8, -1.0, 0.0]))
        >>> print(f"{bound.value:.1f} nats of {bound.ceiling:.1f}, {bound.terms['group 0']:.1f} of group 0")
        5.3 nats of 10.6, 2.6 of group 0
    """
    groups, one = groups_of(prior)
    for number, z in enumerate(latents):
        check_finite(f"the latents at place {number}", z)
    one.initialise(*(z[:, groups[0]] for z in latents))
    of_groups = [of_points(*(z[:, group] for z in latents), bank=BatchMarginal()) for group in groups]
    bounds = [elbo(one, recognised) for recognised in of_groups]
    if not torch.is_grad_enabled():  # not a training step
        for bound, recognised in zip(bounds, of_groups, strict=True):
            warn_at_ceiling(bound, rows=recognised.joint.bank.size, steps=one.scored_steps(len(latents)), stacklevel=3)
    correlation = gaussian_total_correlation(torch.cat(latents), groups)
    return replace(
        bounds[0],
        value=torch.stack([bound.value for bound in bounds]).sum() - correlation,
        per_observation=torch.stack([bound.per_observation for bound in bounds]).sum(0) - correlation,
        kind="estimate",
        ceiling=sum(bound.ceiling or 0.0 for bound in bounds),
        terms={f"group {k}": bound.value for k, bound in enumerate(bounds)} | {"-total correlation": -correlation},
    )


def groups_of(prior: InfoNCEPrior) -> tuple[list[list[int]], InfoNCEPrior]:
    """The latents of each group that a prior speaks of, and the prior of one group.

    Raises:
        TypeError: The coupling is not of groups that share their parameters.
    """
    coupling = prior.coupling
    one = coupling.couplings[0] if isinstance(coupling, Groups) and coupling.shared else None
    if not (isinstance(coupling, Groups) and isinstance(one, Coupling)):
        raise TypeError(
            f"Expected a prior whose coupling is rp.Groups with shared parameters; got {coupling!r}. Wrap the coupling "
            f"of one group, rp.Groups(coupling, [[0, 1], [2, 3]])."
        )
    return coupling.groups, InfoNCEPrior(one)


def gaussian_total_correlation(z: Float[Tensor, "B D"], groups: Sequence[Sequence[int]]) -> Tensor:
    """The total correlation of groups of jointly normal latents, in nats: 1/2 (sum_g log det C_g - log det C).

    Args:
        z: Shape (B, D), from which the covariance C is taken; B above D.
        groups: Dimensions of each; those of none are left out.

    Example:
        >>> import torch
        >>> z = torch.randn(9, 1) * torch.ones(9, 2) + 1e-3 * torch.randn(9, 2)
        >>> bool(gaussian_total_correlation(z, [[0], [1]]) > 3)
        True
    """
    if len(groups) == 1:
        return z.new_zeros(())
    covariance = torch.cov(z.T)
    own = torch.stack([torch.logdet(covariance[list(group)][:, list(group)]) for group in groups])
    every = [d for group in groups for d in group]
    return 0.5 * (own.sum() - torch.logdet(covariance[every][:, every]))
