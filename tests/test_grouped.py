"""Independent groups of latents, each against its own negatives."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import recparam as rp

OBJECTS = ((0, 1), (2, 3), (4, 5))


def test_the_bound_is_against_all_combinations_of_negatives() -> None:
    torch.manual_seed(0)
    prior = rp.InfoNCEPrior(rp.Groups(rp.StepLength(1.0, width=0.7), OBJECTS))
    z, z_prime = torch.randn(2, 9, 6).unbind()
    combined = torch.tensor(list(product(range(9), repeat=3)))  # the row that each object of a negative comes from
    negatives = torch.cat([z_prime[combined[:, g]][:, list(OBJECTS[g])] for g in range(3)], dim=1)
    scores = prior.coupling(z[:, None].expand(9, 729, 6), negatives.expand(9, 729, 6))
    by_hand = (prior.coupling(z, z_prime) - scores.logsumexp(1) + 3 * np.log(9)).mean()
    both = torch.cat([z, z_prime])
    gaussian = MultivariateNormal(torch.zeros(6), torch.cov(both.T))
    alone = [
        MultivariateNormal(torch.zeros(2), torch.cov(both[:, list(group)].T)).entropy() for group in OBJECTS
    ]
    found = rp.elbo_of_groups(prior, z, z_prime)
    torch.testing.assert_close(found.value, by_hand - sum(alone) + gaussian.entropy())
    assert found.ceiling == pytest.approx(3 * np.log(9))
    with pytest.raises(TypeError, match="rp.Groups with shared"):
        rp.elbo_of_groups(rp.InfoNCEPrior(rp.StepLength(1.0)), z, z_prime)
    with pytest.raises(TypeError, match="shared"):
        own = rp.Groups(rp.StepLength(1.0), [[0, 1, 2], [3, 4, 5]], shared=False)
        rp.elbo_of_groups(rp.InfoNCEPrior(own), z, z_prime)
    with pytest.raises(ValueError, match="finite"):
        rp.elbo_of_groups(prior, z * torch.nan, z_prime)


def test_terms_add_up_and_one_group_is_the_usual_bound() -> None:
    torch.manual_seed(0)
    z, z_prime = torch.randn(2, 20, 4).unbind()
    pairs = rp.InfoNCEPrior(rp.Groups(rp.GaussianRBF(lengthscale=1.0), [[0, 2], [1, 3]]))
    bound = rp.elbo_of_groups(pairs, z, z_prime)
    torch.testing.assert_close(torch.stack(list(bound.terms.values())).sum(), bound.value)
    torch.testing.assert_close(bound.per_observation.mean(), bound.value)
    coupling = rp.GaussianRBF(lengthscale=1.0)
    whole = rp.elbo_of_groups(rp.InfoNCEPrior(rp.Groups(coupling, [[0, 1, 2, 3]])), z, z_prime)
    usual = rp.RPM(rp.Deterministic(torch.nn.Identity()), rp.InfoNCEPrior(coupling)).elbo(z, z_prime)
    torch.testing.assert_close(whole.value, usual.value)
    assert whole.kind == "estimate" and whole.ceiling == usual.ceiling


def test_groups_that_are_one_are_pushed_apart() -> None:
    torch.manual_seed(0)
    shared = torch.randn(50, 2)
    z = torch.cat([shared, shared + 0.1 * torch.randn(50, 2)], 1).requires_grad_()
    prior = rp.InfoNCEPrior(rp.Groups(rp.StepLength(1.0, width=1.0), [[0, 1], [2, 3]]))
    bound = rp.elbo_of_groups(prior, z, z)
    (gradient,) = torch.autograd.grad(bound.terms["-total correlation"], z)
    moved = z + 0.01 * gradient
    before, after = (torch.corrcoef(at.T)[0, 2] for at in (z, moved))
    assert before > 0.9 and after < before
