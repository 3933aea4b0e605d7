"""The prior that matches the recognition joint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recparam.marginals import Recognised
from recparam.priors.base import Prior, Terms
from recparam.priors.directions import Side


class OptimalPrior(Prior):
    """The prior that matches the recognition joint, under which ELBO - const is the mutual information.

    Equation: 19

        P*(z, z') = R(z, z'),   l = log R(z, z') - log R(z) - log R(z')
    """

    family = "optimal"

    def formula(self) -> str:
        """P(z, z') = R(z, z')."""
        return "P(z, z') = R(z, z')"

    def _density_message(self) -> str:
        return super()._density_message() + (
            " The mutual information itself exists (Eqs. 43-44): model.mutual_information with an InfoNCE prior "
            "bounds it from below."
        )

    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        joint, queries = recognised.joint, recognised.queries
        own = self.direction(recognised, side).own
        keep_joint, keep_marginals = own != "out of the joint", own != "out of the marginals"
        log_joint = joint.log_joint(latents, queries=queries, keep_own=keep_joint)
        marginals = [joint.log_marginal(j, z, queries=queries, keep_own=keep_marginals) for j, z in enumerate(latents)]
        return Terms.total({"log_joint": log_joint, "minus_log_marginals": -torch.stack(marginals).sum(0)})
