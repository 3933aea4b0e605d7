"""The prior that matches the recognition joint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recparam.marginals import Recognised
from recparam.marginals.joint import Situation
from recparam.priors.base import Kind, Prior, Side, Terms


class OptimalPrior(Prior):
    """The prior that matches the recognition joint, under which ELBO - const is the mutual information.

    Equation: 19

        P*(z, z') = R(z, z'),   l = log R(z, z') - log R(z) - log R(z')
    """

    def formula(self) -> str:
        """P(z, z') = R(z, z')."""
        return "P(z, z') = R(z, z')"

    def kind(self, side: Side, situation: Situation) -> Kind:
        """Exact over the data set; in a batch the side says which mixtures keep their own row."""
        if situation in ("exact", "exact_sampled"):
            return "exact"
        if situation == "independent" and side is not None:
            raise ValueError(
                f"Expected side=None for the optimal prior with a bank without the scored rows; got {side!r}. "
                f"Use marginal=rp.BatchMarginal() for a bound."
            )
        return "estimate" if side is None else side

    def bounded_by_bank(self, side: Side, situation: Situation) -> bool:
        """The mean over the bank's own rows, self-included, is a mutual information of the bank's index."""
        return situation in ("exact", "exact_sampled") or (situation == "batch" and side is None)

    def _density_message(self) -> str:
        return super()._density_message() + (
            " The mutual information itself exists (Eqs. 43-44): model.mutual_information with an InfoNCE prior "
            "bounds it from below."
        )

    def _terms(self, latents: Sequence[Tensor], recognised: Recognised, side: Side) -> Terms:
        joint, queries = recognised.joint, recognised.queries
        in_sample = joint.situation == "batch"
        keep_joint, keep_marginals = not (in_sample and side == "lower"), not (in_sample and side == "upper")
        log_joint = joint.log_joint(latents, queries=queries, keep_own=keep_joint)
        marginals = [joint.log_marginal(j, z, queries=queries, keep_own=keep_marginals) for j, z in enumerate(latents)]
        return Terms.total({"log_joint": log_joint, "minus_log_marginals": -torch.stack(marginals).sum(0)})
